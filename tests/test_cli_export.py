"""``lmu export``."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

from lmu.cli import app
from lmu.interop import aoti
from lmu.interop.aoti import has_compiler
from lmu.tasks.psmnist.config import PsMNISTConfig
from lmu.tasks.psmnist.models import build_model
from lmu.tasks.psmnist.run import train
from lmu.training.run import RunResult

pytestmark = pytest.mark.usefixtures("quick_runs")
SIZES: dict[str, Any] = {"hidden_size": 40, "memory_size": 32, "batch_size": 50, "limit": 100}


def invoke(*arguments: str, code: int = 0) -> str:
    """Run the command and return its output with line breaks and boxes taken out."""
    result = CliRunner().invoke(app, ["export", *arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return re.sub(r"[\s│╭╮╰╯─]+", " ", result.output)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    config = PsMNISTConfig(epochs=1, accelerator="cpu", **SIZES)
    return train(config, output=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def expected(run: RunResult) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences and the logits that the checkpoint's model has for them."""
    content = torch.load(run.folder / "best.ckpt", weights_only=True)
    model = build_model("lmufft", hidden_size=40, memory_size=32, theta=784.0, dropout=0.5)
    weights = content["state_dict"].items()
    model.load_state_dict({key.removeprefix("model."): value for key, value in weights})
    x = torch.rand(3, 200, 1)
    with torch.no_grad():
        return x, model.eval()(x)


def logits_of_steps(path: Path, x: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(path)
    y, h, m = np.empty(0), *(np.zeros((len(x), size), np.float32) for size in (40, 32))
    for x_t in x.unbind(1):
        y, h, m = session.run(None, {"x": x_t.numpy(), "h": h, "m": m})
    return torch.from_numpy(y)


def test_step_beside_the_checkpoint(run: RunResult, expected: tuple) -> None:
    text = invoke(str(run.folder))
    path = run.folder / "lmufft-step.onnx"
    assert f"wrote {path}" in text
    assert "inputs x (batch, 1), h (batch, 40), m (batch, 32)" in text
    assert "outputs y (batch, 10), h_n (batch, 40), m_n (batch, 32)" in text
    torch.testing.assert_close(logits_of_steps(path, expected[0]), expected[1])


def test_int8_is_smaller_and_nearly_the_same(
    run: RunResult, expected: tuple, tmp_path: Path
) -> None:
    exact, path = tmp_path / "exact.onnx", tmp_path / "int8.onnx"
    invoke(str(run.folder), "--output", str(exact))
    invoke(str(run.folder / "best.ckpt"), "--int8", "--output", str(path))
    assert path.stat().st_size < exact.stat().st_size
    assert sorted(tmp_path.iterdir()) == [exact, path]
    got = logits_of_steps(path, expected[0])
    assert 0 < (got - expected[1]).norm() < 0.05 * expected[1].norm()


def test_sequence(run: RunResult, expected: tuple, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "whole.onnx"
    text = invoke(str(run.folder), "--sequence", "--output", str(path))
    assert "inputs x (batch, time, 1)" in text
    y, _, _ = onnxruntime.InferenceSession(path).run(None, {"x": expected[0].numpy()})
    torch.testing.assert_close(torch.from_numpy(np.array(y)), expected[1])


@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning")
def test_what_is_compiled_for_a_package(
    run: RunResult, expected: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(model: torch.nn.Module, path: Path, *, form: str) -> None:
        torch.export.save(aoti.export_program(model, form=form), path)

    monkeypatch.setattr(aoti, "export_aoti", save)
    path = tmp_path / "model.pt2"
    text = invoke(str(run.folder), "--format", "aoti", "--sequence", "--output", str(path))
    assert "inputs x (batch, time, 1)" in text
    program = torch.export.load(path).module()
    torch.testing.assert_close(program(x=expected[0])[0], expected[1])


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning")
def test_package(run: RunResult, expected: tuple, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    invoke(str(run.folder), "--format", "aoti", "--sequence", "--output", str(path))
    run_package = torch._inductor.aoti_load_package(str(path))
    torch.testing.assert_close(run_package(x=expected[0])[0], expected[1])


@pytest.mark.parametrize(
    ("options", "named", "says"),
    [
        (["--format", "tflite"], "--format", "'tflite'"),
        (["--int8", "--sequence"], "--int8", "drop --sequence"),
        (["--int8", "--format", "aoti"], "--int8", "only a step in ONNX"),
        (["--output", "model.pt2"], "--output", "must end in .onnx, got model.pt2"),
        (["--format", "aoti", "--output", "m.onnx"], "--output", "must end in .pt2, got m.onnx"),
        (["--output", "/dev/null/m.onnx"], "--output", "/dev/null/m.onnx cannot be written"),
    ],
)
def test_wrong_options(run: RunResult, options: list[str], named: str, says: str) -> None:
    text = invoke(str(run.folder), *options, code=2)
    assert re.search(rf"Invalid value for '?{named}", text), text
    assert says in text


def test_wrong_checkpoints(tmp_path: Path) -> None:
    assert "does not exist" in invoke(str(tmp_path / "no.ckpt"), code=2)
    assert "holds no checkpoint" in invoke(str(tmp_path), code=2)
    junk = tmp_path / "junk.ckpt"
    junk.write_bytes(b"junk")
    text = invoke(str(junk), code=2)
    assert "Invalid value for checkpoint" in text
    assert "not a checkpoint written by lmu train" in text


def test_too_small_for_int8(tmp_path: Path) -> None:
    sizes: dict[str, Any] = SIZES | {"hidden_size": 5, "memory_size": 6, "limit": 20}
    folder = train(PsMNISTConfig(epochs=1, accelerator="cpu", **sizes), output=tmp_path).folder
    text = invoke(str(folder), "--int8", code=2)
    assert "Invalid value for --int8" in text
    assert "too small" in text
    assert not list(folder.glob("*.onnx"))


def test_missing_packages(run: RunResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmu._extras.find_spec", lambda name: None)
    assert 'run pip install "onnx>=' in invoke(str(run.folder), code=1)
