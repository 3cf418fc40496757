"""Runs of the table's recipes over their seeds."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.psmnist.recipes import RECIPES
from lmu._files import read_json, remove_leftovers, write_json
from lmu.tasks.psmnist.config import PsMNISTConfig
from lmu.tasks.psmnist.run import resume_config, train
from lmu.training.folders import remove_if_empty
from lmu.training.saved import CheckpointError
from lmu.training.settings import ConfigError


def run(
    names: list[str],
    output: Path,
    *,
    seeds: int | None = None,
    console: Console | None = None,
    **changes: Any,
) -> None:
    """Train each model over its seeds, and write ``<name>-seed<n>.json`` for each run.

    A run whose file has the same settings is not repeated, and an interrupted one is continued: its
    folder, with checkpoints and pictures, is ``output/runs/<name>-seed<n>``.

    Args:
        names: Keys of :data:`~experiments.psmnist.recipes.RECIPES`.
        output: Folder of the files.
        seeds: Number of seeds of each model; that of its recipe if None.
        console: Console that shows progress; none if None.
        changes: Fields of :class:`~lmu.tasks.psmnist.config.PsMNISTConfig` that differ from the
            recipes, such as the folder of the data.

    Raises:
        ConfigError: A name is unknown, a setting is out of range, or a file in the folder is the
            result of another recipe.
        DataError: The data are missing or damaged.
        RunInterruptedError: Ctrl-C or a request to terminate.
        TrainingDivergedError: A loss is not finite.
    """
    for name in names:
        if name not in RECIPES:
            raise ConfigError("model", f"must be one of {', '.join(RECIPES)}, got {name!r}")
    remove_leftovers(output)
    for name, config in _runs(names, seeds, changes):
        target = output / f"{name}.json"
        if _is_done(target, config):
            _say(console, f"{name}: there already, in {target}")
            continue
        _say(console, f"{name}")
        metrics = _train(config, output / "runs" / name, console)
        if metrics:  # in the first process
            write_json(target, metrics)
            _say(console, f"{name}: test accuracy {100 * metrics['test_accuracy']:.2f} %")


def _runs(
    names: list[str], seeds: int | None, changes: dict[str, Any]
) -> Iterator[tuple[str, PsMNISTConfig]]:
    for name in names:
        recipe = RECIPES[name]
        for seed in range(recipe.seeds if seeds is None else seeds):
            yield f"{name}-seed{seed}", replace(recipe.config, seed=seed, **changes)


def _train(config: PsMNISTConfig, folder: Path, console: Console | None) -> dict[str, Any]:
    """Train, or continue a run in the folder if its settings are the same."""
    for run in sorted((p for p in folder.glob("*") if p.is_dir()), reverse=True):
        if remove_if_empty(run):  # killed before it wrote its settings
            continue
        try:
            checkpoint, earlier = resume_config(run, partial(_say, console), data=config.data)
        except CheckpointError as error:
            _say(console, f"{error}. It stays as it is, and another run is begun")
            continue
        if earlier.shareable() == config.shareable():
            return train(earlier, resume=checkpoint, console=console).metrics
    return train(config, output=folder, console=console).metrics


def _is_done(path: Path, config: PsMNISTConfig) -> bool:
    """True if the file holds this run.

    Raises:
        ConfigError: It is another file, or holds a run with other settings.
    """
    if not path.is_file():
        return False
    try:
        recorded = read_json(path)["config"]
    except (ValueError, KeyError, TypeError):
        recorded = None
    if recorded != config.shareable() | config.model_arguments():
        raise ConfigError(
            "output", f"{path} is not the result of this recipe: name another folder, or delete it"
        )
    return True


def _say(console: Console | None, line: str) -> None:
    if console is not None:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
