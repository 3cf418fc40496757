"""Compiled packages, and what ``torch.export`` makes of the layers themselves."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from lmu import LMU, LMUFFT
from lmu.interop import aoti
from lmu.interop._trace import can_export
from lmu.interop.aoti import export_aoti, export_program, has_compiler
from lmu.models import SequenceClassifier

compiles = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
pytestmark = [
    pytest.mark.skipif(not can_export(), reason="this PyTorch cannot export"),
    # PyTorch's own, when it copies an exported program.
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning"),
]
slow = functools.partial(pytest.param, marks=pytest.mark.slow)
LENGTHS = (1, 2, 16, 63, 64, 65, 128, 129, 200)

MODELS: dict[str, Callable[[], nn.Module]] = {
    "LMU": lambda: LMU(2, 5, 7, 30.0),
    "LMUFFT": lambda: LMUFFT(2, 5, 7, None, 30.0),
    "last": lambda: LMUFFT(2, 5, 7, None, 30.0, return_sequences=False),
    "channels": lambda: LMUFFT(2, 5, 7, None, (30.0, 9.0), memory_channels=2),
    "classifier": lambda: SequenceClassifier(LMU(2, 5, 7, 30.0), 3),
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]().eval()


@torch.no_grad()
def eager(model: nn.Module, x: Tensor) -> list[Tensor]:
    layer: Any = model.layer if isinstance(model, SequenceClassifier) else model
    y, (h, m) = layer(x, **({"return_state": True} if isinstance(layer, LMUFFT) else {}))
    return [y if layer is model else model(x), h, m]


# Compiled, which takes long; the programs that are compiled run below as they are.
@compiles
@pytest.mark.slow
@pytest.mark.parametrize("name", ["LMUFFT", "LMU"])
def test_package_of_a_sequence(name: str, tmp_path: Path) -> None:
    model = build(name)
    path = export_aoti(model, tmp_path / "model.pt2", form="sequence")
    assert list(tmp_path.iterdir()) == [path]
    run = torch._inductor.aoti_load_package(str(path))
    assert run.get_metadata()["lmu.model"] == name
    assert run.get_metadata()["lmu.form"] == "sequence"
    for batch in (1, 3):
        for length in LENGTHS:
            x = torch.randn(batch, length, 2)
            torch.testing.assert_close(list(run(x=x)), eager(model, x))


@compiles
def test_package_of_a_step(tmp_path: Path) -> None:
    model = build("classifier")
    run = torch._inductor.aoti_load_package(str(export_aoti(model, tmp_path / "model.pt2")))
    for batch in (1, 3):
        x = torch.randn(batch, 20, 2)
        y, h, m = torch.empty(0), torch.zeros(batch, 5), torch.zeros(batch, 7)
        for x_t in x.unbind(1):
            y, h, m = run(x=x_t, h=h, m=m)
        torch.testing.assert_close([y, h, m], eager(model, x))


@pytest.mark.parametrize("name", MODELS)
def test_program_of_a_sequence_has_any_length(name: str) -> None:
    model = build(name)
    run = export_program(model, form="sequence").module()
    for batch, length in ((1, 1), (1, 130), (3, 2), (4, 64)):
        x = torch.randn(batch, length, 2)
        torch.testing.assert_close(list(run(x=x)), eager(model, x))


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("LMU")
    with pytest.raises(ValueError, match=r"must end in \.pt2, got .*model\.so"):
        export_aoti(model, tmp_path / "model.so")
    with pytest.raises(TypeError, match="got Linear"):
        export_program(nn.Linear(1, 1))
    monkeypatch.setattr(aoti.shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match="no C\\+\\+ compiler"):
        export_aoti(model, tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


# The layers themselves, without the graphs of this package. LMUFFT's length is that of the example,
# as its chunks depend on it.
@pytest.mark.parametrize(
    ("layer", "any_length"),
    [
        (lambda: LMU(2, 5, 7, 30.0), True),
        (lambda: LMUFFT(2, 5, 7, None, 30.0), True),
        (lambda: LMUFFT(2, 5, 7, 40, 30.0, method="fft"), False),
        slow(lambda: LMU(2, 5, 7, 30.0, memory_channels=2, memory_bias=True), True),
        slow(lambda: LMU(2, 5, 7, 30.0, method="loop"), True),
        slow(lambda: LMUFFT(2, 5, 7, 40, 30.0), True),
        slow(lambda: LMUFFT(2, 5, 7, 40, 30.0, method="chunked"), True),
        slow(lambda: LMUFFT(2, 5, 7, None, 30.0, return_sequences=False), True),
    ],
    ids=["LMU", "no-hint", "fft", "channels", "loop", "LMUFFT", "chunked", "last"],
)
def test_torch_export_of_the_layers(layer: Callable[[], nn.Module], any_length: bool) -> None:
    torch.manual_seed(0)
    model = layer()
    axes = {0: Dim.AUTO, 1: Dim.AUTO} if any_length else {0: Dim.AUTO}
    with torch.no_grad():
        x = torch.randn(3, 40, 2)
        run = torch.export.export(model, (x,), dynamic_shapes={"x": axes}).module()
    lengths = (40, 2, 64, 65, 300) if any_length else (40,)
    for batch, length in ((2, 40), *((8, length) for length in lengths)):
        x = torch.randn(batch, length, 2)
        torch.testing.assert_close(run(x)[0], model(x)[0])
