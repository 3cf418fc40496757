import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from rich.console import Console
from typer.testing import CliRunner

from experiments.__main__ import build_app
from experiments.psmnist import runs as psmnist
from experiments.psmnist.recipes import RECIPES, Recipe
from experiments.psmnist.runs import run
from lmu.tasks.psmnist.config import PsMNISTConfig
from lmu.tasks.psmnist.models import build_model
from lmu.training.interruption import RunInterruptedError
from lmu.training.settings import ConfigError

pytestmark = pytest.mark.usefixtures("quick_runs")
TINY = PsMNISTConfig(hidden_size=6, memory_size=5, epochs=2, batch_size=50, limit=100)


class StopAt(Callback):
    """Ctrl-C at the start of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt


RESULTS = sorted((Path(__file__).parents[2] / "results" / "psmnist").glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_committed_results_are_those_of_the_recipes(path):
    name, _, seed = path.stem.rpartition("-seed")
    config = replace(RECIPES[name].config, seed=int(seed))
    assert psmnist._is_done(path, config)


@pytest.fixture
def tiny(monkeypatch):
    """A recipe that takes a second."""
    monkeypatch.setitem(RECIPES, "lmufft", Recipe(TINY, 2))


def test_sizes_are_those_of_the_table():
    sizes = {}
    for name, recipe in RECIPES.items():
        model = build_model(**recipe.config.model_arguments())
        sizes[name] = sum(p.numel() for p in model.parameters())
    assert sizes["lmufft"] == 166_092
    assert sizes["lmu"] == 102_027
    assert 190_000 < sizes["deep-255"] <= 200_000
    assert all(abs(sizes[name] / sizes["lmufft"] - 1) < 0.01 for name in ("lstm", "gru"))
    assert all(
        recipe.seeds == 5 for name, recipe in RECIPES.items() if name in ("lmufft", "deep-1024")
    )
    full = {name for name, recipe in RECIPES.items() if recipe.config.full_train}
    assert full == {"lmufft-full"}


def test_names_are_those_of_the_options_that_build_the_models():
    for name, recipe in RECIPES.items():
        model, _, size = name.partition("-")
        assert recipe.config.model == ("lmufft" if name == "demo" else model)
        if size.isdecimal():
            assert recipe.config.hidden_size == int(size)
        elif name != "demo":
            assert recipe.config.hidden_size is recipe.config.memory_size is None  # as --model has


def test_options_of_the_table_build_models_of_its_sizes():
    text = (Path(__file__).parents[2] / "README.md").read_text()
    rows = re.findall(r"^\| (\S+) \| ([\d,]+) \| `(--model [^`]+)`", text, re.MULTILINE)
    assert {name for name, *_ in rows} == set(RECIPES)
    for _, parameters, options in rows:
        words = iter(options.split())
        given = {word[2:].replace("-", "_"): next(words) for word in words}
        sizes: dict[str, Any] = {
            key: value if key == "model" else int(value) for key, value in given.items()
        }
        model = build_model(**PsMNISTConfig(**sizes).model_arguments())
        assert f"{sum(p.numel() for p in model.parameters()):,}" == parameters


def test_each_seed_leaves_a_file_and_is_not_repeated(tiny, tmp_path, monkeypatch):
    run(["lmufft"], tmp_path)
    results = [json.loads((tmp_path / f"lmufft-seed{n}.json").read_text()) for n in range(2)]
    assert [r["seed"] for r in results] == [0, 1]
    assert results[0]["train_loss"] != results[1]["train_loss"]
    monkeypatch.setattr(psmnist, "train", lambda *_, **__: pytest.fail("it trains again"))
    run(["lmufft"], tmp_path)


@pytest.mark.parametrize("content", ["{}", "nothing", '{"config": {"epochs": 1}}'])
def test_other_files_are_not_overwritten(tiny, tmp_path, content):
    path = tmp_path / "lmufft-seed0.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match="not the result of this recipe"):
        run(["lmufft"], tmp_path, seeds=1)
    assert path.read_text() == content


def test_an_interrupted_run_goes_on(tiny, tmp_path, monkeypatch):
    def stopped(config, **arguments):
        return train(config, callbacks=[StopAt(1)], **arguments)

    train = psmnist.train
    with monkeypatch.context() as patch:
        patch.setattr(psmnist, "train", stopped)
        with pytest.raises(RunInterruptedError):
            run(["lmufft"], tmp_path, seeds=1)
    assert not list(tmp_path.glob("*.json"))
    run(["lmufft"], tmp_path, seeds=1)
    assert len(list((tmp_path / "runs/lmufft-seed0").glob("*"))) == 1  # the folder is the same
    metrics = json.loads((tmp_path / "lmufft-seed0.json").read_text())
    assert [row["epoch"] for row in metrics["history"]] == [1, 2]


def test_whatever_a_kill_leaves_the_same_command_ends_well(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)
    runs, done = tmp_path / "runs/lmufft-seed0", tmp_path / "lmufft-seed0.json"
    run(["lmufft"], tmp_path, seeds=1)
    (whole,) = runs.iterdir()
    figures = json.loads(done.read_text())
    done.unlink()
    for name in ("empty", "only a temporary"):
        (runs / name).mkdir()
    (runs / "only a temporary" / ".config.0123abcd.tmp.json").write_text("{")
    (tmp_path / ".lmufft-seed0.0123abcd.tmp.json").write_text("{")
    for file in (whole / "last.ckpt", whole / "previous.ckpt"):
        file.write_bytes(file.read_bytes()[:-900])
    said = io.StringIO()
    run(["lmufft"], tmp_path, seeds=1, console=Console(file=said, width=1000))
    assert "train again. It stays as it is, and another run is begun" in said.getvalue()
    again = json.loads(done.read_text())
    assert again["test_loss"] == figures["test_loss"]
    assert len(list(runs.iterdir())) == 2  # the damaged one, and the new one
    assert not list(tmp_path.rglob(".*"))


def test_an_unknown_model(tmp_path):
    with pytest.raises(ConfigError, match=r"one of demo, lmufft, .* got 'cnn'"):
        run(["cnn"], tmp_path)


def test_command(tmp_path):
    command = ["psmnist", "lmufft", "deep-255", "--quick", "--output", str(tmp_path)]
    result = CliRunner().invoke(build_app(), command)
    assert result.exit_code == 0, result.output
    assert "deep-255-seed0: test accuracy" in result.output
    metrics = json.loads((tmp_path / "deep-255-seed0.json").read_text())
    assert metrics["parameters"] == 199_165
    assert "there already" in CliRunner().invoke(build_app(), command).output
    wrong = CliRunner().invoke(build_app(), ["psmnist", "cnn"])
    assert wrong.exit_code == 2
    assert "cnn" in wrong.output
