"""Checkpoints of a run: when they are written, and reading them back."""

import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn

from lmu import __version__
from lmu._archive import read_archive, seal
from lmu._files import write_whole
from lmu.models import SequenceClassifier
from lmu.tasks.psmnist import build_model, check_permutation
from lmu.training.config import ConfigError, RunConfig, read_config

LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"
BEST = "best.ckpt"
FORMAT = 1
_KEY = "torch_lmu"


class CheckpointError(ValueError):
    """A file is not a checkpoint of ``lmu train``; the message says why."""


class RunCheckpoint(Checkpoint):
    """Write ``last.ckpt`` before the first step and after each epoch, ``best.ckpt`` when it is.

    The ``last.ckpt`` of before becomes ``previous.ckpt``. Only between epochs: an interruption can
    hit in the middle of a step, when weights and optimizer do not fit together. Resuming therefore
    repeats the interrupted epoch from its beginning, exactly.

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
        self.has_begun = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Agree on the folder of the first process."""
        self.folder = trainer.strategy.broadcast(self.folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what the first epoch starts from."""
        self.has_begun = True
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


class CheckpointFiles(TorchCheckpointIO):
    """Checkpoints that are written whole, with a checksum, and read without running their code.

    Lightning's own are written in the folder of temporary files and moved, which on another file
    system is to overwrite the good one bit by bit.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None):
        """Write a file; ``last.ckpt`` keeps the one before."""
        checkpoint[_KEY]["sealed"] = True
        content = io.BytesIO()
        torch.save(checkpoint, content)
        path = Path(path)
        previous = path.with_name(PREVIOUS) if path.name == LAST else None
        write_whole(path, seal(content.getvalue()), previous)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a file of this class, on the CPU.

        Raises:
            CheckpointError: See :func:`load_checkpoint`.
        """
        return _read(Path(path))


@dataclass(frozen=True)
class LoadedCheckpoint:
    """What a checkpoint holds.

    Attributes:
        path: Its file.
        config: The run's settings.
        permutation: The order of the pixels (784,).
        state_dict: The weights.
        best_epoch: The epoch of the run's ``best.ckpt``, counted from 1; None if there is none yet.
    """

    path: Path
    config: RunConfig
    permutation: Tensor
    state_dict: dict[str, Tensor]
    best_epoch: int | None = None

    def fill(self, module: nn.Module, prefix: str = "") -> None:
        """Load the weights into a module, with ``prefix`` taken off their names.

        Raises:
            CheckpointError: They are others than those of the module.
        """
        weights = {k.removeprefix(prefix): v for k, v in self.state_dict.items()}
        try:
            module.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{self.path} does not hold the weights of the model that its settings describe: "
                f"{reason}"
            ) from error

    def model(self) -> SequenceClassifier:
        """The trained model, for use.

        Raises:
            CheckpointError: The weights are not those of the settings.
        """
        try:
            model = build_model(**self.config.model_arguments())
        except (ValueError, RuntimeError) as error:
            raise CheckpointError(f"{self.path} has settings of no model: {error}") from error
        self.fill(model, "model.")
        return model.eval()


def resolve_checkpoint(path: Path, preferred: tuple[str, ...]) -> Path:
    """The checkpoint file that ``path``, a file or the folder of a run, stands for.

    Args:
        path: What the user gave.
        preferred: File names to look for in a folder, the first that exists wins.

    Raises:
        CheckpointError: There is no such file.
    """
    if path.is_dir():
        found = [path / name for name in preferred if (path / name).is_file()]
        if not found:
            raise CheckpointError(f"{path} holds no checkpoint ({' or '.join(preferred)})")
        return found[0]
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: name a checkpoint or the folder of a run")
    return path


def newest_intact(path: Path, say: Callable[[str], None]) -> LoadedCheckpoint:
    """The checkpoint that a run goes on from: the last one, or if it is damaged the one before.

    Args:
        path: The run's folder, or a checkpoint, which is then the only one looked at.
        say: Is told if it is not the last one.

    Raises:
        CheckpointError: There is none, or none is intact.
    """
    if not path.is_dir():
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            if path.name != LAST or not path.with_name(PREVIOUS).is_file():
                raise
            hint = f"{path.parent}, its folder, goes on from {PREVIOUS}, an epoch earlier"
            raise CheckpointError(f"{error}. {hint}") from error
    wrong: list[CheckpointError] = []
    for name in (LAST, PREVIOUS):
        if not (path / name).is_file():
            continue
        try:
            loaded = load_checkpoint(path / name)
        except CheckpointError as error:
            wrong.append(error)
            continue
        if name == PREVIOUS:
            why = str(wrong[0]) if wrong else f"{path / LAST} is not there"
            say(f"{why}. Going on from {name}, an epoch earlier")
        return loaded
    if wrong:
        told = ", and ".join(map(str, wrong))
        raise CheckpointError(f"{told}: there is nothing to go on from, train anew")
    raise CheckpointError(f"{path} holds no checkpoint ({LAST} or {PREVIOUS})")


def load_checkpoint(path: Path) -> LoadedCheckpoint:
    """Read a checkpoint that ``lmu train`` wrote, without running code that it may contain.

    Raises:
        CheckpointError: The file does not exist or cannot be read, it is damaged, or something else
            wrote it.
    """
    content = _read(path)
    ours = content[_KEY]
    try:
        config = read_config(ours["config"])
        permutation = check_permutation(ours["permutation"])
    except KeyError as error:
        raise CheckpointError(f"{path} lacks the entry {error}") from error
    except ConfigError as error:
        where = "" if error.setting is None else f"{error.setting} "
        raise CheckpointError(f"{path} has wrong settings: {where}{error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} has a wrong order of pixels: {error}") from error
    return LoadedCheckpoint(path, config, permutation, content["state_dict"], _best_epoch(content))


def _read(path: Path) -> dict[str, Any]:
    """The whole content of a checkpoint, of which the outermost entries have been checked.

    Raises:
        CheckpointError: See :func:`load_checkpoint`.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    foreign = f"{path} is not a checkpoint written by lmu train"
    try:
        content, sealed = read_archive(path)
    except ValueError as error:
        raise CheckpointError(f"{foreign}, or it is damaged: {error}") from error
    ours = content.get(_KEY) if isinstance(content, dict) else None
    if not isinstance(ours, dict):
        raise CheckpointError(foreign)
    if ours.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has the format {ours.get('format')} of torch-lmu {ours.get('version')}; "
            f"this is torch-lmu {__version__}, which reads format {FORMAT}"
        )
    if ours.get("sealed") and not sealed:
        raise CheckpointError(f"{path} is damaged: its checksum is gone")
    weights = content.get("state_dict")
    if not isinstance(weights, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items()
    ):
        raise CheckpointError(f"{path} holds no weights")
    return content


def _best_epoch(content: dict[str, Any]) -> int | None:
    callbacks = content.get("callbacks")
    state = callbacks.get(RunCheckpoint.__name__) if isinstance(callbacks, dict) else None
    epoch = state.get("best_epoch") if isinstance(state, dict) else None
    return epoch if isinstance(epoch, int) else None
