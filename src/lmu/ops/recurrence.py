"""A recurrence whose inputs are all known beforehand: only the state is sequential."""

from typing import Any

import torch
from torch import Tensor

from lmu.ops._loops import Carry, Slices, Stepped, over_time
from lmu.ops._modes import (
    differentiable_backward,
    is_batched,
    is_differentiated,
    is_exporting,
    is_transformed,
    no_autocast,
)
from lmu.theory.rounding import flush_

OFTEN = 16  # steps, after each of which numbers that are about to become denormal are flushed


def recurrence(a: Tensor, h: Tensor, W: Tensor, *, linear: bool = False) -> Tensor:
    """``y_t = tanh(a_t + W y_{t-1})`` from ``y_{-1} = h``, or without the tanh if ``linear``.

    Shapes: ``a`` (batch, time, size), ``h`` (batch, size), ``W`` (size, size); returns (batch,
    time, size).

    Cost: 2 b T n^2 FLOPs in T sequential steps, one product and one tanh each.
    """
    if torch.compiler.is_compiling() and not (is_differentiated() or is_exporting()):
        return _compiled(a, h, W, linear)
    if linear or is_transformed():
        return plain(a, h, W, linear)[0]
    return Recurrence.apply(a, h, W)


def plain(a: Tensor, h: Tensor, W: Tensor, linear: bool = False) -> tuple[Tensor]:
    """What :class:`Recurrence` computes, by autograd."""

    def step(carry: Carry, slices: Slices) -> Stepped:
        z = torch.addmm(slices[0], carry[0], W.mT)
        y = z if linear else torch.tanh(z)
        return (y,), y

    return (over_time(step, (h,), (a,))[1],)


class Recurrence(torch.autograd.Function):
    """``(a, h_0, W) -> y``."""

    @staticmethod
    def forward(a: Tensor, h_0: Tensor, W: Tensor) -> Tensor:
        """One product and one tanh a step, in place."""
        return _forward(a, h_0, W)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the output and what the gradients of the weights need."""
        ctx.save_for_backward(output, *inputs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        """Gradients of all arguments; that of ``W`` is one product over all steps."""
        dy = grad_outputs[0]
        y, *inputs = ctx.saved_tensors
        # A derivative of the gradients is wanted, or many gradients at once.
        if torch.is_grad_enabled() or is_batched(dy):
            return differentiable_backward(plain, inputs, (dy,), ctx.needs_input_grad)
        _, h_0, W = inputs
        with no_autocast(dy.device):
            return _gradients(_backward(dy, y, W), y, h_0, W)


def _forward(a: Tensor, h: Tensor, W: Tensor, linear: bool = False) -> Tensor:
    y = a.clone(memory_format=torch.contiguous_format)
    with torch.inference_mode():  # the same kernels, called with less ado
        # Products with rows of W err less, which adds up where no tanh forgets; else speed counts.
        to_h = W.mT if linear else W.mT.contiguous()
        for i, y_t in enumerate(y.unbind(1), start=1):
            h = y_t.addmm_(h, to_h)
            if not linear:
                h.tanh_()
            if i % OFTEN == 0:
                flush_(h)
    return y


def _backward(dy: Tensor, y: Tensor, W: Tensor, linear: bool = False) -> Tensor:
    """The gradient of ``a``."""
    da = dy.clone(memory_format=torch.contiguous_format)
    with torch.inference_mode():
        g = None
        steps = zip(da.unbind(1)[::-1], y.unbind(1)[::-1], strict=True)
        for i, (g_t, y_t) in enumerate(steps, start=1):
            if g is not None:
                g_t.addmm_(g, W)
            if not linear:
                torch.ops.aten.tanh_backward.grad_input(g_t, y_t, grad_input=g_t)
            g = g_t
            if i % OFTEN == 0:
                flush_(g)
    return da


def _gradients(da: Tensor, y: Tensor, h_0: Tensor, W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # Cut last: a compiler tells one step from more.
    before = torch.cat([h_0[:, None], y], dim=1)[:, :-1]
    return da, da[:, 0] @ W, da.flatten(0, 1).mT @ before.flatten(0, 1)


# torch.compile takes it as one operator; traced, its loop would unroll.


@torch.library.custom_op("lmu::recurrence", mutates_args=())
def _compiled(a: Tensor, h: Tensor, W: Tensor, linear: bool) -> Tensor:
    return _forward(a, h, W, linear)


@torch.library.custom_op("lmu::recurrence_backward", mutates_args=())
def _compiled_backward(dy: Tensor, y: Tensor, W: Tensor, linear: bool) -> Tensor:
    return _backward(dy, y, W, linear)


@_compiled.register_fake
def _(a: Tensor, h: Tensor, W: Tensor, linear: bool) -> Tensor:
    return torch.empty_like(a, memory_format=torch.contiguous_format)


@_compiled_backward.register_fake
def _(dy: Tensor, y: Tensor, W: Tensor, linear: bool) -> Tensor:
    return torch.empty_like(dy, memory_format=torch.contiguous_format)


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, h, W, ctx.linear = inputs
    ctx.save_for_backward(output, h, W)


def _backward_of_compiled(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    y, h, W = ctx.saved_tensors
    return *_gradients(_compiled_backward(dy, y, W, ctx.linear), y, h, W), None


_compiled.register_autograd(_backward_of_compiled, setup_context=_keep_for_backward)
