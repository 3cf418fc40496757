"""Activations in C and their slopes, against float64, and at the ends of their range."""

import math

import pytest
import torch
from torch import Tensor

from lmu.ops import native
from tests.ops.native.arguments import structure

RIGHT = {
    "tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "identity": torch.clone,
}  # fmt: skip
ROOM = 64  # numbers: what follows up to a whole vector is overwritten

kinds = pytest.mark.parametrize("kind", native.ACTIVATION_NUMBERS)


def activate(kind: str, x: Tensor) -> Tensor:
    y = torch.cat([x, x.new_zeros(ROOM)])
    arguments = structure(native.ACTIVATION_NUMBERS[kind], 0, len(x), y, y)
    native.run("activate", x.dtype, arguments, 1)
    return y[: len(x)]


def times_slope(kind: str, g: Tensor, y: Tensor) -> Tensor:
    n, number = len(g), native.ACTIVATION_NUMBERS[kind]
    g, y = (torch.cat([t, t.new_zeros(ROOM)]) for t in (g, y))
    native.run("activate", g.dtype, structure(number, 1, n, g, y), 1)
    return g[:n]


def arguments(dtype: torch.dtype) -> Tensor:
    """Both signs of all magnitudes from the smallest normal number to the largest."""
    info = torch.finfo(dtype)
    ends = torch.tensor([info.tiny, info.max], dtype=torch.float64).log()
    logarithmic = torch.linspace(ends[0] * 0.999, ends[1] * 0.999, 20011, dtype=torch.float64).exp()
    x = torch.cat([logarithmic, torch.linspace(0, 750, 30011, dtype=torch.float64)])
    return torch.cat([x, -x]).to(dtype)


@kinds
def test_relative_error(checks, dtype, kind):
    x = arguments(dtype)
    y = activate(kind, x)
    # PyTorch's own float64 functions are right to about a unit of its last digit.
    right = RIGHT[kind](x.double())
    tiny = 4 * torch.finfo(dtype).tiny  # below, numbers may become zero
    error = (y.double() - right).abs() / right.abs().clamp_min(tiny)
    assert error[right.abs() >= tiny].max() <= 4 * torch.finfo(dtype).eps
    assert error.max() <= 1


@kinds
def test_ends_of_the_range(checks, dtype, kind):
    x = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e4, -1e4], dtype=dtype)
    y, right = activate(kind, x), RIGHT[kind](x)
    torch.testing.assert_close(y, right, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(y[:1].signbit(), right[:1].signbit())


@kinds
def test_tanh_and_sigmoid_stay_within_their_bounds(checks, dtype, kind):
    y = activate(kind, arguments(dtype))
    if kind in {"tanh", "sigmoid"}:
        assert y.abs().max() <= 1
    if kind in {"relu", "sigmoid"}:
        assert y.min() >= 0


@kinds
@pytest.mark.parametrize("n", [0, 1, 3, 15, 16, 17, 61])
def test_any_number_of_elements(checks, dtype, kind, n):
    x = torch.randn(n, dtype=dtype)
    eps = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(activate(kind, x), RIGHT[kind](x), rtol=eps, atol=eps)


@kinds
@pytest.mark.parametrize("n", [0, 1, 16, 61])
def test_slopes(checks, dtype, kind, n):
    x, g = torch.randn(n, dtype=dtype, requires_grad=True), torch.randn(n, dtype=dtype)
    y = RIGHT[kind](x)
    (right,) = torch.autograd.grad(y, x, g)
    eps = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(times_slope(kind, g, y.detach()), right, rtol=eps, atol=eps)


def test_the_slope_of_relu_at_zero_is_zero(checks, dtype):
    y = torch.tensor([0.0, 1.0], dtype=dtype)
    assert times_slope("relu", torch.ones(2, dtype=dtype), y).tolist() == [0.0, 1.0]
