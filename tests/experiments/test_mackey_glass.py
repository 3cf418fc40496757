import json
import signal
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from experiments.__main__ import build_app
from experiments.mackey_glass import runs as mackey_glass
from experiments.mackey_glass.data import MackeyGlass, Part, make_task, nrmse
from experiments.mackey_glass.models import MODELS
from experiments.mackey_glass.recipe import (
    Recipe,
    Windows,
    predict,
    series_loss,
    step_weights,
    train,
)
from experiments.mackey_glass.runs import Settings, run
from lmu.training.module import TrainingDivergedError

QUICK = Settings(
    models=("lmufft",), seeds=2, epochs=3, batches=15, series=(6, 3, 3), length=300
)  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("mackey_glass") / "figures.json"
    said = []
    run(QUICK, path, said.append)
    assert len(said) == 2
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    return path


@pytest.mark.parametrize("name", MODELS)
def test_models_are_of_one_size_and_look_into_the_past_alone(name):
    torch.manual_seed(0)
    model = MODELS[name].build()
    assert 17_000 <= sum(p.numel() for p in model.parameters()) <= 19_000
    x = torch.randn(2, 12, 1)
    changed = torch.cat([x[:, :7], torch.randn(2, 5, 1)], dim=1)
    y, y_changed = model(x), model(changed)
    assert y.shape == (2, 12, 1)
    torch.testing.assert_close(y[:, :7], y_changed[:, :7])
    assert not torch.allclose(y[:, 7:], y_changed[:, 7:])
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_rows(path):
    record = json.loads(path.read_text())
    assert record["experiment"] == "mackey-glass"
    assert record["settings"]["series"] == [6, 3, 3]
    first, second = record["rows"]
    assert (first["seed"], second["seed"]) == (0, 1)
    assert first["test_nrmse"] != second["test_nrmse"]
    for row in record["rows"]:
        assert row["model"] == "LMUFFT"
        assert row["parameters"] == 17_253
        assert row["recipe"]["learning_rate"] == MODELS["lmufft"].learning_rate
        history = row["val_history"]
        assert row["val_nrmse"] == min(history) == history[row["best_epoch"] - 1]
        # It learns, and to know more of a series helps.
        assert row["test_nrmse"] < 0.8 * history[0]
        assert row["test_nrmse_after_100"] < row["test_nrmse"] < row["test_nrmse_centered"]
        assert len(row["test_by_step"]) == 100
        assert len(row["prediction"]) == 250
        assert row["cpu_seconds"] > 0


def test_the_figures_are_those_of_the_best_weights_on_the_test_series(path):
    row = json.loads(path.read_text())["rows"][0]
    task = make_task(series=QUICK.series, length=QUICK.length)
    mackey_glass.seed_everything(0, verbose=False)
    model = MODELS["lmufft"].build()
    trained = train(model, task, Recipe(**row["recipe"]), seed=0)
    assert trained.history == pytest.approx(row["val_history"], rel=1e-4)
    found = predict(model, task.test.x)
    assert nrmse(found, task.test.y) == pytest.approx(row["test_nrmse"], rel=1e-4)
    torch.testing.assert_close(
        found[0, :250, 0], torch.tensor(row["prediction"]), rtol=1e-3, atol=1e-4
    )


def test_what_is_there_is_not_repeated(path, monkeypatch):
    before = path.read_text()
    worked = []

    def work(model, seed, recipe, task):
        worked.append((model, seed, recipe.epochs))
        raise KeyboardInterrupt

    monkeypatch.setattr(mackey_glass, "_work", work)
    said = []
    run(QUICK, path, said.append)
    assert [line.endswith("(there already)") for line in said] == [True, True]
    assert json.loads(path.read_text())["rows"] == json.loads(before)["rows"]
    with pytest.raises(KeyboardInterrupt):
        run(replace(QUICK, models=("lstm", "lmufft"), seeds=3), path)
    assert worked == [("lstm", 0, 3)]
    names = ("model", "seed", "recipe")
    row = json.loads(before)["rows"][0]
    measured = {name: value for name, value in row.items() if name not in names}
    monkeypatch.setattr(mackey_glass, "_work", lambda *_: measured)
    run(replace(QUICK, models=("lstm",), seeds=1), path)
    rows = json.loads(path.read_text())["rows"]  # those of models that were not asked for, too
    assert [row["model"] for row in rows] == ["LSTM", "LMUFFT", "LMUFFT"]
    path.write_text(before)


def test_runs_with_other_settings_are_not_mixed_or_lost(path):
    before = path.read_text()
    for settings in (replace(QUICK, epochs=4), replace(QUICK, length=301, models=("lmu",))):
        with pytest.raises(ValueError, match=r"holds runs with other settings \(of LMUFFT"):
            run(settings, path)
    assert path.read_text() == before


