"""Reading of a run's checkpoints, without Lightning."""

from collections.abc import Callable
from dataclasses import dataclass
from os.path import exists, isdir, isfile
from pathlib import Path
from typing import Any, Generic

from torch import Tensor, nn

from lmu import __version__
from lmu._archive import read_archive
from lmu._arguments import path as path_rule
from lmu.training.recipe import R
from lmu.training.settings import ConfigError, read_settings

LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"
BEST = "best.ckpt"
FORMAT = 1
KEY = "torch_lmu"
_WRITER = "RunCheckpoint"  # Lightning stores a callback's state by its class's name


class CheckpointError(ValueError):
    """A file is not a checkpoint of ``lmu train``; the message says why."""


@dataclass(frozen=True)
class LoadedCheckpoint(Generic[R]):
    """Content of a checkpoint.

    Attributes:
        path: Path of the file.
        recipe: Recipe of the run.
        state_dict: The weights.
        best_epoch: The epoch of the run's ``best.ckpt``, counted from 1; None if there is none yet.
    """

    path: Path
    recipe: R
    state_dict: dict[str, Tensor]
    best_epoch: int | None = None

    def model(self) -> Any:
        """Build the trained model, in evaluation mode.

        Raises:
            CheckpointError: The weights are not those of the settings.
        """
        try:
            model = self.recipe.build_model()
        except ConfigError as error:
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
    """Return the checkpoint file of ``path``, a file or the folder of a run.

    Args:
        path: The file or folder.
        preferred: Names of files in a folder, of which the first that exists is taken.

    Raises:
        CheckpointError: There is no such file.
    """
    path_rule("path", path)
    path = Path(path)
    if isdir(path):  # also False for names that are too long, and without access
        present = [path / name for name in preferred if isfile(path / name)]
        if not present:
            raise CheckpointError(f"{path} holds no checkpoint ({' or '.join(preferred)})")
        return present[0]
    if not isfile(path):
        what = "is not a file" if exists(path) else "does not exist"
        raise CheckpointError(f"{path} {what}: name a checkpoint or the folder of a run")
    return path


def newest_intact(path: Path, kind: type[R], say: Callable[[str], None]) -> LoadedCheckpoint[R]:
    """Load the checkpoint to continue from: the last one, or if it is damaged the one before.

    Args:
        path: The run's folder, or a checkpoint, which is then the only one tried.
        kind: Class of the task's recipe.
        say: Called with a message if it is not the last one.

    Raises:
        CheckpointError: There is none, or none is intact.
    """
    if not isdir(path):
        try:
            return load_checkpoint(resolve_checkpoint(path, ()), kind)
        except CheckpointError as error:
            if path.name != LAST or not isfile(path.with_name(PREVIOUS)):
                raise
            hint = f"{path.parent}, its folder, goes on from {PREVIOUS}, an epoch earlier"
            raise CheckpointError(f"{error}. {hint}") from error
    errors: list[CheckpointError] = []
    for name in (LAST, PREVIOUS):
        if not isfile(path / name):
            continue
        try:
            loaded = load_checkpoint(path / name, kind)
        except CheckpointError as error:
            errors.append(error)
            continue
        if name == PREVIOUS:
            why = str(errors[0]) if errors else f"{path / LAST} is not there"
            say(f"{why}. Going on from {name}, an epoch earlier")
        return loaded
    if errors:
        reasons = ", and ".join(map(str, errors))
        raise CheckpointError(f"{reasons}: there is nothing to go on from, train again")
    raise CheckpointError(f"{path} holds no checkpoint ({LAST} or {PREVIOUS})")


def load_chosen(path: Path, kind: type[R]) -> LoadedCheckpoint[R]:
    """Read a checkpoint, or the tested one of a run's folder.

    Raises:
        CheckpointError: See :func:`load_checkpoint`.
    """
    return load_checkpoint(resolve_checkpoint(path, (BEST, LAST)), kind)


def load_checkpoint(path: Path, kind: type[R]) -> LoadedCheckpoint[R]:
    """Read a checkpoint of ``lmu train``, without running code in it.

    Args:
        path: The file.
        kind: Class of the task's recipe.

    Raises:
        CheckpointError: The file does not exist or cannot be read, it is damaged, or another task
            or another program wrote it.
    """
    path_rule("path", path)
    path = Path(path)
    content = read_content(path)
    entry = content[KEY]
    if (task := entry.get("task", kind.task)) != kind.task:
        raise CheckpointError(f"{path} is of the task {task!r}, not of {kind.task}")
    try:
        config = read_settings(kind.config_type, entry["config"])
        recipe = kind.restore(config, entry)
    except KeyError as error:
        raise CheckpointError(f"{path} lacks the entry {error}") from error
    except ConfigError as error:
        where = "" if error.setting is None else f"{error.setting} "
        raise CheckpointError(f"{path} has wrong settings: {where}{error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} has {error}") from error
    return LoadedCheckpoint(path, recipe, content["state_dict"], _best_epoch(content))


def read_content(path: Path) -> dict[str, Any]:
    """Read the whole content of a checkpoint, and check its outermost entries.

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
    entry = content.get(KEY) if isinstance(content, dict) else None
    if not isinstance(entry, dict):
        raise CheckpointError(foreign)
    if entry.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has the format {entry.get('format')} of torch-lmu {entry.get('version')}; "
            f"this is torch-lmu {__version__}, which reads format {FORMAT}"
        )
    if entry.get("sealed") and not sealed:
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
