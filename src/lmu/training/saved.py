"""Reading the checkpoints of a run, for which Lightning is not needed."""

from collections.abc import Callable
from dataclasses import dataclass
from os.path import exists, isdir, isfile
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lmu import __version__
from lmu._archive import read_archive
from lmu._arguments import path as path_rule
from lmu.models import SequenceClassifier
from lmu.tasks.psmnist import build_model, check_permutation
from lmu.training.config import ConfigError, RunConfig, read_config

LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"
BEST = "best.ckpt"
FORMAT = 1
KEY = "torch_lmu"
_WRITER = "RunCheckpoint"  # under its class's name Lightning keeps a callback's state


class CheckpointError(ValueError):
    """A file is not a checkpoint of ``lmu train``; the message says why."""


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

    def model(self) -> SequenceClassifier:
        """The trained model, in evaluation mode.

        Raises:
            CheckpointError: The weights are not those of the settings.
        """
        try:
            model = build_model(**self.config.model_arguments())
        except (ValueError, RuntimeError) as error:
            raise CheckpointError(f"{self.path} has settings of no model: {error}") from error
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
        except RuntimeError as error:
            raise CheckpointError(
                f"{self.path} holds weights of another model than its settings describe"
            ) from error


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
    if isdir(path):  # False, too, of a name that is too long, or in a folder that is closed to us
        found = [path / name for name in preferred if isfile(path / name)]
        if not found:
            raise CheckpointError(f"{path} holds no checkpoint ({' or '.join(preferred)})")
        return found[0]
    if not isfile(path):
        what = "is not a file" if exists(path) else "does not exist"
        raise CheckpointError(f"{path} {what}: name a checkpoint or the folder of a run")
    return path


def newest_intact(path: Path, say: Callable[[str], None]) -> LoadedCheckpoint:
    """The checkpoint that a run goes on from: the last one, or if it is damaged the one before.

    Args:
        path: The run's folder, or a checkpoint, which is then the only one looked at.
        say: Is told if it is not the last one.

    Raises:
        CheckpointError: There is none, or none is intact.
    """
    if not isdir(path):
        try:
            return load_checkpoint(resolve_checkpoint(path, ()))
        except CheckpointError as error:
            if path.name != LAST or not isfile(path.with_name(PREVIOUS)):
                raise
            hint = f"{path.parent}, its folder, goes on from {PREVIOUS}, an epoch earlier"
            raise CheckpointError(f"{error}. {hint}") from error
    wrong: list[CheckpointError] = []
    for name in (LAST, PREVIOUS):
        if not isfile(path / name):
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
    path_rule("path", path)
    path = Path(path)
    content = read_content(path)
    ours = content[KEY]
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


def read_content(path: Path) -> dict[str, Any]:
    """The whole content of a checkpoint, of which the outermost entries have been checked.

    Raises:
        CheckpointError: See :func:`load_checkpoint`.
    """
    if not isfile(path):
        raise CheckpointError(f"{path} does not exist")
    foreign = f"{path} is not a checkpoint written by lmu train"
    try:
        content, sealed = read_archive(path)
    except ValueError as error:
        raise CheckpointError(f"{foreign}, or it is damaged: {error}") from error
    ours = content.get(KEY) if isinstance(content, dict) else None
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
    state = callbacks.get(_WRITER) if isinstance(callbacks, dict) else None
    epoch = state.get("best_epoch") if isinstance(state, dict) else None
    return epoch if isinstance(epoch, int) else None
