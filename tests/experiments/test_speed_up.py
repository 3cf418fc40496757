import json

import pytest
import torch
from typer.testing import CliRunner

from experiments.__main__ import build_app
from experiments.speed_up import runs as speed_up
from experiments.speed_up.runs import LAYERS, Settings, StepByStep, run
from lmu import LMUFFT


def test_the_same_equations_step_by_step():
    layer = LMUFFT(2, 5, 4, 7, 7.0, return_sequences=False).double()
    x = torch.randn(3, 7, 2, dtype=torch.float64)
    torch.testing.assert_close(StepByStep(layer)(x)[1], layer(x)[1])


def test_a_row_for_each_model(tmp_path, monkeypatch):
    sizes = {"LMUFFT 346/468": 166_092, "nn.LSTM 201": 166_036}
    for name in LAYERS.keys() - sizes.keys():
        monkeypatch.delitem(LAYERS, name)
    path = tmp_path / "speed.json"
    said = []
    run(Settings(batch_size=2, length=9, samples=20, rounds=3), path, said.append)
    record = json.loads(path.read_text())
    ours, lstm = record["rows"]
    assert {row["model"]: row["parameters"] for row in record["rows"]} == sizes
    assert ours["ratio"] == 1
    assert lstm["ratio"] == lstm["seconds"] / ours["seconds"]
    assert ours["epoch_seconds"] == pytest.approx(10 * ours["seconds"])
    assert 0 < ours["fastest"] <= ours["seconds"] <= ours["slowest"]
    assert len(said) == 5
    assert record["device"] == "cpu"


def test_training_steps_change_the_weights(monkeypatch):
    made = []
    kind = speed_up.SequenceClassifier
    monkeypatch.setattr(
        speed_up, "SequenceClassifier", lambda *a: made.append(kind(*a)) or made[-1]
    )
    step, _ = speed_up._training_step(LAYERS["LMU 212/256"], Settings(batch_size=2, length=9))
    before = [p.clone() for p in made[0].parameters()]
    step()
    assert not any(torch.equal(a, b) for a, b in zip(before, made[0].parameters(), strict=True))


def test_command(tmp_path):
    path = tmp_path / "speed.json"
    command = ["speed-up", "--quick", "--output", str(path)]
    result = CliRunner().invoke(build_app(), command)
    assert result.exit_code == 0, result.output
    assert len(json.loads(path.read_text())["rows"]) == len(LAYERS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(tmp_path):
    command = ["speed-up", "--device", "cuda", "--output", str(tmp_path / "x.json")]
    result = CliRunner().invoke(build_app(), command)
    assert result.exit_code == 2
    assert "no CUDA device" in result.output


def test_wrong_options(tmp_path):
    for option, value, says in (
        ("--device", "tpu", "'tpu' is not one of 'cpu', 'cuda'"),
        ("--output", "/dev/null/x.json", "cannot be written"),
        ("--output", str(tmp_path), "is a folder"),
    ):
        result = CliRunner().invoke(build_app(), ["speed-up", "--quick", option, value])
        assert result.exit_code == 2
        assert says in " ".join(result.output.replace("│", "").split())
