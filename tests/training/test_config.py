import math
from dataclasses import dataclass, fields
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from lmu.cli import app
from lmu.cli._options import of_settings, plain
from lmu.tasks.psmnist.config import PsMNISTConfig
from lmu.training.config import RunConfig
from lmu.training.settings import ConfigError, check_settings, setting, settings_of, within


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


OPTIONS = (
    "--model --hidden-size --memory-size --layers --theta --dropout --input-dropout --input-noise "
    "--hidden-noise --epochs --max-seconds --batch-size --lr --gradient-clip --weight-decay "
    "--label-smoothing --schedule --patience --seed --full-train --limit --data --permutation "
    "--accelerator --devices --num-nodes --strategy --precision --output --resume"
)


def test_the_options_of_the_command_are_the_settings() -> None:
    train: Any = get_command(app)
    command = train.commands["train"].commands["psmnist"]
    names = [name for option in command.params for name in option.opts]
    assert names == OPTIONS.split()
    assert {field.name for field in fields(PsMNISTConfig)} == settings_of(PsMNISTConfig).keys()
    texts = {known.help for known in settings_of(PsMNISTConfig).values()}
    assert texts <= {getattr(option, "help", None) for option in command.params}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    width: int = setting(3, "How wide.", within(1, 9))
    shape: str = setting("round", "Which.", choices=("round", "flat"), section="model")
    deep: bool = setting(False, "Whether.")

    def __post_init__(self) -> None:
        check_settings(self)


def test_a_field_is_all_that_an_option_needs() -> None:
    app = typer.Typer()

    @app.command()
    @of_settings(Sizes)
    def show(context: typer.Context, last: str = "x", **settings: Any) -> None:
        print(list(plain(settings).items()), Sizes(**plain(settings)), last)

    said = CliRunner().invoke(app, ["--shape", "flat", "--deep", "--last", "y"]).output
    assert said.startswith("[('shape', 'flat'), ('width', 3), ('deep', True)]")
    assert said.endswith("Sizes(width=3, shape='flat', deep=True) y\n")
    with pytest.raises(ConfigError, match="at most 9, got 10"):
        Sizes(width=10)


def test_settings_of_every_run_know_no_task() -> None:
    ours = settings_of(RunConfig).keys()
    assert ours < settings_of(PsMNISTConfig).keys()
    assert not ours & {"model", "data", "permutation"}
