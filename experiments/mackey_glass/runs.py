"""Runs of the Mackey-Glass experiment: training, testing and recording each model by seed."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import seed_everything
from torch import Tensor

from experiments.mackey_glass.data import MackeyGlass, make_task, nrmse
from experiments.mackey_glass.figures import SHOWN, draw
from experiments.mackey_glass.models import MODELS
from experiments.mackey_glass.recipe import Recipe, predict, train
from experiments.record import add_row, read_rows
from lmu.training.pictures import write_figure

NAME = "mackey-glass"
KINDS = {
    "model": str,
    "seed": int,
    "recipe": dict,
    "series": list,
    "length": int,
    **dict.fromkeys(("val_nrmse", "test_nrmse", "test_nrmse_after_100"), (int, float)),
    "seconds": (int, float),
    "val_history": list,
    "test_by_step": list,
    "prediction": list,
}  # figures of a row that are printed and drawn


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Attributes:
        models: Keys of :data:`~experiments.mackey_glass.models.MODELS`.
        seeds: Runs of each model, with the seeds 0, 1 and so on, of weights and windows.
        epochs: Epochs of training.
        batches: Batches in an epoch.
        series: Numbers of series for training, validation and test.
        length: Steps of each series.

    Raises:
        ValueError: There is no such model, or no run.
    """

    models: tuple[str, ...] = tuple(MODELS)
    seeds: int = 5
    epochs: int = 15
    batches: int = 200
    series: tuple[int, int, int] = (32, 32, 64)
    length: int = 5_000

    def __post_init__(self) -> None:
        if unknown := set(self.models) - set(MODELS):
            raise ValueError(
                f"models must be among {', '.join(MODELS)}, got {', '.join(sorted(unknown))}"
            )
        if min(self.seeds, self.epochs, self.batches) < 1:
            raise ValueError("seeds, epochs and batches must be at least 1")


def run(settings: Settings, output: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Do the runs that are not in the record, write it after each, and draw the picture.

    Args:
        settings: See :class:`Settings`.
        output: The JSON file; the picture is written beside it.
        say: Called with lines of progress.

    Returns:
        The figures: a row for each model and seed in the file.

    Raises:
        KeyboardInterrupt: Ctrl-C; the same call continues from there.
        TrainingDivergedError: A validation error is not finite.
        ValueError: The file at ``output`` is not a record of this experiment, or holds runs with
            other settings.
    """
    _recorded(settings, output)
    task = make_task(series=settings.series, length=settings.length)
    for model in settings.models:
        for seed in range(settings.seeds):
            row = _recorded(settings, output).get((model, seed))
            if row is None:
                row = _start_of_row(settings, model, seed)
                row |= _work(model, seed, _recipe(settings, model), task)
                add_row(output, NAME, asdict(settings), row, KINDS, _key, _in_order)
                say(_in_words(row))
            else:
                say(f"{_in_words(row)} (there already)")
    rows = list(_recorded(settings, output).values())
    write_figure(output.with_suffix(".png"), draw(rows, task))
    return {"rows": rows}


def _recorded(settings: Settings, output: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Read the runs in a file, by model and seed.

    Raises:
        ValueError: It is another file, or holds runs with other settings.
    """
    runs = {}
    for row in read_rows(output, NAME, KINDS):
        begins = {model: _start_of_row(settings, model, row["seed"]) for model in MODELS}
        alike = [model for model, begin in begins.items() if begin.items() <= row.items()]
        if not alike:
            raise ValueError(
                f"{output} holds runs with other settings (of {row['model']}, for one): name "
                "another file, or delete it"
            )
        runs[alike[0], row["seed"]] = row
    return runs


def _key(row: dict[str, Any]) -> tuple[str, int]:
    return row["model"], row["seed"]


def _in_order(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    order = [model.name for model in MODELS.values()]
    return sorted(rows, key=lambda row: (order.index(row["model"]), row["seed"]))


def _recipe(settings: Settings, model: str) -> Recipe:
    return Recipe(MODELS[model].learning_rate, settings.epochs, settings.batches)


def _start_of_row(settings: Settings, model: str, seed: int) -> dict[str, Any]:
    """Return the entries that identify a run."""
    return {
        "model": MODELS[model].name,
        "seed": seed,
        "recipe": asdict(_recipe(settings, model)),
        "series": list(settings.series),
        "length": settings.length,
    }


def _work(model: str, seed: int, recipe: Recipe, task: MackeyGlass) -> dict[str, Any]:
    """Train and test a model."""
    seed_everything(seed, verbose=False)
    network = MODELS[model].build()
    trained = train(network, task, recipe, seed)
    prediction, target = predict(network, task.test.x), task.test.y
    late = min(100, target.shape[1] - 1)
    wrong = (prediction - target).square().mean(dim=(0, 2)) / target.square().mean()
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "best_epoch": 1 + trained.history.index(min(trained.history)),
        "val_nrmse": min(trained.history),
        "test_nrmse": nrmse(prediction, target),
        "test_nrmse_centered": nrmse(prediction, target, centered=True),
        "test_nrmse_after_100": nrmse(prediction[:, late:], target[:, late:]),
        "seconds": trained.seconds,
        "cpu_seconds": trained.cpu_seconds,
        "val_history": trained.history,
        "test_by_step": _rounded(wrong[:100].sqrt()),
        "prediction": _rounded(prediction[0, :SHOWN, 0]),
    }


def _rounded(values: Tensor) -> list[float]:
    return [float(f"{value:.4g}") for value in values.tolist()]


def _in_words(row: dict[str, Any]) -> str:
    return (
        f"{row['model']:<10} {row['seed']}  validation {row['val_nrmse']:.4f}, "
        f"test {row['test_nrmse']:.4f} (after 100 steps {row['test_nrmse_after_100']:.4f})  "
        f"{row['seconds']:.0f} s"
    )
