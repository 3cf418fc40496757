import itertools
import json

import pytest
import torch
from typer.testing import CliRunner

from experiments.__main__ import build_app
from experiments.capacity.models import DelayLine
from experiments.capacity.recipe import Late, Settings, Signals, run

QUICK = Settings(
    windows=(60, 100), orders=(12, 48), points=5, signals=2, reads=10,
    lstm_windows=(60,), lstm_units=8, lstm_seconds=1.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    path = tmp_path_factory.mktemp("capacity") / "figures.json"
    said = []
    run(QUICK, path, said.append)
    assert len(said) == 5
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    return json.loads(path.read_text())


def test_figures_of_each_model_and_window(record):
    rows = {(row["model"], row["window"]): row for row in record["rows"]}
    models = ("LMU, order 12", "LMU, order 48")
    assert set(rows) == {(m, w) for m in models for w in (60, 100)} | {("LSTM, 8 units", 60)}
    for window in (60, 100):
        assert rows["LMU, order 12", window]["mean_nrmse"] > 0.3
        assert rows["LMU, order 48", window]["mean_nrmse"] < 0.1
        assert rows["LMU, order 48", window]["delays"][0] == 0
        assert len(rows["LMU, order 48", window]["nrmse"]) == 5
    lstm = rows["LSTM, 8 units", 60]
    assert lstm["steps"] > 0
    assert lstm["trained_parameters"] == 4 * 8 * (1 + 8 + 2) + 5 * 9
    assert 0.1 < lstm["mean_nrmse"] < 1.5


def test_record_tells_what_it_depends_on(record):
    assert record["experiment"] == "capacity"
    assert record["settings"]["windows"] == [60, 100]
    assert record["versions"]["torch"] == torch.__version__
    assert record["machine"]["cores"] >= 1


def test_lstm_is_trained_on_the_delayed_signal():
    delays = torch.tensor([0, 7, 19])
    signals = Signals(20, delays, seed=0)
    first, second = itertools.islice(signals, 2)
    x, targets, weight = first
    assert weight == 1
    assert x.shape == (32, 40, 1)
    assert targets.shape == (32, 20, 3)
    for i, delay in enumerate(delays.tolist()):
        torch.testing.assert_close(targets[..., i], x[:, 20 - delay : 40 - delay, 0])
    assert not torch.equal(x, second[0])
    model = DelayLine(4, 3)
    assert torch.equal(Late(model, 20)(x), model(x)[:, 20:])


def test_command(tmp_path):
    path = tmp_path / "figures.json"
    command = ["capacity", "--quick", "--lstm-seconds", "0.5", "--output", str(path)]
    result = CliRunner().invoke(build_app(), command)
    assert result.exit_code == 0, result.output
    assert len(json.loads(path.read_text())["rows"]) == 7
    assert "LMU, order 100" in result.output
