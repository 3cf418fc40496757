"""The nonlinear LMU in the compiled core, step by step."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lmu.ops import native as core
from lmu.ops._modes import differentiable_backward, is_batched, no_autocast
from lmu.ops.cost import Cost, Machine, Problem, beyond
from lmu.ops.lmu.naive import LMUWeights
from lmu.ops.lmu.naive import naive as equations
from lmu.ops.native import lmu as kernels
from lmu.theory.rounding import flush


def native(
    x: Tensor, h: Tensor, m: Tensor, weights: LMUWeights, dynamics: object = None,
    activation: str = "tanh",
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """All hidden states (batch, time, hidden) and the last ``h`` and ``m``.

    Shapes: ``x`` (batch, time, input), ``h`` (batch, hidden) and ``m`` (batch, order) before the
    first step, which may be float64. ``dynamics`` are not used.

    Cost: 2 b T (n^2 + n c d + c d^2) FLOPs in T sequential steps, c memories of order d; backward
    twice that; b T (n + c d) floats of memory, with gradients.
    """
    del dynamics
    core.require(x)
    if torch.compiler.is_compiling():
        y, m_n, _ = _operator(x, h, m, list(weights), activation)
    elif torch.is_grad_enabled() and any(t.requires_grad for t in (x, h, m, *weights)):
        y, m_n, _ = NativeLMU.apply(activation, x, h, m, *weights)
    else:
        y, m_n, _ = kernels.forward(x, h, m, weights, activation, False)
        m_n = m_n.to(m.dtype)
    return y, flush(y[:, -1].clone()), flush(m_n)


def native_cost(problem: Problem) -> Cost:
    """Cost of a sequence in the compiled core, step by step."""
    p, states = problem, problem.channels * problem.order
    flops = 2.0 * p.batch * p.length * (p.rows * (p.rows + states) + states * p.order)
    return Cost(flops, 4.0 * p.batch * p.length * (p.rows + states))


def native_terms(problem: Problem, machine: Machine) -> dict[str, float]:
    """Terms of the time of a sequence in the compiled core, forward and backward.

    Each thread takes its rows of the batch, and reads all weights at each step. Of a single
    sequence it takes some of the units, and the threads meet at each step.
    """
    p, d, n = problem, problem.channels * problem.order, problem.rows
    weights = 4.0 * (n * (n + d) + d * p.order)
    together = 0
    if p.batch == 1:
        together = kernels.sharing(p.length, n, d, p.order, 4, machine.threads)
    busiest = -(-p.batch // machine.threads) * machine.threads / max(1, p.batch)
    each = weights / max(1, together)
    return {
        "calls": 20.0,
        "steps": p.length,
        "meetings": p.length if together else 0.0,
        "flops": 3.0 * native_cost(p).flops * busiest / max(1, together),
        "preparation": 12.0 * n * d * p.order if together else 0.0,
        "matrices": p.length * each,
        "far_bytes": p.length * beyond(each, 1 << 20),
        "bytes": 8.0 * p.batch * p.length * (n + d),
        "new_bytes": 4.0 * weights,
    }


class NativeLMU(torch.autograd.Function):
    """``(activation, x, h_0, m_0, *weights) -> (y, m_n, memories)``."""

    @staticmethod
    def forward(activation: str, x: Tensor, h: Tensor, m: Tensor, *weights: Tensor):
        """Run all steps, and keep all memories."""
        y, m_n, memories = kernels.forward(x, h, m, LMUWeights(*weights), activation, True)
        return y, m_n.to(m.dtype), memories

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what backward needs."""
        ctx.activation, *tensors = inputs
        y, _, memories = output
        ctx.mark_non_differentiable(memories)
        ctx.save_for_backward(y, memories, *tensors)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        """Gradients of all arguments; those of the dynamics only where they are needed."""
        dy, dm = grad_outputs[:2]
        y, memories, *inputs = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        # A derivative of the gradients is needed, or many gradients at once.
        if torch.is_grad_enabled() or is_batched(dy, dm):
            run = partial(plain, ctx.activation)
            return None, *differentiable_backward(run, inputs, (dy, dm), needed)
        with no_autocast(dy.device):
            return None, *_gradients(inputs, y, memories, dy, dm, needed, ctx.activation)


