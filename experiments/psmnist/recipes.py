"""Settings and number of runs of each row of the table."""

from dataclasses import dataclass
from typing import Any

from lmu.tasks.psmnist.config import PRESETS, PsMNISTConfig


@dataclass(frozen=True)
class Recipe:
    """Settings and number of runs of a model.

    Attributes:
        config: The settings; each run replaces the seed.
        seeds: Number of runs.
    """

    config: PsMNISTConfig
    seeds: int


def _recipe(seeds: int, model: str, **settings: Any) -> Recipe:
    settings.setdefault("learning_rate", PRESETS[model].learning_rate)
    return Recipe(PsMNISTConfig(model=model, **settings), seeds)


# Chosen on held-out training digits.
_NOISY = {"epochs": 60, "batch_size": 200, "dropout": 0.0, "input_noise": 0.3}
_LMUFFT = {"epochs": 40, "learning_rate": 5e-3, "dropout": 0.2, "input_noise": 0.2}
# For twice the time of lmufft: the batch size and rate with which an LSTM learns most in minutes.
_IN_TIME = {"epochs": 100, "max_seconds": 200, "batch_size": 50, "learning_rate": 4e-3}
_IN_TIME |= {"gradient_clip": 1.0, "schedule": "constant"}
# Names begin with the model's, as in --model; a suffix marks other settings than the default.
RECIPES = {
    "demo": _recipe(5, "lmufft"),  # that of make demo
    "lmufft": _recipe(5, "lmufft", **_LMUFFT),
    "lmufft-full": _recipe(5, "lmufft", full_train=True, **_LMUFFT),  # the papers' protocol
    "lmu": _recipe(1, "lmu", epochs=12, gradient_clip=1.0),
    "deep-1024": _recipe(5, "deep", hidden_size=1024, hidden_noise=0.3, **_NOISY),
    "deep-255": _recipe(5, "deep", hidden_size=255, memory_size=510, hidden_noise=0.2, **_NOISY),
    "lstm": _recipe(1, "lstm", **_IN_TIME),
    "gru": _recipe(1, "gru", **_IN_TIME),
}
