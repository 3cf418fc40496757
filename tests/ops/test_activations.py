"""The table of activations, against autograd."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lmu.ops._activations import ACTIVATIONS, activation_of, check_activation, is_fused
from tests.devices import place

F64 = torch.float64
FUSED = [name for name in ACTIVATIONS if is_fused(name)]
names = pytest.mark.parametrize("name", ACTIVATIONS)
fused = pytest.mark.parametrize("name", FUSED)


def draw(seed: int) -> Tensor:
    return place(torch.randn(3, 5, dtype=F64, generator=torch.Generator().manual_seed(seed)))


def test_these_are_fused():
    assert FUSED == ["tanh", "relu", "sigmoid", "identity"]
    assert not is_fused("gelu")
    assert not is_fused(torch.tanh)


@names
def test_functions_are_the_same_in_place(name):
    z, row = draw(0), ACTIVATIONS[name]
    right = row.function(z.clone())
    assert right.shape == z.shape
    torch.testing.assert_close(row.in_place(z.clone()), right)
    if row.into is not None:
        out = torch.full_like(z, torch.nan)
        row.into(z, out=out)
        torch.testing.assert_close(out, right)


@fused
@pytest.mark.parametrize("over", [False, True])
def test_backward_from_the_output(name, over):
    z, grad = draw(0).requires_grad_(), draw(1)
    row: Any = ACTIVATIONS[name]
    y = row.function(z)
    (right,) = torch.autograd.grad(y, z, grad)
    out = grad if over else torch.full_like(grad, torch.nan)
    with torch.no_grad():
        row.backward(grad, y.detach(), grad_input=out)
    torch.testing.assert_close(out, right)


@fused
def test_slope_from_the_output(name):
    z, row = draw(0).requires_grad_(), ACTIVATIONS[name]
    assert row.slope is not None
    y = row.function(z)
    (right,) = torch.autograd.grad(y.sum(), z)
    out = torch.full_like(right, torch.nan)
    row.slope(right.new_ones(()), y.detach(), out)
    torch.testing.assert_close(out, right)


def test_a_function_is_a_row_of_its_own():
    row, z = activation_of(torch.sin), torch.randn(2, 3)
    assert torch.equal(row.function(z), torch.sin(z))
    assert torch.equal(row.in_place(z), torch.sin(z))
    assert not is_fused(torch.sin)
    assert check_activation(torch.sin) is torch.sin
    assert check_activation("gelu") == "gelu"


def test_wrong_activations():
    with pytest.raises(ValueError, match=r"one of \['tanh', .*'gelu'\], or a function .* 'swish'"):
        check_activation("swish")
    with pytest.raises(TypeError, match=r"hidden_activation must be one of .*, got 3"):
        check_activation(3, "hidden_activation")
