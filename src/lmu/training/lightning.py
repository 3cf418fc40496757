"""Wrappers of Lightning: quiet training, and KeyboardInterrupt on Ctrl-C."""

import logging
import signal
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class Spent(NamedTuple):
    """Cost of training.

    Attributes:
        seconds: Elapsed time.
        cpu_seconds: Processor time of this process.
        steps: Steps of the optimizer.
    """

    seconds: float
    cpu_seconds: float
    steps: int


def fit(
    module: LightningModule,
    batches: Iterable[Any],
    *,
    epochs: int,
    callbacks: Sequence[Callback] = (),
    max_seconds: float | None = None,
) -> Spent:
    """Train on a CPU with gradients clipped to a norm of 1, without writing files.

    Args:
        module: The module to train.
        batches: Batches of an epoch; iterated over once an epoch.
        epochs: Number of epochs.
        callbacks: Lightning callbacks.
        max_seconds: Time after which training stops.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    with quiet_lightning():
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            max_time=None if max_seconds is None else timedelta(seconds=max_seconds),
            gradient_clip_val=1.0,
            limit_val_batches=0,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        start, cpu_start = time.perf_counter(), time.process_time()
        with signals_undone(trainer):
            trainer.fit(module, batches, [])  # else Lightning warns that there is no validation
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return Spent(seconds, cpu_seconds, trainer.global_step)


@contextmanager
def signals_undone(trainer: Trainer) -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C, which Lightning turns into SystemExit.

    Raises:
        KeyboardInterrupt: Ctrl-C, or a request to terminate, then from a SIGTERMException.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored
        raise KeyboardInterrupt from error


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Set numbers below 1e-38 to zero, with which CPUs are much slower.

    The gradient of a recurrent layer's last output decays to them over hundreds of steps. PyTorch's
    threads inherit the setting when the first large operation of the process starts them: enter
    this before.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's tips and notes, but not its warnings."""
    loggers = [logging.getLogger(f"lightning.{name}") for name in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        with warnings.catch_warnings():
            # Lightning itself uses this deprecated class.
            warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
