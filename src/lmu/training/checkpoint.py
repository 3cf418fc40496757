"""Writing of a run's checkpoints."""

import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lmu import __version__
from lmu._archive import seal
from lmu._files import write_whole
from lmu.training.module import TrainingModule
from lmu.training.recipe import Recipe
from lmu.training.saved import BEST, FORMAT, KEY, LAST, PREVIOUS, read_content


class RunCheckpoint(Checkpoint):
    """Write ``last.ckpt`` before the first step and after each epoch, ``best.ckpt`` at the best.

    The earlier ``last.ckpt`` becomes ``previous.ckpt``. Nothing is written within an epoch: an
    interruption can hit in the middle of a step, when weights and optimizer do not fit together.
    Resuming therefore repeats the interrupted epoch from its beginning, exactly.

    Args:
        folder: The run's folder.
        recipe: Written into them, so that they can be evaluated without the run's folder.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder = folder
        self.recipe = recipe
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.has_begun = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Use the folder of the first process in all."""
        self.folder = trainer.strategy.broadcast(self.folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the state before the first epoch."""
        self.has_begun = True
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.folder / LAST)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last checkpoint, and the best one if the epoch is the best so far."""
        assert isinstance(pl_module, TrainingModule)
        objective = pl_module.objective
        value = trainer.callback_metrics.get(f"val_{objective.monitor}")
        if value is not None and self._is_best(value.item(), objective.highest):
            self.best = value.item()
            self.best_epoch = trainer.current_epoch + 1
            trainer.save_checkpoint(self.folder / BEST)
        trainer.save_checkpoint(self.folder / LAST)

    def _is_best(self, value: float, highest: bool) -> bool:
        if self.best is None:
            return True
        return value > self.best if highest else value < self.best

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the entries that rebuild the model and its data."""
        checkpoint[KEY] = {
            "format": FORMAT,
            "version": __version__,
            "task": self.recipe.task,
            "config": asdict(self.recipe.config),
            **self.recipe.entry(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and its epoch, for a resumed run."""
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value and its epoch."""
        self.best = state_dict["best" if "best" in state_dict else "best_accuracy"]
        self.best_epoch = state_dict["best_epoch"]


class CheckpointFiles(TorchCheckpointIO):
    """Write checkpoints atomically with a checksum, and read them without running code in them.

    Lightning writes its own into the folder of temporary files and moves them, which on another
    file system overwrites the good one piece by piece.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None):
        """Write a file; ``last.ckpt`` keeps the one before."""
        checkpoint[KEY]["sealed"] = True
        content = io.BytesIO()
        torch.save(checkpoint, content)
        path = Path(path)
        previous = path.with_name(PREVIOUS) if path.name == LAST else None
        write_whole(path, seal(content.getvalue()), previous)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a file of this class, on the CPU.

        Raises:
            CheckpointError: See :func:`~lmu.training.saved.load_checkpoint`.
        """
        return read_content(Path(path))
