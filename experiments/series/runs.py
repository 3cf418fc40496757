"""Runs on real series: validation and test figures, and times."""

import time
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from experiments.series.baselines import (
    autoregression,
    memory_regression,
    minirocket,
    nearest_neighbour,
    repeat_cycle,
)
from experiments.series.data import HORIZON, Recordings, accuracy
from experiments.series.models import NETWORKS, sized
from experiments.series.problems import FOLDS, PROBLEMS, Split, score_forecasts
from experiments.series.recipe import Recipe
from experiments.series.training import train

REGRESSIONS: dict[str, tuple[Callable[..., Tensor], dict[str, list[Any]]]] = {
    "LMU memory, linear": (
        memory_regression,
        {"order": [*range(4, 31)], "theta": [22, 33, 44, 55, 66, 77, 88], "root": [False, True]},
    ),
    "autoregression": (autoregression, {"order": [*range(1, 41)], "root": [False, True]}),
}


def network(data: str, model: str, recipe: Recipe, seed: int) -> dict[str, Any]:
    """Train a network without the validation part and score it there, then with it and test it."""
    problem, chosen = PROBLEMS[data], NETWORKS[data][model]

    def build(units: int) -> nn.Module:
        layer = chosen.build(problem.features, units, **chosen.arguments)
        return problem.head(layer, problem.outputs, recipe.dropout)

    units = sized(build, problem.budget)

    def figures(split: Split) -> tuple[dict[str, Any], float]:
        fitted, seconds = train(partial(build, units), problem.objective, split.train, recipe, seed)
        with torch.no_grad():
            return split.score(fitted(split.test.x, split.test.lengths)), seconds

    validation, _ = figures(problem.split(seed))
    test, seconds = figures(problem.split(None))
    sizes = {"units": units, "parameters": sum(p.numel() for p in build(units).parameters())}
    return sizes | _row(validation["score"], test, seconds)


def rocket(data: str, seed: int) -> dict[str, Any]:
    """Run MiniRocket, validated on the part that the seed holds out."""
    return _classifier(data, [seed], partial(minirocket, seed=seed))


def neighbour(data: str) -> dict[str, Any]:
    """Run 1-NN DTW, which is deterministic, validated on all parts in turn."""
    return _classifier(data, list(range(FOLDS)), nearest_neighbour)


def _classifier(
    data: str, folds: list[int], answer: Callable[[Recordings, Recordings], Tensor]
) -> dict[str, Any]:
    def score(split: Split) -> float:
        return accuracy(answer(*split.source), split.truth)

    validation = sum(score(PROBLEMS[data].split(fold)) for fold in folds) / len(folds)
    whole = PROBLEMS[data].split(None)
    start = time.perf_counter()
    return _row(validation, {"score": score(whole)}, time.perf_counter() - start)


def regression(data: str, method: str) -> dict[str, Any]:
    """Run the regression with the lowest validation error among those of a method."""
    forecast, grid = REGRESSIONS[method]
    choices = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    source, truth = _years(data, 0)
    errors = [score_forecasts(forecast(*source, **one), truth)["score"] for one in choices]
    best = errors.index(min(errors))
    source, truth = _years(data, None)
    start = time.perf_counter()
    test = score_forecasts(forecast(*source, **choices[best]), truth)
    row = _row(errors[best], test, time.perf_counter() - start)
    outputs = 1 if forecast is autoregression else HORIZON
    return {**choices[best], "parameters": outputs * (choices[best]["order"] + 1)} | row


def repeated(data: str) -> dict[str, Any]:
    """Run the forecast that repeats the last cycle."""
    (validation, test) = (
        score_forecasts(repeat_cycle(*source), truth)
        for source, truth in (_years(data, seed) for seed in (0, None))
    )
    return {"parameters": 0} | _row(validation["score"], test, 0.0)


def _years(data: str, seed: int | None) -> tuple[tuple[Tensor, int, int], Tensor]:
    split = PROBLEMS[data].split(seed)
    return split.source, split.truth


def _row(validation: float, test: dict[str, Any], seconds: float) -> dict[str, Any]:
    score = test.pop("score")
    return {"validation": validation, "test": score, **test, "seconds": seconds}
