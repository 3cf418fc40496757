"""Tasks of others: what training does with a data set and a model that it does not know."""

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from lmu import LMUFFT
from lmu.models import SequenceClassifier
from lmu.training import run
from lmu.training.config import RunConfig
from lmu.training.data import Description, Part, check_part
from lmu.training.interruption import RunInterruptedError
from lmu.training.module import TrainingDivergedError
from lmu.training.objective import Classification, Kind, Metrics, Regression, objective_of
from lmu.training.recipe import Recipe
from lmu.training.saved import BEST, LAST, CheckpointError, load_checkpoint, load_chosen
from lmu.training.settings import ConfigError, setting, within


@dataclass(frozen=True)
class Waves:
    """Waves of several lengths, of which the mean is to be told, or whether it is high."""

    kind: Kind
    sizes = (60, 20)

    @property
    def description(self) -> Description:
        if self.kind == "classification":
            return Description(self.kind, 2, 2, ("low", "high"), "waves")
        return Description(self.kind, 2, 1, unit="waves")

    def prepare(self) -> None: ...

    def fit_parts(self) -> tuple[Part, Part]:
        return self.draw(60, 0), self.draw(20, 1)

    def test_part(self) -> Part:
        return self.draw(30, 2)

    def draw(self, samples: int, seed: int) -> Part:
        g = torch.Generator().manual_seed(seed)
        lengths = torch.randint(4, 13, (samples,), generator=g)
        level = torch.randn(samples, 1, generator=g)
        x = level[:, None] + 0.1 * torch.randn(samples, 12, 2, generator=g)
        target = (level[:, 0] > 0).long() if self.kind == "classification" else level
        return x, lengths, target


class Mean(nn.Module):
    """A number read from the last state."""

    def __init__(self, layer: LMUFFT) -> None:
        super().__init__()
        self.layer, self.linear = layer, nn.Linear(layer.hidden_size, 1)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.linear(self.dropout(self.layer(x, lengths=lengths)[1]))


@dataclass(frozen=True, kw_only=True)
class WaveConfig(RunConfig):
    units: int = setting(6, "Hidden units.", within(1, 100), section="model")
    kind: str = setting("regression", "Task.", choices=("regression", "classification"))


@dataclass(frozen=True)
class WaveRecipe(Recipe):
    task = "waves"
    config_type = WaveConfig

    config: WaveConfig

    @classmethod
    def of(cls, config: WaveConfig) -> "WaveRecipe":
        return cls(config)

    @property
    def data(self) -> Waves:
        return Waves(self.config.kind)  # pyright: ignore[reportArgumentType]

    def build_model(self) -> nn.Module:
        layer = LMUFFT(2, self.config.units, 4, None, 12.0, return_sequences=False)
        return Mean(layer) if self.config.kind == "regression" else SequenceClassifier(layer, 2)


class OtherRecipe(WaveRecipe):
    task = "others"


SMALL: dict[str, Any] = {"epochs": 4, "batch_size": 16, "learning_rate": 0.02, "accelerator": "cpu"}


def recipe(**settings: Any) -> WaveRecipe:
    return WaveRecipe(WaveConfig(**SMALL | settings))


