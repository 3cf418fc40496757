"""A recurrence whose inputs are all known in advance: only the state is sequential."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lmu.ops._activations import ACTIVATIONS, activation_of, is_fused
from lmu.ops._loops import Carry, Slices, Stepped, over_time
from lmu.ops._modes import (
    differentiable_backward,
    has_kernels,
    is_batched,
    is_differentiated,
    is_exporting,
    is_transformed,
    no_autocast,
)
from lmu.ops.native import recurrence as kernels
from lmu.theory.rounding import flush_

OFTEN = 16  # steps between flushes of numbers that are about to become denormal


def recurrence(
    a: Tensor, h: Tensor, W: Tensor, activation: str | Callable[[Tensor], Tensor] = "tanh"
) -> Tensor:
    """``y_t = f(a_t + W y_{t-1})`` from ``y_{-1} = h``.

    Shapes: ``a`` (batch, time, size), ``h`` (batch, size), ``W`` (size, size); returns (batch,
    time, size). ``activation`` is f, a name of :data:`lmu.ops._activations.ACTIVATIONS` or a
    function; by a hand-written backward pass where the gradient of f follows from its output,
    and then in the compiled core where that can run.

    Cost: 2 b T n^2 FLOPs in T sequential steps, one product and one f each.
    """
    if not is_fused(activation):
        return plain(a, h, W, activation)[0]
    if torch.compiler.is_compiling() and not (is_differentiated() or is_exporting()):
        return _compiled(a, h, W, activation)
    if is_transformed():
        return plain(a, h, W, activation)[0]
    return Recurrence.apply(a, h, W, activation)


def plain(
    a: Tensor, h: Tensor, W: Tensor, activation: str | Callable[[Tensor], Tensor]
) -> tuple[Tensor]:
    """Result of :class:`Recurrence` by autograd."""
    function = activation_of(activation).function

    def step(carry: Carry, slices: Slices) -> Stepped:
        y = function(torch.addmm(slices[0], carry[0], W.mT))
        return (y,), y

    return (over_time(step, (h,), (a,))[1],)


class Recurrence(torch.autograd.Function):
    """``(a, h_0, W, activation) -> y``."""

    @staticmethod
    def forward(a: Tensor, h_0: Tensor, W: Tensor, activation: str) -> Tensor:
        """Run one product and one activation a step, in place."""
        return _forward(a, h_0, W, activation)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the output and what the gradients of the weights need."""
        *tensors, ctx.activation = inputs
        ctx.save_for_backward(output, *tensors)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        """Gradients of all arguments; that of ``W`` is one product over all steps."""
        dy = grad_outputs[0]
        y, *inputs = ctx.saved_tensors
        # A derivative of the gradients is needed, or many gradients at once.
        if torch.is_grad_enabled() or is_batched(dy):
            run = partial(plain, activation=ctx.activation)
            return *differentiable_backward(run, inputs, (dy,), ctx.needs_input_grad[:3]), None
        _, h_0, W = inputs
        with no_autocast(dy.device):
            return *_backward(dy, y, h_0, W, ctx.activation), None


def _forward(a: Tensor, h: Tensor, W: Tensor, activation: str) -> Tensor:
    if has_kernels(a, h, W):
        return kernels.forward(a, h, W, activation)
    activate = ACTIVATIONS[activation].in_place
    y = a.clone(memory_format=torch.contiguous_format)
    with torch.inference_mode():  # the same kernels, with less overhead per call
        # Products with rows of W err less, which adds up without an activation; else speed counts.
        to_h = W.mT if activation == "identity" else W.mT.contiguous()
        for i, y_t in enumerate(y.unbind(1), start=1):
            h = activate(y_t.addmm_(h, to_h))
            if i % OFTEN == 0:
                flush_(h)
    return y


def _backward(
    dy: Tensor, y: Tensor, h_0: Tensor, W: Tensor, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``a``, ``h_0`` and ``W``."""
    if has_kernels(dy, y, h_0, W):
        return kernels.backward(dy, y, h_0, W, activation)
    da = dy.clone(memory_format=torch.contiguous_format)
    differentiate: Any = ACTIVATIONS[activation].backward
    with torch.inference_mode():
        g = None
        steps = zip(da.unbind(1)[::-1], y.unbind(1)[::-1], strict=True)
        for i, (g_t, y_t) in enumerate(steps, start=1):
            if g is not None:
                g_t.addmm_(g, W)
            differentiate(g_t, y_t, grad_input=g_t)
            g = g_t
            if i % OFTEN == 0:
                flush_(g)
    # Cut after the concatenation: a compiler would specialize on a single step.
    before = torch.cat([h_0[:, None], y], dim=1)[:, :-1]
    return da, da[:, 0] @ W, da.flatten(0, 1).mT @ before.flatten(0, 1)


# One operator for torch.compile; traced, the loop would unroll.


@torch.library.custom_op("lmu::recurrence", mutates_args=())
def _compiled(a: Tensor, h: Tensor, W: Tensor, activation: str) -> Tensor:
    return _forward(a, h, W, activation)


@torch.library.custom_op("lmu::recurrence_backward", mutates_args=())
def _compiled_backward(
    dy: Tensor, y: Tensor, h: Tensor, W: Tensor, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    return _backward(dy, y, h, W, activation)


@_compiled.register_fake
def _(a: Tensor, h: Tensor, W: Tensor, activation: str) -> Tensor:
    return torch.empty_like(a, memory_format=torch.contiguous_format)


@_compiled_backward.register_fake
def _(
    dy: Tensor, y: Tensor, h: Tensor, W: Tensor, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    contiguous = torch.contiguous_format
    return (
        torch.empty_like(dy, memory_format=contiguous),
        torch.empty_like(h, memory_format=contiguous),
        torch.empty_like(W, memory_format=contiguous),
    )


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, h, W, ctx.activation = inputs
    ctx.save_for_backward(output, h, W)


def _backward_of_compiled(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    y, h, W = ctx.saved_tensors
    return *_compiled_backward(dy, y, h, W, ctx.activation), None


_compiled.register_autograd(_backward_of_compiled, setup_context=_keep_for_backward)
