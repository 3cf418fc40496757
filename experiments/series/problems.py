"""Problems on real series: training part, test part and score."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from experiments.series.data import (
    HORIZON,
    YEARS,
    Recordings,
    accuracy,
    held_out,
    load_recordings,
    normalize,
    rmse,
    sunspots,
    windows,
)
from experiments.series.models import Forecaster
from experiments.series.recipe import Part
from lmu.models import SequenceClassifier
from lmu.training.objective import Classification, Objective, Regression

FOLDS = 5
WINDOW = 66  # years of a network's input: six cycles


@dataclass(frozen=True)
class Split:
    """A training part, a part to score on, and the score.

    Attributes:
        train: Training part.
        test: Part to score on.
        score: Computes figures for the record from answers, ``"score"`` among them.
        source: Arguments of baselines: two :class:`Recordings`; or a series, and the indices of the
            first value to be forecast and after the last.
        truth: Right answers, for baselines.
    """

    train: Part
    test: Part
    score: Callable[[Tensor], dict[str, Any]]
    source: Any
    truth: Tensor


@dataclass(frozen=True)
class Problem:
    """A problem, without its data.

    Attributes:
        features: Numbers at each step.
        outputs: Classes, or values to forecast.
        budget: Number of parameters.
        head: Builds the network of a layer, outputs and dropout.
        objective: Loss of training.
        split: Divides the data: for validation with a seed, for the test with None.
    """

    features: int
    outputs: int
    budget: int
    head: Callable[[nn.Module, int, float], nn.Module]
    objective: Objective
    split: Callable[[int | None], Split]


def split_recordings(name: str, seed: int | None) -> Split:
    """Split off a fifth of the training series by seed; or take the archive's test series."""
    train, test = load_recordings(name, "train"), None
    if seed is None:
        test = load_recordings(name, "test")
    else:
        apart = held_out(train, seed % FOLDS, FOLDS)
        train, test = train.select(~apart), train.select(apart)
    train, test = normalize(train, train), normalize(test, train)

    def score(logits: Tensor) -> dict[str, Any]:
        return {"score": accuracy(logits.argmax(dim=1), test.y)}

    return Split(_part(train), _part(test), score, (train, test), test.y)


def _part(data: Recordings) -> Part:
    return Part(data.x, data.lengths, data.y)


def split_sunspots(seed: int | None) -> Split:
    """Split off forecasts within 1899 to 1953, or for the test within 1954 to 2008.

    The test years have higher cycles than any before: a model that has learned the height of
    earlier cycles forecasts too little, which validation does not show.
    """
    years, counts = sunspots()
    bounds = [int((years < year).sum()) for year in YEARS]
    first, end = bounds if seed is not None else (bounds[1], len(counts))
    # The variance of the number of sunspots grows with it; that of its square root is stable.
    std, mean = torch.std_mean(counts[:first].sqrt())
    scaled = ((counts.sqrt() - mean) / std).float()
    train = windows(scaled, WINDOW, HORIZON, HORIZON, first)
    test = windows(scaled, WINDOW, HORIZON, first, end)
    truth = windows(counts, WINDOW, HORIZON, first, end)

    def score(answers: Tensor) -> dict[str, Any]:
        forecasts = (answers.double() * std + mean).clamp_min(0).square()
        return score_forecasts(forecasts, truth.y)

    train, test = (Part(part.x, part.lengths, part.y) for part in (train, test))
    return Split(train, test, score, (counts, first, end), truth.y)


def score_forecasts(forecasts: Tensor, truth: Tensor) -> dict[str, Any]:
    """Compute errors, also by year ahead, and keep consecutive forecasts (origins, horizon)."""
    errors = rmse(forecasts, truth)
    return {
        "score": errors.square().mean().sqrt().item(),
        "by_horizon": errors.tolist(),
        "forecasts": [[round(value, 1) for value in row] for row in forecasts[::HORIZON].tolist()],
    }


PROBLEMS = {
    "JapaneseVowels": Problem(
        12, 9, 16_000, SequenceClassifier, Classification(9),
        partial(split_recordings, "JapaneseVowels"),
    ),
    "BasicMotions": Problem(
        6, 4, 16_000, SequenceClassifier, Classification(4),
        partial(split_recordings, "BasicMotions"),
    ),
    "sunspots": Problem(1, HORIZON, 3_000, Forecaster, Regression(), split_sunspots),
}  # fmt: skip
