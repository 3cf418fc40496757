"""Lightning as all training here uses it: quiet, with its way of ending on Ctrl-C undone."""

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
        seconds: Of time.
        cpu_seconds: Of them, those that this process had a processor.
        steps: Of the optimizer.
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
    """Train on a CPU with gradients clipped to a norm of 1, and leave no files.

    Args:
        module: What is trained.
        batches: Batches of an epoch; iterated over once an epoch.
        epochs: Number of epochs.
        callbacks: Lightning callbacks.
        max_seconds: Stop after so long.

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
    """Let Ctrl-C be KeyboardInterrupt, of which Lightning makes SystemExit.

    Raises:
        KeyboardInterrupt: Ctrl-C, or a request to terminate, then of a SIGTERMException.
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
    """Let numbers below 1e-38 be zero, which CPUs else compute much more slowly.

    The gradient of a recurrent layer's last output dies out into them over hundreds of steps.
    PyTorch's other threads take this over from the one that starts them, with the first large
    operation of the process: enter before it.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's tips and notes off the terminal; its warnings stay."""
    loggers = [logging.getLogger(f"lightning.{name}") for name in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        with warnings.catch_warnings():
            # Lightning itself still uses what PyTorch deprecates here.
            warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
