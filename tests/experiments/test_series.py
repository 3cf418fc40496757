import json
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from experiments.__main__ import build_app
from experiments.series import problems, runs
from experiments.series.baselines import (
    autoregression,
    memory_regression,
    minirocket,
    nearest_neighbour,
    repeat_cycle,
    warped_distances,
)
from experiments.series.data import HORIZON, as_recordings
from experiments.series.models import NETWORKS, sized
from experiments.series.plan import Settings, plan, run
from experiments.series.problems import PROBLEMS, score_forecasts, split_recordings
from experiments.series.recipe import Part, Recipe
from experiments.series.training import train
from lmu.training.objective import Classification

NETWORK = [(data, model) for data, networks in NETWORKS.items() for model in networks]


def build(data: str, model: str, units: int) -> torch.nn.Module:
    problem, network = PROBLEMS[data], NETWORKS[data][model]
    layer = network.build(problem.features, units, **network.arguments)
    return problem.head(layer, problem.outputs, 0.0)


@pytest.mark.parametrize(("data", "model"), NETWORK)
def test_parameters_are_equal_within_5_percent(data, model):
    budget = PROBLEMS[data].budget
    units = sized(lambda units: build(data, model, units), budget)
    parameters = sum(p.numel() for p in build(data, model, units).parameters())
    assert 0.95 * budget < parameters <= budget


def test_budget_below_a_single_unit_is_refused():
    with pytest.raises(ValueError, match="more than 3 parameters"):
        sized(lambda units: torch.nn.Linear(3, units), 3)


@pytest.mark.parametrize(("data", "model"), NETWORK)
def test_padding_has_no_influence(data, model):
    torch.manual_seed(0)
    network = build(data, model, 6).eval()
    x, lengths = torch.randn(3, 12, PROBLEMS[data].features), torch.tensor([12, 5, 8])
    answers = network(x, lengths)
    for i, length in enumerate(lengths.tolist()):
        alone = network(x[i : i + 1, :length], lengths[i : i + 1])
        torch.testing.assert_close(answers[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_training_learns_and_repeats_itself():
    torch.manual_seed(0)
    x, lengths, y = torch.randn(40, 9, 6), torch.randint(3, 10, (40,)), torch.arange(40) % 2
    x[..., 0] += 4 * y[:, None]
    part = Part(x, lengths, y)
    recipe = Recipe(15, 1e-2, batch_size=8)
    objective = Classification(4)

    def trained(seed):
        return train(lambda: build("BasicMotions", "LMUFFT", 8), objective, part, recipe, seed)[0]

    first, second, other = (trained(seed)(x, lengths) for seed in (0, 0, 1))
    assert first.equal(second)
    assert not first.equal(other)
    assert objective.loss(first, part.y) < 0.2


def test_neighbour_by_time_warping():
    def curve(values):
        return torch.tensor(values, dtype=torch.float64).unsqueeze(1)

    train = as_recordings([curve([0.0, 5, 5, 0]), curve([1.0, 1, 1])], ["bump", "flat"])
    test = as_recordings(
        [curve([0.0, 0, 0, 0, 5, 0, 0]), curve([0.0, 5, 0]), curve([1.0])], ["bump", "bump", "flat"]
    )
    assert nearest_neighbour(train, test).equal(test.y)


def test_distance_of_time_warping():
    train = as_recordings([torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0]])], ["a", "b"])
    test = as_recordings([torch.tensor([[1.0], [1.0], [4.0]]), torch.tensor([[5.0]])], ["a", "b"])
    # 1-1, 1-1, 4-3: 0 + 0 + 1; all to 2: 1 + 1 + 4; 5 to both: 16 + 4; and to 2: 9.
    assert warped_distances(train, test).tolist() == [[1.0, 6.0], [20.0, 9.0]]


def test_minirocket_is_given_series_of_one_length(monkeypatch):
    class Means:
        """Stands for MiniRocketMultivariate, which takes a minute to compile."""

        def __init__(self, random_state):
            assert random_state == 3

        def fit_transform(self, x):
            assert x.shape == (3, 2, 5)  # series, features, time
            return self.transform(x)

        def transform(self, x):
            return x.sum(2)

    name = "sktime.transformations.rocket"
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(MiniRocketMultivariate=Means))
    train = as_recordings([torch.full((n, 2), v) for n, v in ((2, -1.0), (3, 1.0), (1, -2.0))], [
        "low", "high", "low",
    ])  # fmt: skip
    test = as_recordings([torch.full((n, 2), v) for n, v in ((5, 1.5), (2, -1.0))], ["high", "low"])
    assert minirocket(train, test, 3).equal(test.y)


def test_repeated_cycle():
    series = torch.arange(60.0)
    answer = repeat_cycle(series, 30, 50)
    assert answer.shape == (50 - HORIZON - 30 + 1, HORIZON)
    truth = torch.stack([series[o : o + HORIZON] for o in range(30, 50 - HORIZON + 1)])
    assert answer.equal(truth - HORIZON)
    score = score_forecasts(answer, truth)
    assert score["score"] == pytest.approx(HORIZON)
    assert score["by_horizon"] == pytest.approx([HORIZON] * HORIZON)
    assert score["forecasts"] == answer[::HORIZON].tolist()


@pytest.mark.parametrize("root", [False, True])
def test_autoregression_follows_a_line_and_knows_no_future(root):
    line = 1 + torch.arange(60, dtype=torch.float64)
    series = line.square() if root else line
    answer = autoregression(series, 30, 50, 1, root)
    truth = torch.stack([series[o : o + HORIZON] for o in range(30, 50 - HORIZON + 1)])
    torch.testing.assert_close(answer, truth, rtol=1e-6, atol=1e-6)
    changed = torch.where(torch.arange(60) < 30, series, 7.0)
    torch.testing.assert_close(autoregression(changed, 30, 50, 1, root)[0], answer[0])


