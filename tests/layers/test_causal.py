"""Bad samples, and the outputs before them."""

from typing import Any

import pytest
import torch
from torch import nn

from lmu import LMU, LMUFFT

BAD = [float("nan"), float("inf"), -float("inf"), 1e30]


def build(**kwargs: Any) -> LMUFFT:
    torch.manual_seed(0)
    return LMUFFT(2, 5, 8, theta=40, memory_channels=2, causal=True, **kwargs)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("at", [0, 37, 99])
def test_no_input_touches_earlier_outputs(bad: float, at: int) -> None:
    layer = build(encode_input=False)
    x = torch.randn(3, 100, 2)
    spoilt = x.clone()
    spoilt[1, at, 0] = bad
    (whole, _), (y, (_, m)) = layer(x), layer(spoilt, return_state=True)
    assert torch.equal(y[1, :at], whole[1, :at])
    assert torch.equal(y[[0, 2]], whole[[0, 2]])
    if bad != 1e30:
        assert y[1, at:].isnan().all()
        assert m[1].isnan().all()
        assert m[[0, 2]].isfinite().all()


def test_same_numbers_as_otherwise() -> None:
    layer, x = build(), torch.randn(3, 100, 2)
    free = LMUFFT(2, 5, 8, theta=40, memory_channels=2)
    free.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x)[0], free(x)[0], atol=1e-5, rtol=1e-5)
    state = layer(x[:, :30], return_state=True)[1]
    torch.testing.assert_close(layer(x[:, 30:], state)[0], free(x)[0][:, 30:], atol=1e-5, rtol=1e-5)
    layer.W_h = nn.Sequential(layer.W_h)  # type: ignore[assignment]
    torch.testing.assert_close(layer(x)[0], free(x)[0], atol=1e-5, rtol=1e-5)


def test_gradients_and_graphs() -> None:
    layer = build(dtype=torch.float64)
    x = torch.randn(2, 20, 2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda x: layer(x)[0], (x,), fast_mode=True)
    compiled: Any = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x)[0], layer(x)[0])


def test_what_is_chosen() -> None:
    layer = build()
    assert layer.explain(5000, 100).method == "chunked"
    assert "causal=True" in repr(layer)
    with pytest.raises(ValueError, match="with causal=True choose 'auto' or 'chunked'"):
        build(method="fft")
    with pytest.raises(TypeError, match="causal must be True or False"):
        LMUFFT(2, 5, 8, theta=40, causal=1)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("lengths", [None, [20, 20, 9]])
def test_the_last_step_alone_tells_too(lengths: list[int] | None) -> None:
    layer, x = build(encode_input=False, input_to_hidden=False), torch.randn(3, 20, 2)
    x[1, 19, 0] = torch.inf
    h, (_, m) = layer(x, lengths=lengths, return_sequences=False, return_state=True)
    y, (_, m_n) = layer(x, lengths=lengths, return_state=True)
    assert h[1].isnan().all()
    assert y[1, 19].isnan().all()
    assert m[1].isnan().all()
    assert m_n[1].isnan().all()
    assert h[[0, 2]].isfinite().all()


@pytest.mark.parametrize("method", ["loop", "blocks"])
def test_the_nonlinear_layer_is_causal(method: str) -> None:
    torch.manual_seed(0)
    layer, x = LMU(2, 5, 8, 40, method=method), torch.randn(2, 60, 2)
    spoilt = x.clone()
    spoilt[0, 29] = torch.nan
    whole, y = layer(x)[0], layer(spoilt)[0]
    assert torch.equal(y[0, :29], whole[0, :29])
    assert torch.equal(y[1], whole[1])
    assert y[0, 29:].isnan().all()
