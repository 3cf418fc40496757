"""Checkpoints of a run: when they are written, and reading them back."""

import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from lmu import __version__
from lmu._arguments import path as path_rule
from lmu._arguments import shown
from lmu.training.config import RunConfig

LAST = "last.ckpt"
BEST = "best.ckpt"
FORMAT = 1
_KEY = "torch_lmu"


class CheckpointError(ValueError):
    """A file is not a checkpoint of ``lmu train``; the message says why."""


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
        checkpoint[_KEY] = {
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


@dataclass(frozen=True)
class LoadedCheckpoint:
    """What a checkpoint holds: its path, the run's settings, the pixels' order, the weights."""

    path: Path
    config: RunConfig
    permutation: Tensor
    state_dict: dict[str, Tensor]


def resolve_checkpoint(path: Path, preferred: tuple[str, ...]) -> Path:
    """The checkpoint file that ``path``, a file or the folder of a run, stands for.

    Args:
        path: What the user gave.
        preferred: File names to look for in a folder, the first that exists wins.

    Raises:
        CheckpointError: There is no such file.
    """
    path_rule("path", path)
    path = Path(path)
    try:
        is_folder = path.is_dir()
    except OSError as error:  # such as a name that is too long
        raise CheckpointError(f"{shown(str(path))} cannot be read: {error.strerror}") from error
    if is_folder:
        found = [path / name for name in preferred if (path / name).is_file()]
        if not found:
            raise CheckpointError(f"{path} holds no checkpoint ({' or '.join(preferred)})")
        return found[0]
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: name a checkpoint or the folder of a run")
    return path


def load_checkpoint(path: Path) -> LoadedCheckpoint:
    """Read a checkpoint that ``lmu train`` wrote, without running code that it may contain.

    Raises:
        CheckpointError: The file does not exist or cannot be read, or something else wrote it.
    """
    path_rule("path", path)
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    foreign = f"{path} is not a checkpoint written by lmu train"
    if not zipfile.is_zipfile(path):  # what torch.load raises for other files has no bounds
        raise CheckpointError(f"{foreign}, or it is damaged")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, UnpicklingError) as error:
        raise CheckpointError(f"{foreign}, or it is damaged") from error
    if not isinstance(content, dict) or _KEY not in content:
        raise CheckpointError(foreign)
    ours = content[_KEY]
    if ours["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has the format {ours['format']} of torch-lmu {ours['version']}; "
            f"this is torch-lmu {__version__}, which reads format {FORMAT}"
        )
    return LoadedCheckpoint(
        path, RunConfig(**ours["config"]), ours["permutation"], content["state_dict"]
    )