@pytest.mark.parametrize("root", [False, True])
def test_regression_on_the_memory_follows_a_wave_and_knows_no_future(root):
    wave = 3 + torch.sin(2 * torch.pi * torch.arange(200, dtype=torch.float64) / 11)
    series = wave.square() if root else wave
    answer = memory_regression(series, 120, 160, 12, 33, root)
    truth = torch.stack([series[o : o + HORIZON] for o in range(120, 160 - HORIZON + 1)])
    torch.testing.assert_close(answer, truth, rtol=0.05, atol=0.05)
    changed = torch.where(torch.arange(200) < 120, series, 7.0)
    torch.testing.assert_close(memory_regression(changed, 120, 160, 12, 33, root)[0], answer[0])


def test_validation_does_not_see_the_test_series(monkeypatch):

    load, asked = problems.load_recordings, []
    monkeypatch.setattr(problems, "load_recordings", lambda n, p: (asked.append(p), load(n, p))[1])
    split = split_recordings("BasicMotions", 7)
    assert asked == ["train"]
    assert len(split.train.y) == 32
    assert len(split.test.y) == 8
    split_recordings("BasicMotions", None)
    assert asked == ["train", "train", "test"]


QUICK = Settings(seeds=1, epochs=1, minirocket=False, data=("BasicMotions", "sunspots"))


@pytest.fixture(scope="module")
def few_orders():
    with pytest.MonkeyPatch.context() as patch:
        for method, grid in (("autoregression", {}), ("LMU memory, linear", {"theta": [55]})):
            forecast = runs.REGRESSIONS[method][0]
            grid = {"order": [8, 9], **grid, "root": [False]}
            patch.setitem(runs.REGRESSIONS, method, (forecast, grid))
        yield


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, few_orders):
    path, said = tmp_path_factory.mktemp("series") / "figures.json", []
    run(QUICK, path, said.append)
    assert len(said) == len(list(plan(QUICK)))
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    return path


def test_record_holds_a_row_of_each_run(recorded):
    record = json.loads(recorded.read_text())
    assert record["experiment"] == "series"
    rows = {(row["data"], row["model"]): row for row in record["rows"]}
    assert set(rows) == {(one.data, one.model) for one in plan(QUICK)}
    for row in rows.values():
        if row["data"] == "sunspots":
            assert len(row["by_horizon"]) == HORIZON
            assert [len(values) for values in row["forecasts"]] == [HORIZON] * 5
        else:
            assert 0 <= row["test"] <= 1
    assert 0.5 < rows["BasicMotions", "1-NN DTW"]["test"] <= 1
    for method, outputs in (("autoregression", 1), ("LMU memory, linear", HORIZON)):
        regression = rows["sunspots", method]
        assert regression["order"] in {8, 9}
        assert regression["parameters"] == outputs * (regression["order"] + 1)
        assert (
            regression["validation"] < rows["sunspots", f"the last {HORIZON} years"]["validation"]
        )


def test_what_is_recorded_is_not_run_again(recorded, monkeypatch):
    before, said = json.loads(recorded.read_text()), []

    def work(*_):
        raise AssertionError("a run was repeated")

    monkeypatch.setattr(runs, "network", work)
    run(QUICK, recorded, said.append)
    assert not said
    assert json.loads(recorded.read_text())["rows"] == before["rows"]
    run(replace(QUICK, data=("sunspots",)), recorded, said.append)  # the others are kept
    assert json.loads(recorded.read_text())["rows"] == before["rows"]
    with pytest.raises(ValueError, match="with other settings: name another file"):
        run(replace(QUICK, epochs=2), recorded, said.append)


def test_interrupted_command_goes_on(tmp_path, monkeypatch, few_orders):
    path, calls = tmp_path / "figures.json", []
    settings = replace(QUICK, data=("sunspots",))

    def work(data, model, recipe, seed):
        calls.append(model)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {"validation": 1.0, "test": 2.0, "by_horizon": [2.0] * HORIZON, "forecasts": [],
                "seconds": 0.0}  # fmt: skip

    monkeypatch.setattr(runs, "network", work)
    with pytest.raises(KeyboardInterrupt):
        run(settings, path, lambda line: None)
    assert len(json.loads(path.read_text())["rows"]) == 1
    run(settings, path, lambda line: None)
    models = list(NETWORKS["sunspots"])
    assert calls == [models[0], models[1], *models[1:]]


@pytest.mark.parametrize("text", ["{", '{"experiment": "capacity", "rows": []}', "[]"])
def test_file_of_another_kind_is_refused(tmp_path, text):
    path = tmp_path / "figures.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="no record of this experiment"):
        run(QUICK, path)
    assert path.read_text() == text


def test_command(tmp_path, monkeypatch, few_orders):
    path = tmp_path / "figures.json"
    network = {"LMUFFT": NETWORKS["sunspots"]["LMUFFT"]}
    monkeypatch.setitem(NETWORKS, "sunspots", network)
    arguments = ["series", "sunspots", "--quick", "--output", str(path)]
    result = CliRunner().invoke(build_app(), arguments)
    assert result.exit_code == 0, result.output
    assert "autoregression" in result.output
    assert len(json.loads(path.read_text())["rows"]) == 4
    assert CliRunner().invoke(build_app(), [arguments[0], "moonspots"]).exit_code == 2
    path.write_text("[]")
    result = CliRunner().invoke(build_app(), arguments)
    assert result.exit_code == 2
    assert "no record of this experiment" in re.sub(r"[\s│]+", " ", result.output)
