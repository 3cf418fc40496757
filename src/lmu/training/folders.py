"""Folders of runs: make one, or put one in order before its run goes on."""

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
    """Whether this is the process that writes."""
    return getattr(rank_zero_only, "rank", 0) == 0


def new_folder(output: Path) -> Path:
    """Make a folder that is named by the time.

    Raises:
        ConfigError: It cannot be made.
    """
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder, number = output / stamp, 2
    # Only the first process makes the folder; RunCheckpoint tells the others its name.
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
    """Leave no empty folder behind when a run ends before it has written anything."""
    try:
        yield
    except BaseException:
        remove_if_empty(folder)
        raise


def remove_if_empty(folder: Path) -> bool:
    """Remove a folder that holds nothing but temporaries of killed processes, and tell."""
    if not folder.is_dir():
        return False
    remove_leftovers(folder)
    if any(folder.iterdir()):
        return False
    folder.rmdir()
    return True


def has_only_settings(path: Path) -> bool:
    """Whether a path is the folder of a run that ended before its first checkpoint."""
    held = any(isfile(path / name) for name in (LAST, PREVIOUS, BEST))
    return not held and isfile(path / CONFIG)


def config_of(folder: Path, kind: type[Recipe]) -> Any:
    """The settings that a run's folder holds, of a task's recipe.

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
    """Prepare a folder for going on: no leftovers, and a last checkpoint that can be kept.

    Args:
        folder: The run's.
        resumed: What it goes on from; None from its settings alone.

    Raises:
        CheckpointError: The best weights so far are lost.
        WriteError: The disk is full, for one.
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
    # A damaged one would become the previous one, in the place of the one that is intact.
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
def told_by(resumed: LoadedCheckpoint[Any] | None, checkpoint: RunCheckpoint) -> Iterator[None]:
    """Say which checkpoint it is that Lightning cannot go on from.

    Such a file is intact and has good weights, but something else wrote or changed it.

    Raises:
        CheckpointError: Training has not begun for such a reason.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        ours = error.__class__.__module__.startswith("lmu.")
        if resumed is None or checkpoint.has_begun or ours:
            raise
        raise CheckpointError(
            f"{resumed.path} is not one that training can go on from "
            f"({type(error).__name__}: {error})"
        ) from error