class StopAt(Callback):
    """Ctrl-C in the third epoch."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.current_epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_a_run_learns_and_is_reported(kind: str, output: Path) -> None:
    result = run.train(recipe(kind=kind, epochs=12), output=output)
    metrics = json.loads((result.folder / "metrics.json").read_text())
    assert metrics == result.metrics
    assert (metrics["test_waves"], metrics["validation_waves"]) == (30, 20)
    assert metrics["config"]["units"] == 6
    with (result.folder / "history.csv").open() as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    if kind == "regression":
        assert metrics["test_rmse"] == pytest.approx(metrics["test_loss"] ** 0.5)
        assert metrics["test_rmse"] < 0.5  # of targets with a deviation of 1
        best = min(rows, key=lambda row: row["val_loss"])
        assert "test_accuracy" not in metrics
    else:
        assert metrics["test_accuracy"] > 0.9
        best = max(rows, key=lambda row: row["val_accuracy"])
        assert "test_rmse" not in metrics
    assert metrics["chosen"] == {"checkpoint": BEST, "epoch": best["epoch"]}
    assert metrics["val_loss"] == best["val_loss"]


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_a_resumed_run_equals_the_uninterrupted_one(kind: str, output: Path) -> None:
    whole = run.train(recipe(kind=kind), output=output)
    with pytest.raises(RunInterruptedError) as error:
        run.train(recipe(kind=kind), output=output, callbacks=[StopAt()])
    path, config = run.resume_config(error.value.folder, WaveRecipe)
    assert config == recipe(kind=kind).config
    resumed = run.train(WaveRecipe(config), output=output, resume=load_checkpoint(path, WaveRecipe))
    for name in (BEST, LAST):
        ours, theirs = (load_checkpoint(r.folder / name, WaveRecipe) for r in (resumed, whole))
        assert ours.state_dict.keys() == theirs.state_dict.keys()
        for key, value in theirs.state_dict.items():
            assert torch.equal(ours.state_dict[key], value), key
    times = {"seconds_per_epoch", "history", "git_commit"}
    assert {k: v for k, v in resumed.metrics.items() if k not in times} == {
        k: v for k, v in whole.metrics.items() if k not in times
    }


def test_a_checkpoint_is_evaluated_and_its_model_predicts(output: Path) -> None:
    result = run.train(recipe(epochs=2), output=output)
    loaded = load_chosen(result.folder, WaveRecipe)
    assert run.evaluate(loaded, loaded.recipe).loss == result.metrics["test_loss"]
    x, lengths, target = loaded.recipe.data.test_part()
    with torch.no_grad():
        error = (loaded.model()(x, lengths) - target).square().mean().item()
    assert error == pytest.approx(result.metrics["test_loss"], rel=1e-5)


def test_a_checkpoint_of_another_task_is_refused(output: Path) -> None:
    result = run.train(recipe(epochs=1), output=output)
    with pytest.raises(CheckpointError, match=r"best\.ckpt is of the task 'waves', not of others"):
        load_chosen(result.folder, OtherRecipe)


def test_early_stopping_of_a_regression_waits_for_a_lower_loss(output: Path) -> None:
    result = run.train(recipe(epochs=50, patience=1, learning_rate=1e-12), output=output)
    assert len(result.metrics["history"]) < 50


def test_a_regression_diverges_in_words(output: Path) -> None:
    with pytest.raises(TrainingDivergedError, match="lower the learning rate"):
        run.train(recipe(learning_rate=1e30), output=output)


def test_labels_of_a_regression_cannot_be_smoothed(output: Path) -> None:
    with pytest.raises(ConfigError, match="no labels to be smoothed") as error:
        run.train(recipe(label_smoothing=0.1), output=output)
    assert error.value.setting == "label_smoothing"
    assert not output.exists()


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_a_model_of_other_outputs_is_told(kind: str, output: Path) -> None:
    class Other(WaveRecipe):
        def build_model(self) -> nn.Module:
            layer = LMUFFT(2, 6, 4, None, 12.0, return_sequences=False)
            return SequenceClassifier(layer, 3)

    with pytest.raises(ValueError, match=r"must give outputs \(16, [12]\) .* got \(16, 3\)"):
        run.train(Other(recipe(kind=kind).config), output=output)


def test_settings_of_a_task_are_checked_like_those_of_every_run() -> None:
    for wrong, says in (
        ({"units": 0}, "at least 1, got 0"),
        ({"units": "6"}, "must be a whole number, got '6'"),
        ({"kind": "ranking"}, "one of regression, classification, got 'ranking'"),
        ({"epochs": 0}, "at least 1, got 0"),
    ):
        with pytest.raises(ConfigError, match=says) as error:
            recipe(**wrong)
        assert error.value.setting == next(iter(wrong))


ONES = torch.ones(3, 5, 1)


@pytest.mark.parametrize(
    ("kind", "part", "says"),
    [
        ("classification", (ONES, torch.zeros(2).long()), "of one number of samples"),
        ("classification", (torch.zeros(2).long(),), "inputs and a target"),
        ("classification", (ONES, torch.zeros(3)), "labels of int64, got torch.float32"),
        ("classification", (ONES, torch.tensor([0, 1, 2])), "labels from 0 to 1, got 0 to 2"),
        ("classification", (ONES, torch.tensor([0, -1, 1])), "labels from 0 to 1, got -1 to 1"),
        ("regression", (ONES, torch.zeros(3).long()), "floating targets, got torch.int64"),
        ("regression", (ONES, torch.tensor([1.0, torch.nan, 1.0])), "1 of 3 samples .* sample 1"),
        ("regression", (ONES * torch.inf, torch.zeros(3)), "3 of 3 samples .* sample 0"),
    ],
)
def test_parts_that_cannot_be_meant(kind: Kind, part: Part, says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=says):
        check_part("train", part, Waves(kind).description)


def test_tallies_of_parts_add_up_to_the_metrics_of_the_whole() -> None:
    logits, labels = torch.randn(40, 3), torch.randint(3, (40,))
    values, truth = torch.randn(40, 2), torch.randn(40, 2)
    for objective, outputs, target in (
        (Classification(3), logits, labels),
        (Regression(), values, truth),
    ):
        loss, tally = 0.0, objective.zero(torch.device("cpu"))
        for part in torch.arange(40).split(13):
            loss += objective.summed(outputs[part], target[part]).item()
            tally = tally + objective.tally(outputs[part], target[part])
        found = objective.metrics(loss, tally)
        kept = [objective.keep(outputs[i], target[i]) for i in torch.arange(40).split(9)]
        assert torch.allclose(objective.collect(kept).double(), tally.double(), rtol=1e-5)
        assert found.loss == pytest.approx(objective.loss(outputs, target).item(), rel=1e-5)
        assert found.samples == 40
    rmse = (values - truth).square().mean().sqrt().item()
    assert found == replace(found, rmse=pytest.approx(rmse, rel=1e-5))
    found = Classification(3).metrics(1.0, Classification(3).tally(logits, labels))
    assert found.accuracy == (logits.argmax(1) == labels).double().mean().item()
    assert Metrics(1.0, 4, rmse=2.0).figures() == {"loss": 1.0, "rmse": 2.0}
    assert objective_of("classification", 3).highest
