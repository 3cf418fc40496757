"""Steps of layers in the compiled core against PyTorch's operations."""

from typing import Any

import pytest
import torch

from lmu import LMU, LMUFFT, LegendreMemory
from lmu.layers import _native_step
from lmu.ops import native
from tests import cores
from tests.variants import fill

F64 = torch.float64
LAYERS: dict[str, Any] = {
    "LMU": lambda: LMU(1, 21, 30, 40.0, hidden_activation="relu"),
    "LMU, channels": lambda: LMU(
        3, 7, 6, 50.0, memory_channels=2, memory_bias=True, hidden_bias=True
    ),
    "LMU, no encoder": lambda: LMU(2, 9, 5, (20.0, 30.0), memory_channels=2, encode_input=False),
    "LMUFFT": lambda: LMUFFT(1, 33, 40, 40, 40.0, hidden_activation="gelu"),
    "LMUFFT, windows": lambda: LMUFFT(3, 9, 7, theta=(20.0, 30.0), memory_channels=2),
    "LMUFFT, memory alone": lambda: LMUFFT(
        2, 5, 6, 40, 40.0, memory_channels=2, input_to_hidden=False, encode_input=False
    ),
    "memory": lambda: LegendreMemory(17, 30.0, 4),
}
every = pytest.mark.parametrize("kind", LAYERS)


def build(kind: str, dtype: torch.dtype = F64) -> Any:
    cores.need()
    torch.manual_seed(0)
    return fill(LAYERS[kind](), 0.1).to(dtype)


def sample(layer: Any, batch: int, dtype: torch.dtype = F64) -> torch.Tensor:
    features = layer.channels if isinstance(layer, LegendreMemory) else layer.input_size
    return torch.randn(batch, features, dtype=dtype)


@every
@pytest.mark.parametrize("variant", cores.VARIANTS)
@pytest.mark.parametrize("batch", [0, 1, 5, 50])
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["f32", "f64"])
@torch.no_grad()
def test_numbers_of_pytorch(kind, variant, batch, dtype):
    cores.need(variant)
    layer, alone = build(kind, dtype), kind == "memory"
    got = right = None
    for _ in range(9):
        x = sample(layer, batch, dtype)
        with native.use(None):
            expected = layer.step(x, right)
        with native.use(variant):
            after = layer.step(x, got)
        torch.testing.assert_close(after, expected)
        got, right = (after, expected) if alone else (after[1], expected[1])


@every
@torch.no_grad()
def test_a_memory_in_float64_stays_so(kind):
    layer = build(kind, torch.float32)
    x = sample(layer, 2, torch.float32)
    m = torch.randn(2, layer.step(x).shape[1] if kind == "memory" else layer._state_size, dtype=F64)
    state: Any = m if kind == "memory" else (torch.zeros(2, layer.hidden_size), m)
    got = layer.step(x, state)
    with native.use(None):
        right = layer.step(x, state)
    # Increments are computed in float32.
    torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-5)
    assert (got if kind == "memory" else got[1][1]).dtype == F64


@every
def test_gradients_take_pytorchs_operations(kind, monkeypatch):
    layer = build(kind)
    monkeypatch.setattr(_native_step.cell, "step", lambda *arguments: pytest.fail("no gradients"))
    x = sample(layer, 2).requires_grad_()
    after = layer.step(x)
    (after if kind == "memory" else after[0]).sum().backward()
    assert x.grad is not None
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        layer.step(torch.autograd.forward_ad.make_dual(x.detach(), torch.ones_like(x)))
