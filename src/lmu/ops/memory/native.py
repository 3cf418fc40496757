"""All states by kernels of the compiled core, several sequences or stretches of time at once."""

from typing import Any

import torch
from torch import Tensor

from lmu.ops import native
from lmu.ops._modes import differentiable_backward, is_batched, is_transformed, no_autocast
from lmu.ops.cost import Cost, Machine, Problem, beyond
from lmu.ops.memory.chunked import chunked
from lmu.ops.native.states import Needs, Run, backward, forward
from lmu.ops.native.states_plan import How, layout_of, plan_of
from lmu.ops.system import channels, system_of


def native_states(
    u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None, H: Tensor | None
) -> Tensor:
    """All memory states, step by step within chunks of time, which start at once.

    The states between chunks come first, by the impulse response.

    Shapes: ``u`` (batch, time, channels), ``Ad`` (order, order), ``Bd`` (order,), or with a first
    axis for channels; ``m_0`` (batch, channels, order); returns (batch, time, channels, order).
    ``H`` is not used.

    Cost: 2 b T c d^2 FLOPs.

    Raises:
        ValueError: The compiled core is missing, or does not run on these tensors.
    """
    native.require(u)
    if is_transformed():
        return _plain(u, Ad, Bd, m_0)
    return NativeStates.apply(u, Ad, Bd, m_0)  # pyright: ignore[reportReturnType]


class NativeStates(torch.autograd.Function):
    """``(u, Ad, Bd, m_0) -> m``."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None) -> Tensor:
        """Shapes as in :func:`native_states`."""
        ctx.plan = plan_of(tuple(u.shape), system_of(Ad, Bd), How(), u.dtype)  # pyright: ignore[reportArgumentType]
        m, _, starts = forward(Run(ctx.plan, u=u.contiguous()), m_0, u, last=False)
        ctx.save_for_backward(starts, u, Ad, Bd, m_0)
        return m

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        """Gradients of all arguments."""
        dm, needs = grad_outputs[0], ctx.needs_input_grad
        starts, *inputs = ctx.saved_tensors
        # A derivative of the gradients is needed, or many gradients at once.
        if torch.is_grad_enabled() or is_batched(dm):
            given = inputs if inputs[3] is not None else inputs[:3]

            def run(*t: Tensor) -> tuple[Tensor]:
                u, Ad, Bd, *start = t
                return (_plain(u, Ad, Bd, start[0] if start else None),)

            grads = differentiable_backward(run, given, (dm,), needs[: len(given)])
            return *grads, *([None] * (4 - len(given)))
        with no_autocast(dm.device):
            needed = Needs(x=False, dynamics=needs[1] or needs[2], start=needs[3])
            g = backward(Run(ctx.plan, u=inputs[0].contiguous()), dm, None, None, starts, needed)
        found = zip(inputs, (g.u, g.Ad, g.Bd, g.m_0), needs, strict=True)
        return tuple(g.to(t.dtype) if need and g is not None else None for t, g, need in found)


def _plain(u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None) -> Tensor:
    """The same by PyTorch's operations."""
    if Ad.ndim == 2:
        return chunked(u, Ad, Bd, m_0, None)
    parts = []
    for c, (A, B, _) in enumerate(channels(u.shape[2], Ad, Bd, None)):
        start = None if m_0 is None else m_0[:, c : c + 1]
        parts.append(chunked(u[..., c : c + 1], A, B, start, None))
    return torch.cat(parts, dim=2)


def native_cost(problem: Problem) -> Cost:
    """Cost of all states."""
    values = 1.0 * problem.batch * problem.length * problem.channels * problem.order
    return Cost(2.0 * values * problem.order, 4.0 * values * (1 + 1 / 64))


def native_terms(problem: Problem, machine: Machine) -> dict[str, float]:
    """Terms of the time of all states, forward and backward."""
    return terms_of_tiles(problem, machine, problem.channels * problem.order)


def terms_of_tiles(problem: Problem, machine: Machine, written: int) -> dict[str, float]:
    """Terms of states that are advanced tile by tile, ``written`` numbers being kept a step.

    A tile is a chunk of some sequences. The busiest thread's tiles count, as many times as there
    are threads.
    """
    p = problem
    o = layout_of(p.batch, p.length, p.channels, p.order, p.rows, 4, machine.threads)
    tiles = max(1, -(-p.batch * o.chunks // o.tile))
    busiest = -(-tiles // machine.threads) * machine.threads / tiles
    steps, states = p.batch * p.length * busiest, o.groups * o.padded
    product = states * (o.chunk / 2 if o.direct else o.width + o.inputs)
    values = 4.0 * p.batch * p.length * written
    return {
        "calls": 10.0,
        "steps": tiles * busiest * o.chunk * o.groups,
        "flops": 6.0 * steps * (product + states * p.rows),
        "matrices": 12.0 * tiles * busiest * o.chunk * product,
        "preparation": 4.0 * p.batch * p.channels * o.chunks * p.order * (p.order + o.chunk),
        "bytes": 4.0 * steps * (states + p.rows) + values,
        "far_bytes": beyond(values, 1 << 20),
        "new_bytes": beyond(values, 1 << 25),
    }