def test_a_file_of_something_else_is_kept(tmp_path):
    path = tmp_path / "notes.json"
    for content in ("some notes", "[]", '{"experiment": "capacity", "rows": []}'):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"notes\.json is no record of this experiment"):
            run(QUICK, path)
        assert path.read_text() == content


def _task(x):
    return MackeyGlass(*(Part(x, 2 * x) for _ in range(3)))


def test_windows_stand_for_whole_series():
    """With the error of each step known, the weighted mean over a window is that of a series."""
    recipe = Recipe(0.01, 1, window=20, start=8)
    weights = step_weights(recipe, 1000)
    wrong = torch.full((1000,), 0.3)
    wrong[:8] = torch.arange(8.0)
    assert (weights * wrong[:20]).sum().item() == pytest.approx(wrong.mean().item(), rel=1e-5)
    task = _task(torch.ones(4, 1000, 1))
    # Half of the target is missing at every step, of which the loss is the square.
    x, y = (values[:, :20] for values in task.train)
    assert series_loss(recipe, task.train)(x, y).item() == pytest.approx(0.25)


def test_windows_are_of_the_training_series():
    series = torch.arange(500.0).view(5, 100, 1)
    recipe = Recipe(0.01, 2, batches=40, batch_size=8, window=30)

    def windows(seed):
        return [Part(x, y) for x, y, _ in Windows(_task(series).train, recipe, seed, lambda: 0)]

    found = windows(0)
    assert len(found) == 40
    x = torch.cat([batch.x for batch in found])[..., 0]
    y = torch.cat([batch.y for batch in found])[..., 0]
    torch.testing.assert_close(y, 2 * x, rtol=0, atol=0)
    torch.testing.assert_close(x - x[:, :1], torch.arange(30.0).expand(320, 30), rtol=0, atol=0)
    begin = (x[:, 0] % 100).long()
    assert begin.min() == 0
    assert begin.max() == 70
    assert len((x[:, 0] // 100).unique()) == 5
    again, other = (torch.cat([batch.x for batch in windows(seed)]) for seed in (0, 1))
    assert torch.equal(again[..., 0], x)
    assert not torch.equal(other[..., 0], x)


class _Scale(torch.nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(value))
        self.seen = []

    def forward(self, x):
        if torch.is_grad_enabled():
            self.seen.append(x)
        return self.scale * x


def test_each_epoch_has_new_windows():
    model = _Scale(1.0)
    train(model, _task(torch.randn(4, 100, 1)), Recipe(0.1, 3, batches=2), seed=0)
    first = [x[0, 0, 0].item() for x in model.seen]
    assert len(set(first)) == 6


def test_the_best_epoch_is_kept():
    task = _task(torch.randn(4, 100, 1))
    # Adam's momentum carries it past the target, 2, and it does not come back in time.
    recipe = Recipe(0.25, 6, batches=1, window=60, warm_up=1)
    model = _Scale(1.5)
    trained = train(model, task, recipe, seed=0)
    best = trained.history.index(min(trained.history))
    assert best < 5
    expected = abs(model.scale.item() - 2) / 2
    assert trained.history[best] == pytest.approx(expected, rel=1e-4)


def test_trouble_in_training():
    task = _task(torch.randn(4, 100, 1))
    with pytest.raises(TrainingDivergedError, match="validation error is nan after epoch 1: lower"):
        train(_Scale(float("nan")), task, Recipe(0.1, 1, batches=1), seed=0)
    with pytest.raises(ValueError, match=r"longer than their start, 32 steps.* 100: got 101"):
        train(_Scale(1.0), task, Recipe(0.1, 1, window=101), seed=0)

    class Interrupted(_Scale):
        def forward(self, x):
            raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(Interrupted(1.0), task, Recipe(0.1, 1, batches=1), seed=0)
    assert signal.getsignal(signal.SIGINT) is handler


def _command(*arguments):
    return CliRunner().invoke(build_app(), ["mackey-glass", *arguments])


def test_command(tmp_path):
    path = tmp_path / "figures.json"
    arguments = ("--quick", "--epochs", "1", "--output", str(path))
    result = _command(*arguments)
    assert result.exit_code == 0, result.output
    rows = json.loads(path.read_text())["rows"]
    assert [row["model"] for row in rows] == [model.name for model in MODELS.values()]
    assert all(0.001 < row["test_nrmse"] < 1.5 for row in rows)
    result = _command("lmu", *arguments)
    assert result.exit_code == 0, result.output
    assert "there already" in result.output


def test_command_refuses_what_is_wrong(tmp_path):
    path = tmp_path / "figures.json"
    result = _command("gru", "lmu", "--output", str(path))
    assert result.exit_code == 2
    assert "'gru' is not one of" in result.output
    for option in ("--seeds", "--epochs"):
        assert _command(option, "0", "--output", str(path)).exit_code == 2
    assert not path.exists()
    result = _command("--output", str(tmp_path))
    assert result.exit_code == 2
    assert "Invalid value" in result.output
