"""Encoder, memory and read-out in one pass of the compiled core, for layers whose calls are short.

Their gradients are one pass too: a small layer takes as long as the calls that it is made of.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from lmu.ops import native
from lmu.ops._activations import ACTIVATIONS
from lmu.ops._modes import differentiable_backward, is_batched
from lmu.ops.native.states import Needs, Run, backward, forward
from lmu.ops.native.states_plan import How, plan_of
from lmu.ops.readout.chunked import chunks_readout
from lmu.ops.system import System


def encoded_readout(
    x: Tensor, W_u: Tensor, b_u: Tensor, encoder_activation: str, system: System, W_h: Tensor,
    b_h: Tensor, m_0: Tensor | None, activation: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Hidden units ``f(W_h [m_t; x_t] + b_h)`` of the memory of ``u_t = g(W_u x_t + b_u)``.

    Shapes: ``x`` (batch, time, input), ``W_u`` (channels, input), ``W_h`` (hidden, channels * order
    + input), or without columns for the input, which is not read then; ``m_0`` (batch, channels,
    order). All but the constant system are of one dtype, float32 or float64, but ``m_0`` may be
    wider. Returns (batch, time, hidden) and the last state (batch, channels, order).

    Cost: 2 b T c d (d + r) FLOPs besides those of the encoder; memory b T (r + c) floats.

    Source: Chilkuri & Eliasmith, ICML 2021, equations 18 to 20.
    """
    return EncodedReadout.apply(x, W_u, b_u, W_h, b_h, m_0, system, encoder_activation, activation)  # pyright: ignore[reportReturnType]


_NUMBERS = native.ACTIVATION_NUMBERS


class EncodedReadout(torch.autograd.Function):
    """``(x, W_u, b_u, W_h, b_h, m_0, system, g, f) -> (y, m_n)``."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_u: Tensor, b_u: Tensor, W_h: Tensor, b_h: Tensor,
        m_0: Tensor | None, system: System, encoder_activation: str, activation: str,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Shapes as in :func:`encoded_readout`."""
        (batch, length, features), (rows, columns) = x.shape, W_h.shape
        shape = batch, length, W_u.shape[0]
        how = How(
            rows, columns - shape[2] * system.Bd.shape[-1], _NUMBERS[activation],
            features, _NUMBERS[encoder_activation],
        )  # fmt: skip
        ctx.plan = plan_of(shape, system, how, x.dtype)
        ctx.how = encoder_activation, activation
        u = x.new_empty(shape)
        y, m_n, starts = forward(_run(ctx, u, x, W_u, b_u, W_h, b_h), m_0, x, last=True)
        ctx.set_materialize_grads(False)
        kept = None if activation == "identity" else y  # which others may overwrite then
        ctx.save_for_backward(kept, u, starts, x, W_u, b_u, W_h, b_h, m_0)
        return y, m_n

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        """Gradients of all arguments."""
        dy, dm = grad_outputs
        y, u, starts, *inputs = ctx.saved_tensors
        needs = ctx.needs_input_grad[:6]
        if dy is None:
            dy = u.new_zeros(*u.shape[:2], len(inputs[3]))
        y = dy if y is None else y
        # A derivative of the gradients is needed, or many gradients at once.
        if torch.is_grad_enabled() or is_batched(*(g for g in (dy, dm) if g is not None)):
            return *_plain_backward(ctx, inputs, dy, dm, needs), None, None, None
        run = _run(ctx, u, *inputs[:5])
        g = backward(run, dy, y, dm, starts, Needs(needs[0], False, needs[5]))
        grads = [g.x, g.encoder_weight, g.encoder_bias, g.W, g.bias, g.m_0]
        if g.m_0 is not None:
            grads[5] = g.m_0.to(inputs[5].dtype)
        found = (grad if need else None for grad, need in zip(grads, needs, strict=True))
        return *found, None, None, None


def _run(ctx: Any, u: Tensor, x: Tensor, W_u: Tensor, b_u: Tensor, W_h: Tensor, b_h: Tensor) -> Run:
    plan, x, W_h = ctx.plan, x.contiguous(), W_h.contiguous()
    W_x = W_h.data_ptr() + plan.shape[2] * plan.order * W_h.element_size()
    return Run(
        plan, W_h.shape[1], u=u, x=x, W_m=W_h, W_x=W_x, bias=b_h.contiguous(),
        encoder_weight=W_u.contiguous(), encoder_bias=b_u.contiguous(), encoder_x=x, encoder_u=u,
    )  # fmt: skip


def _plain_backward(
    ctx: Any, inputs: list[Any], dy: Tensor, dm: Tensor | None, needs: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients by plain operations, which may be differentiated again."""
    given = inputs if inputs[5] is not None else inputs[:5]
    plan, (encoder_activation, activation) = ctx.plan, ctx.how
    states = plan.shape[2] * plan.order

    def run(*t: Tensor) -> tuple[Tensor, ...]:
        x, W_u, b_u, W_h, b_h, *start = t
        u = ACTIVATIONS[encoder_activation].function(linear(x, W_u, b_u))
        W_m, W_x = W_h[:, :states], W_h[:, states:]
        read = x[..., : W_x.shape[1]]
        m_0, system = start[0] if start else None, plan.system
        y, m_n = chunks_readout(u, read, system.Ad, system.Bd, W_m, W_x, b_h, m_0, None, activation)
        return (y,) if dm is None else (y, m_n)

    seeds = (dy,) if dm is None else (dy, dm)
    grads = differentiable_backward(run, given, seeds, needs[: len(given)])
    return *grads, *([None] * (6 - len(given)))
