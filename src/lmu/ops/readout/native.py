"""The read-out by kernels of the compiled core: states are formed a few at a time, and not kept."""

from typing import Any

import torch
from torch import Tensor

from lmu.ops import native
from lmu.ops._modes import differentiable_backward, is_batched, is_transformed, no_autocast
from lmu.ops.cost import Cost, Machine, Problem
from lmu.ops.memory.native import terms_of_tiles
from lmu.ops.native.states import Needs, Run, backward, forward
from lmu.ops.native.states_plan import How, Plan, plan_of
from lmu.ops.readout.chunked import chunks_readout
from lmu.ops.system import system_of


def native_readout(
    u: Tensor, x: Tensor, Ad: Tensor, Bd: Tensor, W_m: Tensor, W_x: Tensor, bias: Tensor,
    m_0: Tensor | None, H: Tensor | None, activation: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Advance some sequences a few steps, read them out, and go on from there.

    Time is cut into chunks; the states between these come first, by the impulse response, so that
    chunks are sequences like those of the batch.

    Cost: 2 b T c d (d + r) FLOPs; memory b T r floats, and b c d of each chunk.

    Raises:
        ValueError: The compiled core is missing, or does not run on these tensors.
    """
    native.require(u, x)
    if is_transformed():
        return chunks_readout(u, x, Ad, Bd, W_m, W_x, bias, m_0, H, activation)
    return NativeReadout.apply(u, x, Ad, Bd, W_m, W_x, bias, m_0, activation)  # pyright: ignore[reportReturnType]


class NativeReadout(torch.autograd.Function):
    """``(u, x, Ad, Bd, W_m, W_x, bias, m_0, activation) -> (y, m_n)``."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, x: Tensor, Ad: Tensor, Bd: Tensor, W_m: Tensor, W_x: Tensor,
        bias: Tensor, m_0: Tensor | None, activation: str,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Shapes as in :func:`lmu.ops.readout`."""
        how = How(W_x.shape[0], W_x.shape[1], native.ACTIVATION_NUMBERS[activation])
        ctx.plan = plan_of(tuple(u.shape), system_of(Ad, Bd), how, u.dtype)  # pyright: ignore[reportArgumentType]
        y, m_n, starts = forward(_run(ctx.plan, u, x, W_m, W_x, bias), m_0, u, last=True)
        ctx.activation = activation
        ctx.set_materialize_grads(False)
        kept = None if activation == "identity" else y  # which others may overwrite then
        ctx.save_for_backward(kept, starts, u, x, Ad, Bd, W_m, W_x, bias, m_0)
        return y, m_n

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        """Gradients of all arguments."""
        dy, dm = grad_outputs
        y, starts, *inputs = ctx.saved_tensors
        needs = ctx.needs_input_grad
        if dy is None:
            dy = inputs[0].new_zeros(*inputs[0].shape[:2], len(inputs[5]))
        y = dy if y is None else y
        # A derivative of the gradients is needed, or many gradients at once.
        if torch.is_grad_enabled() or is_batched(*(g for g in (dy, dm) if g is not None)):
            return *_plain_backward(inputs, dy, dm, needs, ctx.activation), None
        with no_autocast(dy.device):
            u, x, _, _, *weights, _ = inputs
            run = _run(ctx.plan, u, x, *weights)
            g = backward(run, dy, y, dm, starts, Needs(needs[1], needs[2] or needs[3], needs[7]))
            assert g.W is not None
            dW_m, dW_x = g.W.split([weights[0].shape[1], weights[1].shape[1]], dim=1)
            grads: list[Any] = [g.u, g.x, g.Ad, g.Bd, dW_m, dW_x, g.bias, g.m_0]
        for i, like in enumerate(inputs):  # dynamics and the initial state may be wider
            if not needs[i]:
                grads[i] = None
            elif grads[i].dtype != like.dtype:
                grads[i] = grads[i].to(like.dtype)
        return *grads, None


def _run(plan: Plan, u: Tensor, x: Tensor, W_m: Tensor, W_x: Tensor, bias: Tensor) -> Run:
    if W_m.stride(1) != 1 or W_x.stride(1) != 1 or W_m.stride(0) != W_x.stride(0):
        both = torch.cat([W_m, W_x], dim=1)
        W_m, W_x = both.split([W_m.shape[1], W_x.shape[1]], dim=1)
    tensors = {"u": u.contiguous(), "x": x.contiguous(), "bias": bias.contiguous()}
    return Run(plan, W_m.stride(0), W_m=W_m, W_x=W_x, **tensors)


def _plain_backward(
    inputs: list[Any], dy: Tensor, dm: Tensor | None, needs: tuple[bool, ...], activation: str
) -> tuple[Tensor | None, ...]:
    """Gradients by plain operations, which may be differentiated again."""
    *tensors, m_0 = inputs
    given = [*tensors, m_0] if m_0 is not None else tensors

    def run(*t: Tensor) -> tuple[Tensor, ...]:
        u, x, Ad, Bd, W_m, W_x, bias, *start = t
        m_0 = start[0] if start else None
        y, m_n = chunks_readout(u, x, Ad, Bd, W_m, W_x, bias, m_0, None, activation)
        return (y,) if dm is None else (y, m_n)

    seeds = (dy,) if dm is None else (dy, dm)
    grads = differentiable_backward(run, given, seeds, needs[: len(given)])
    return *grads, *([None] * (8 - len(given)))


def native_readout_cost(problem: Problem) -> Cost:
    """Cost of the hidden units at all steps; states are not kept."""
    p = problem
    steps, states = p.batch * p.length, p.channels * p.order
    return Cost(2.0 * steps * states * (p.order + p.rows), 4.0 * steps * (p.rows + states / 64))


def native_readout_terms(problem: Problem, machine: Machine) -> dict[str, float]:
    """Terms of the time of all hidden units, forward and backward."""
    return terms_of_tiles(problem, machine, problem.rows)
