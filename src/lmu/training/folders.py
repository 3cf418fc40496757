"""Folders of runs: making one, and preparing one for resuming."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from os.path import isfile
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only

from lmu._files import read_json, remove_leftovers, write_whole
from lmu.training.checkpoint import RunCheckpoint
from lmu.training.recipe import Recipe
from lmu.training.saved import (
    BEST,
    LAST,
    PREVIOUS,
    CheckpointError,
    LoadedCheckpoint,
    load_checkpoint,
)
from lmu.training.settings import ConfigError, read_settings

CONFIG = "config.json"


def is_first_process() -> bool:
    """True in the process that writes files."""
    return getattr(rank_zero_only, "rank", 0) == 0


def new_folder(output: Path) -> Path:
    """Make a folder named by the time.

    Raises:
        ConfigError: It cannot be made.
    """
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder, number = output / stamp, 2
    # Only the first process makes the folder; RunCheckpoint sends its name to the others.
    while is_first_process():
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            folder, number = output / f"{stamp}_{number}", number + 1
        except OSError as error:
            raise ConfigError("output", f"the folder {folder} cannot be made: {error}") from error
    return folder


@contextmanager
def removed_if_empty(folder: Path) -> Iterator[None]:
    """Remove the folder if a run fails before it has written anything."""
    try:
        yield
    except BaseException:
        remove_if_empty(folder)
        raise


def remove_if_empty(folder: Path) -> bool:
    """Remove a folder that holds only temporaries of killed processes; True if it did."""
    if not folder.is_dir():
        return False
    remove_leftovers(folder)
    if any(folder.iterdir()):
        return False
    folder.rmdir()
    return True


def has_only_settings(path: Path) -> bool:
    """True if a path is the folder of a run that ended before its first checkpoint."""
    has_checkpoint = any(isfile(path / name) for name in (LAST, PREVIOUS, BEST))
    return not has_checkpoint and isfile(path / CONFIG)


def config_of(folder: Path, kind: type[Recipe]) -> Any:
    """Read the settings in a run's folder, of the class that a task's recipe has.

    Raises:
        CheckpointError: They are damaged.
    """
    try:
        return read_settings(kind.config_type, read_json(folder / CONFIG))
    except ConfigError as error:
        where = "" if error.setting is None else f"{error.setting} "
        raise CheckpointError(f"{folder / CONFIG} has wrong settings: {where}{error}") from error
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def put_in_order(folder: Path, resumed: LoadedCheckpoint[Any] | None) -> None:
    """Prepare a folder for resuming: remove leftovers, replace a damaged last checkpoint.

    Args:
        folder: The run's folder.
        resumed: The checkpoint to continue from; None for the settings alone.

    Raises:
        CheckpointError: The best weights so far are lost.
        WriteError: A file cannot be written, such as on a full disk.
    """
    if not is_first_process():
        return
    remove_leftovers(folder)
    if resumed is None:
        return
    kind = type(resumed.recipe)
    if resumed.best_epoch is not None and not resumed.recipe.config.full_train:
        _check_best(folder, kind, resumed.best_epoch)
    last = folder / LAST
    # Else the damaged one would replace the intact previous one.
    if resumed.path.name == PREVIOUS and not _is_intact(last, kind):
        write_whole(last, resumed.path.read_bytes())


def _check_best(folder: Path, kind: type[Recipe], epoch: int) -> None:
    try:
        load_checkpoint(folder / BEST, kind)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}. It held the best weights so far, of epoch {epoch}, which the run is to "
            "test in the end: train again"
        ) from error


def _is_intact(path: Path, kind: type[Recipe]) -> bool:
    try:
        load_checkpoint(path, kind)
    except CheckpointError:
        return False
    return True


@contextmanager
def resume_errors(
    resumed: LoadedCheckpoint[Any] | None, checkpoint: RunCheckpoint
) -> Iterator[None]:
    """Name the checkpoint in errors of Lightning that cannot continue from it.

    Such a file is intact and has good weights, but another program wrote or changed it.

    Raises:
        CheckpointError: Lightning failed before training began.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        is_own = error.__class__.__module__.startswith("lmu.")
        if resumed is None or checkpoint.has_begun or is_own:
            raise
        raise CheckpointError(
            f"{resumed.path} is not one that training can go on from "
            f"({type(error).__name__}: {error})"
        ) from error
