"""Checkpoints of a run: when they are written."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from lmu import __version__
from lmu.training.config import RunConfig
from lmu.training.saved import (
    BEST,
    FORMAT,
    KEY,
    LAST,
    CheckpointError,
    LoadedCheckpoint,
    load_checkpoint,
    resolve_checkpoint,
)

__all__ = [
    "BEST",
    "FORMAT",
    "LAST",
    "CheckpointError",
    "LoadedCheckpoint",
    "RunCheckpoint",
    "load_checkpoint",
    "resolve_checkpoint",
]


class RunCheckpoint(Checkpoint):
    """Write ``last.ckpt`` before the first step and after each epoch, ``best.ckpt`` when it is.

    Only between epochs: an interruption can hit in the middle of a step, when weights and
    optimizer do not fit together. Resuming therefore repeats the interrupted epoch from its
    beginning, exactly.

    Args:
        folder: Where they go.
        config: Written into them, so that they can be evaluated without the run's folder.
        permutation: Likewise, the order of the pixels (784,).
    """

    def __init__(self, folder: Path, config: RunConfig, permutation: Tensor) -> None:
        self.folder = folder
        self.config = config
        self.permutation = permutation
        self.best_accuracy = -1.0
        self.best_epoch: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Agree on the folder of the first process."""
        self.folder = trainer.strategy.broadcast(self.folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what the first epoch starts from."""
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.folder / LAST)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last checkpoint, and the best one if this is it."""
        accuracy = trainer.callback_metrics.get("val_accuracy")
        if accuracy is not None and accuracy > self.best_accuracy:
            self.best_accuracy = accuracy.item()
            self.best_epoch = trainer.current_epoch + 1
            trainer.save_checkpoint(self.folder / BEST)
        trainer.save_checkpoint(self.folder / LAST)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what is needed to rebuild the model and its data."""
        checkpoint[KEY] = {
            "format": FORMAT,
            "version": __version__,
            "config": asdict(self.config),
            "permutation": self.permutation,
        }

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must remember."""
        return {"best_accuracy": self.best_accuracy, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember it."""
        self.best_accuracy = state_dict["best_accuracy"]
        self.best_epoch = state_dict["best_epoch"]
