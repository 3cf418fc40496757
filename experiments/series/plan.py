"""Plan of all runs on real series, and their record.

Hyperparameters were chosen by the validation figures, which the record holds beside those of the
test: each model is first trained without the validation part and scored on it, then trained on
everything but the test part and scored once.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from experiments.record import add_row, read_rows
from experiments.series import runs
from experiments.series.data import HORIZON
from experiments.series.figures import draw
from experiments.series.models import NETWORKS
from lmu._extras import require
from lmu.training.pictures import write_figure

NAME = "series"
KINDS = {"data": str, "model": str, "seed": int, "recipe": dict, "test": (int, float)}


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Attributes:
        seeds: Runs of each randomized model, with the seeds 0, 1 and so on.
        epochs: Most epochs of networks, for a trial; those of the recipes if None.
        minirocket: Also run MiniRocket, which compiles for a minute or two.
        data: Names of the data sets, keys of ``NETWORKS``.

    Raises:
        ValueError: There is no such data set.
    """

    seeds: int = 5
    epochs: int | None = None
    minirocket: bool = True
    data: tuple[str, ...] = tuple(NETWORKS)

    def __post_init__(self) -> None:
        if unknown := set(self.data) - set(NETWORKS):
            raise ValueError(
                f"data sets must be among {list(NETWORKS)}, got {', '.join(sorted(unknown))}"
            )


@dataclass(frozen=True)
class Run:
    """A run, which becomes a row of the record.

    Attributes:
        data: Name of the data set.
        model: Name of the model.
        seed: Seed of the run.
        recipe: Other settings of the run.
        work: Computes the row's figures.
    """

    data: str
    model: str
    seed: int
    recipe: dict[str, Any]
    work: Callable[[], dict[str, Any]]

    def row(self) -> dict[str, Any]:
        """Return the entries that identify the run, as read from JSON."""
        row = {"data": self.data, "model": self.model, "seed": self.seed, "recipe": self.recipe}
        return json.loads(json.dumps(row))


def run(settings: Settings, output: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Do the runs that are not in the record, write it after each, and draw the picture.

    Args:
        settings: See :class:`Settings`.
        output: The JSON file; the picture is written beside it.
        say: Called with lines of progress.

    Returns:
        The figures: a row for each data set, model and seed in the file.

    Raises:
        ImportError: A package of the extra ``series`` is not installed.
        ValueError: The file at ``output`` is not a record of this experiment, or holds these runs
            with other settings.
    """
    require("numba", "sklearn", "sktime", "statsmodels", extra="series")
    for one in plan(settings):
        if not _is_among(one, recorded(output), output):
            row = one.row() | one.work()
            say(_in_words(row))
            add_row(output, NAME, asdict(settings), row, KINDS, _key)
    rows = recorded(output)
    write_figure(output.with_suffix(".png"), draw(rows))
    return {"rows": rows}


def recorded(output: Path) -> list[dict[str, Any]]:
    """Read the rows of a file.

    Raises:
        ValueError: The file is not a record of this experiment.
    """
    rows = read_rows(output, NAME, KINDS)
    for row in rows:
        if row["data"] == "sunspots" and not {"by_horizon", "forecasts"} <= row.keys():
            raise ValueError(f"{output} has forecasts without their errors: name another file")
    return rows


def _key(row: dict[str, Any]) -> tuple[str, str, int]:
    return row["data"], row["model"], row["seed"]


def _is_among(run: Run, rows: list[dict[str, Any]], output: Path) -> bool:
    new = run.row()
    same = [row for row in rows if _key(row) == _key(new)]
    if any(row["recipe"] != new["recipe"] for row in same):
        raise ValueError(
            f"{output} holds {run.model} on {run.data} with other settings: name another file, or "
            "delete it"
        )
    return bool(same)


def plan(settings: Settings) -> Iterator[Run]:
    """Iterate over all runs, in the order of the record."""
    for data in settings.data:
        for model, network in NETWORKS[data].items():
            recipe = network.recipe
            if settings.epochs is not None:
                recipe = replace(recipe, epochs=min(settings.epochs, recipe.epochs))
            for seed in range(settings.seeds):
                work = partial(runs.network, data, model, recipe, seed)
                yield Run(data, model, seed, network.arguments | asdict(recipe), work)
        yield from _baselines(data, settings)


def _baselines(data: str, settings: Settings) -> Iterator[Run]:
    if data == "sunspots":
        for model, (_, grid) in runs.REGRESSIONS.items():
            yield Run(data, model, 0, {"tried": grid}, partial(runs.regression, data, model))
        yield Run(data, f"the last {HORIZON} years", 0, {}, partial(runs.repeated, data))
        return
    for seed in range(settings.seeds if settings.minirocket else 0):
        yield Run(data, "MiniRocket", seed, {}, partial(runs.rocket, data, seed))
    yield Run(data, "1-NN DTW", 0, {}, partial(runs.neighbour, data))


def _in_words(row: dict[str, Any]) -> str:
    figures = [
        f"{name} {row[name]:.1f}" if "by_horizon" in row else f"{name} {100 * row[name]:.1f} %"
        for name in ("validation", "test")
    ]
    run = f"{row['data']:<14} {row['model']:<18} {row['seed']}"
    return f"{run}  {', '.join(figures)}  {row['seconds']:.1f} s"
