"""Reading the checkpoints of a run, for which Lightning is not needed."""

import zipfile
from dataclasses import dataclass
from os.path import exists, isdir, isfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from lmu import __version__
from lmu.models import SequenceClassifier
from lmu.tasks.psmnist import build_model, check_permutation
from lmu.training.config import RunConfig

LAST = "last.ckpt"
BEST = "best.ckpt"
FORMAT = 1
KEY = "torch_lmu"


class CheckpointError(ValueError):
    """A file is not a checkpoint of ``lmu train``; the message says why."""


@dataclass(frozen=True)
class LoadedCheckpoint:
    """What a checkpoint holds: its path, the run's settings, the pixels' order, the weights."""

    path: Path
    config: RunConfig
    permutation: Tensor
    state_dict: dict[str, Tensor]

    def model(self) -> SequenceClassifier:
        """The trained model, in evaluation mode.

        Raises:
            CheckpointError: The weights are not those of the settings.
        """
        try:
            model = build_model(**self.config.model_arguments())
        except ValueError as error:
            raise CheckpointError(f"{self.path} holds impossible sizes: {error}") from error
        self.fill(model, "model.")
        return model.eval()

    def fill(self, module: nn.Module, prefix: str = "") -> None:
        """Load the weights, without the first part of their names.

        Raises:
            CheckpointError: They are not those of the module.
        """
        weights = {name.removeprefix(prefix): value for name, value in self.state_dict.items()}
        try:
            module.load_state_dict(weights)
        except (RuntimeError, TypeError) as error:
            raise CheckpointError(f"{self.path} holds weights of another model") from error


def resolve_checkpoint(path: Path, preferred: tuple[str, ...]) -> Path:
    """The checkpoint file that ``path``, a file or the folder of a run, stands for.

    Args:
        path: What the user gave.
        preferred: File names to look for in a folder, the first that exists wins.

    Raises:
        CheckpointError: There is no such file.
    """
    if isdir(path):  # False, too, of a name that is too long, or in a folder that is closed to us
        found = [path / name for name in preferred if isfile(path / name)]
        if not found:
            raise CheckpointError(f"{path} holds no checkpoint ({' or '.join(preferred)})")
        return found[0]
    if not isfile(path):
        what = "is not a file" if exists(path) else "does not exist"
        raise CheckpointError(f"{path} {what}: name a checkpoint or the folder of a run")
    return path


def load_checkpoint(path: Path) -> LoadedCheckpoint:
    """Read a checkpoint that ``lmu train`` wrote, without running code that it may contain.

    Raises:
        CheckpointError: The file does not exist or cannot be read, or something else wrote it.
    """
    if not isfile(path):
        raise CheckpointError(f"{path} does not exist")
    foreign = f"{path} is not a checkpoint written by lmu train"
    if not zipfile.is_zipfile(path):  # what torch.load raises for other files has no bounds
        raise CheckpointError(f"{foreign}, or it is damaged")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, UnpicklingError) as error:
        raise CheckpointError(f"{foreign}, or it is damaged") from error
    if not isinstance(content, dict) or not isinstance(content.get(KEY), dict):
        raise CheckpointError(foreign)
    ours = content[KEY]
    if ours.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has the format {ours.get('format')} of torch-lmu {ours.get('version')}; "
            f"this is torch-lmu {__version__}, which reads format {FORMAT}"
        )
    return _loaded(path, content, ours)


def _loaded(path: Path, content: dict[str, Any], ours: dict[str, Any]) -> LoadedCheckpoint:
    try:
        config = RunConfig(**ours["config"])
        permutation, weights = check_permutation(ours["permutation"]), content["state_dict"]
        if not isinstance(weights, dict):
            raise TypeError(f"weights of type {type(weights).__name__}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} holds settings that torch-lmu {__version__} cannot read: {error}"
        ) from error
    return LoadedCheckpoint(path, config, permutation, weights)
