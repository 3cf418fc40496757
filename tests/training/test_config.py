import math

import pytest

from lmu.tasks.psmnist.config import PsMNISTConfig
from lmu.training.settings import ConfigError


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("model", "cnn", "lmufft, lmu, deep, lstm, gru, got 'cnn'"),
        ("schedule", "step", "constant, cosine, got 'step'"),
        ("hidden_size", 0, "at least 1, got 0"),
        ("memory_size", -1, "at least 1, got -1"),
        ("epochs", 0, "at least 1, got 0"),
        ("batch_size", 0, "at least 1, got 0"),
        ("limit", 0, "at least 1, got 0"),
        ("num_nodes", 0, "at least 1, got 0"),
        ("patience", -1, "at least 0, got -1"),
        ("theta", 0.0, "positive number, got 0.0"),
        ("theta", math.nan, "positive number, got nan"),
        ("learning_rate", -1.0, "positive number, got -1.0"),
        ("learning_rate", math.inf, "positive number, got inf"),
        ("dropout", 1.0, r"\[0, 1\), got 1.0"),
        ("dropout", -0.5, r"\[0, 1\), got -0.5"),
        ("input_dropout", 1.5, r"\[0, 1\), got 1.5"),
        ("label_smoothing", math.nan, r"\[0, 1\), got nan"),
        ("weight_decay", -0.1, "at least 0, got -0.1"),
        ("input_noise", -0.1, "0 to 1,000, got -0.1"),
        ("hidden_noise", math.nan, "0 to 1,000, got nan"),
        ("layers", 0, "at least 1, got 0"),
        ("gradient_clip", 0.0, "positive number, got 0.0"),
        ("max_seconds", 1e-7, "0.1 to 1e9, got 1e-07"),
        ("seed", -1, "got -1"),
        ("seed", 2**32, "got 4294967296"),
    ],
)
def test_wrong_settings(setting: str, value: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        PsMNISTConfig(**{setting: value})  # pyright: ignore[reportArgumentType]
    assert error.value.setting == setting


def test_early_stopping_needs_validation() -> None:
    with pytest.raises(ConfigError, match="--full-train"):
        PsMNISTConfig(full_train=True, patience=3)


def test_defaults_are_the_published_models() -> None:
    arguments = PsMNISTConfig().model_arguments()
    assert (arguments["hidden_size"], arguments["memory_size"]) == (346, 468)
    assert arguments["dropout"] == 0.5
    assert PsMNISTConfig(model="lmu").model_arguments()["dropout"] == 0.0
    assert PsMNISTConfig(dropout=0.0).model_arguments()["dropout"] == 0.0
