"""Lightning as all training here uses it: quiet, with its way of ending on Ctrl-C undone."""

import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch import LightningModule, Trainer


def fit(trainer: Trainer, module: LightningModule) -> None:
    """Train, and let Ctrl-C be KeyboardInterrupt, of which Lightning makes SystemExit.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module)
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