def plain(
    activation: str, x: Tensor, h: Tensor, m: Tensor, *weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Result of :class:`NativeLMU` by autograd."""
    y, _, m_n = equations(x, h, m.to(x.dtype), LMUWeights(*weights), activation)
    return y, m_n.to(m.dtype)


def _gradients(
    inputs: Sequence[Tensor], y: Tensor, memories: Tensor, dy: Tensor, dm: Tensor,
    needed: Sequence[bool], activation: str,
) -> list[Tensor | None]:  # fmt: skip
    x, h, m, *weights = inputs
    learned = needed[-2] or needed[-1]
    grads = kernels.backward(
        x, h, m, LMUWeights(*weights), y, memories, dy, dm, activation, learned
    )
    each = zip(grads._replace(m=grads.m.to(m.dtype)), needed, strict=True)
    return [grad if need else None for grad, need in each]


# Operators for torch.compile; the layer takes that of blocks, for any length.


@torch.library.custom_op(
    "lmu::steps",
    mutates_args=(),
    schema="(Tensor x, Tensor h, Tensor m, Tensor[] weights, str activation) "
    "-> (Tensor, Tensor, Tensor)",
)
def _operator(
    x: Tensor, h: Tensor, m: Tensor, weights: Sequence[Tensor], activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    y, m_n, memories = kernels.forward(x, h, m, LMUWeights(*weights), activation, True)
    return y, m_n.to(m.dtype), memories


@_operator.register_fake
def _(
    x: Tensor, h: Tensor, m: Tensor, weights: Sequence[Tensor], activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, _ = x.shape
    shapes = (batch, length, h.shape[1]), (batch, length, m.shape[1])
    return x.new_empty(shapes[0]), m.new_empty(m.shape), x.new_empty(shapes[1])


@torch.library.custom_op(
    "lmu::steps_backward",
    mutates_args=(),
    schema="(Tensor[] inputs, Tensor y, Tensor memories, Tensor dy, Tensor dm, bool[] needed, "
    "str activation) -> Tensor[]",
)
def _backward_operator(
    inputs: Sequence[Tensor], y: Tensor, memories: Tensor, dy: Tensor, dm: Tensor,
    needed: Sequence[bool], activation: str,
) -> list[Tensor]:  # fmt: skip
    grads = _gradients(inputs, y, memories, dy, dm, needed, activation)
    # Copies: results of an operator must not alias each other.
    return [inputs[0].new_empty(0) if g is None else g.clone() for g in grads]


@_backward_operator.register_fake
def _(
    inputs: Sequence[Tensor], y: Tensor, memories: Tensor, dy: Tensor, dm: Tensor,
    needed: Sequence[bool], activation: str,
) -> list[Tensor]:  # fmt: skip
    each = zip(inputs, needed, strict=True)
    return [t.new_empty(t.shape) if need else inputs[0].new_empty(0) for t, need in each]


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, h, m, weights, ctx.activation = inputs
    y, _, memories = output
    ctx.needed = [t.requires_grad for t in (x, h, m, *weights)]
    ctx.save_for_backward(y, memories, x, h, m, *weights)


def _backward_of_operator(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:
    y, memories, *inputs = ctx.saved_tensors
    grads = _backward_operator(inputs, y, memories, *grad_outputs[:2], ctx.needed, ctx.activation)
    each = [g if need else None for g, need in zip(grads, ctx.needed, strict=True)]
    return *each[:3], each[3:], None


_operator.register_autograd(_backward_of_operator, setup_context=_keep_for_backward)
