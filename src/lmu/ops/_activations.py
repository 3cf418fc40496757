"""Activations by name, with their gradients from the output where these follow from it."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lmu._arguments import shown

Function = Callable[[Tensor], Tensor]


class Activation(NamedTuple):
    """An elementwise function, and its kernels for hand-written passes where it is fused."""

    function: Function
    in_place: Function  # may overwrite its argument, and returns the result
    into: Callable[..., Any] | None = None  # (z, out=)
    backward: Callable[..., Any] | None = None  # (grad, output, grad_input=)
    slope: Callable[[Tensor, Tensor, Tensor], Any] | None = None  # (one, output, out)


def _same(z: Tensor) -> Tensor:
    return z


_aten = torch.ops.aten

ACTIVATIONS: dict[str, Activation] = {
    "tanh": Activation(
        torch.tanh,
        Tensor.tanh_,
        torch.tanh,
        _aten.tanh_backward.grad_input,
        lambda one, y, out: torch.addcmul(one, y, y, value=-1, out=out),
    ),
    "relu": Activation(
        torch.relu,
        Tensor.relu_,
        partial(torch.clamp_min, min=0),
        partial(_aten.threshold_backward.grad_input, threshold=0),
        lambda one, y, out: torch.gt(y, 0, out=out),
    ),
    "sigmoid": Activation(
        torch.sigmoid,
        Tensor.sigmoid_,
        torch.sigmoid,
        _aten.sigmoid_backward.grad_input,
        lambda one, y, out: torch.addcmul(y, y, y, value=-1, out=out),
    ),
    "identity": Activation(
        _same,
        _same,
        lambda z, out: out.copy_(z),
        lambda grad, y, grad_input: grad_input if grad_input is grad else grad_input.copy_(grad),
        lambda one, y, out: out.fill_(1),
    ),
    "gelu": Activation(torch.nn.functional.gelu, torch.nn.functional.gelu),
}


ZERO_AT_ZERO = ("tanh", "relu", "identity", "gelu")


def check_activation(value: Any, name: str = "activation") -> Any:
    """Return an activation if it is a known name or a function.

    Raises:
        TypeError: It is neither a str nor callable.
        ValueError: No activation has this name.
    """
    if isinstance(value, str) and value in ACTIVATIONS:
        return value
    known = f"{name} must be one of {list(ACTIVATIONS)}, or a function such as torch.tanh"
    if isinstance(value, str):
        raise ValueError(f"{known}, got {value!r}")
    if isinstance(value, type):
        raise TypeError(f"{known}, got the class {value.__name__}: pass an instance of it")
    if not callable(value):
        raise TypeError(f"{known}, got {shown(value)}")
    return value


def activation_of(value: str | Function) -> Activation:
    """Return the row of a name; a function gets a row that is not fused."""
    if isinstance(value, str):
        return ACTIVATIONS[value]
    function = in_own_dtype(value)
    return Activation(function, function)


def in_own_dtype(function: Function) -> Function:
    """A function that must keep shape and dtype.

    A module with narrow parameters is called in their dtype: layers compute in float32 or better,
    and some modules refuse a wider dtype than theirs.
    """
    parameters = function.parameters() if isinstance(function, nn.Module) else iter(())
    dtype = next((p.dtype for p in parameters if p.is_floating_point()), None)
    narrow = dtype is not None and dtype.itemsize < 4

    def call(z: Tensor) -> Tensor:
        y = function(z.to(dtype) if narrow else z)
        if not isinstance(y, Tensor) or y.shape != z.shape:
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(
                f"an activation must give a tensor of the shape that it is called with, "
                f"{tuple(z.shape)}, got {got}"
            )
        return y.to(z.dtype)

    return call


def apply_rows(value: str | Function, z: Tensor) -> Tensor:
    """Apply an activation to ``z`` (..., features); a function is called on rows, as in a step."""
    if isinstance(value, str):
        return ACTIVATIONS[value].function(z)
    return in_own_dtype(value)(z.flatten(0, -2)).view_as(z)


def is_fused(value: str | Function) -> bool:
    """True if hand-written passes can apply it: if its gradient follows from its output."""
    return isinstance(value, str) and ACTIVATIONS[value].backward is not None


FUSED = tuple(name for name in ACTIVATIONS if is_fused(name))
