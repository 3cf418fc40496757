r"""The nonlinear LMU in blocks of time: only the hidden recurrence goes step by step.

The memory is linear, so within a block of L steps it need not be advanced. With ``m`` the state
before the block, the argument of the activation f and the memory's input are, at step s = 0, 1, ...

    a_s = W_x x_s + W_h h_{s-1} + W_m Ad^{s+1} m + sum_{j<=s} W_m Ad^j Bd u_{s-j}
    u_s = e_x x_s + e_h h_{s-1} + e_m Ad^s m + sum_{j<s} e_m Ad^j Bd u_{s-1-j}

Inserting ``u_s`` into ``a_s`` leaves terms of the past alone. The terms of x and m are one product
a block for all its steps; a step is one more, ``z_s += z_{s-1} M``, and f in place, where a
block state ``z_s`` is ``[h_s | u_s u_{s-1} ... | 0]``: M also moves the input history along. At the
end of the block these give the next state, ``m + (Ad^L - I) m + sum_j Ad^j Bd u_{L-1-j}``.

Backward runs the same way: ``z_{s-1} += z_s M^T`` on gradients of block states, and products over
whole blocks for everything else. A step saves the d^2 FLOPs that advance the memory, reads n^2
weights instead of n^2 + n d + d^2, and calls little else.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lmu.ops._activations import activation_of
from lmu.ops._modes import differentiable_backward, is_batched, no_autocast, widen
from lmu.ops.cost import Cost, Machine, Problem, beyond
from lmu.ops.lmu.block_matrices import (
    BlockDynamics,
    BlockMatrices,
    block_dynamics,
    block_length,
    block_matrices,
)
from lmu.ops.lmu.blocks_backward import backward
from lmu.ops.lmu.blocks_forward import ForwardResult, Saved, forward
from lmu.ops.lmu.naive import LMUWeights
from lmu.ops.native import lmu_blocks as core
from lmu.ops.native import require
from lmu.theory.rounding import flush, narrow


def blocks(
    x: Tensor,
    h: Tensor,
    m: Tensor,
    weights: LMUWeights,
    dynamics: BlockDynamics | None = None,
    activation: str = "tanh",
    *,
    engine: str = "torch",
) -> tuple[Tensor, Tensor, Tensor]:
    """All hidden states (batch, time, hidden) and the last ``h`` and ``m``.

    Shapes: ``x`` (batch, time, input), ``h`` (batch, hidden) and ``m`` (batch, order) before the
    first step. Without ``dynamics`` they are computed, differentiably, from the weights. With
    ``engine`` "triton" the steps of a block are one launch, see :mod:`lmu.ops.triton`, and with
    "native" everything is, in the compiled core.

    Cost: 2 b T (n^2 + n d + d^2 / L) FLOPs with blocks of L steps, in T sequential steps, and 2 L n
    d^2 once; b T n floats of memory; backward twice that arithmetic.
    """
    if engine == "native":
        require(x)
    length, channels = x.shape[1], len(weights.e_x)
    if dynamics is None:
        steps = block_length(len(weights.W_m), channels)
        wide = block_dynamics(widen(weights.E), widen(weights.Bd), steps)
        dynamics = BlockDynamics(*(narrow(t, x.dtype) for t in wide))
    if not torch.compiler.is_compiling() and length < len(dynamics.increments):
        dynamics = BlockDynamics(dynamics.increments[: length + 1], dynamics.H[: length * channels])
    matrices = block_matrices(weights, dynamics)
    run = _compiled if torch.compiler.is_compiling() else BlockLMU.apply
    y, m_n, *_ = run(engine, activation, x, h, m, *matrices)
    return y, flush(y[:, -1].clone()), flush(m_n)


def blocks_cost(problem: Problem) -> Cost:
    """Cost of a sequence in blocks."""
    b, T, d, n = problem.batch, problem.length, problem.channels * problem.order, problem.rows
    steps = min(T, block_length(n, problem.channels))
    width = n + steps * problem.channels
    flops = 2.0 * b * T * (width**2 + n * d + d * d / steps) + 2.0 * steps * n * d * d
    return Cost(flops, 4.0 * b * T * n + 4.0 * (2 * b + d) * steps * width)


def blocks_terms(problem: Problem, machine: Machine) -> dict[str, float]:
    """Terms of the time of a sequence in blocks, forward and backward."""
    del machine
    b, T, d, n = problem.batch, problem.length, problem.channels * problem.order, problem.rows
    steps = min(T, block_length(n, problem.channels))
    width = n + steps * problem.channels
    matrices, product = 4.0 * steps * width * d, 4.0 * width**2
    return {
        "calls": 120.0,
        "steps": T,
        "blocks": T / steps,
        "flops": 6.0 * b * T * (width**2 + n * d + d * d / steps),
        "preparation": 6.0 * steps * width * d * d,
        "bytes": T * product + (T / steps) * (matrices + 4.0 * d * d),
        "far_bytes": T / steps * beyond(matrices, 1 << 20) + T * beyond(4.0 * b * width, 1 << 16),
        "new_bytes": 3.0 * matrices + 16.0 * d * d,
    }


def native_blocks_terms(problem: Problem, machine: Machine) -> dict[str, float]:
    """Terms of the time of a sequence in blocks of the compiled core, forward and backward.

    Each thread takes its rows of the batch through all steps.
    """
    p, terms = problem, blocks_terms(problem, machine)
    busiest = -(-p.batch // machine.threads) * machine.threads / max(1, p.batch)
    return terms | {"flops": terms["flops"] * busiest}


class BlockLMU(torch.autograd.Function):
    """``(engine, activation, x, h_0, m_0, *matrices) -> (y, m_n, history, memories, R)``."""

    @staticmethod
    def forward(
        engine: str, activation: str, x: Tensor, h_0: Tensor, m_0: Tensor, *matrices: Tensor
    ):
        """Shapes as in :func:`blocks` and :class:`Saved`."""
        (y, *rest), m = _forward(engine, activation, x, h_0, m_0, BlockMatrices(*matrices))
        return y, m, *rest

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what backward needs."""
        y, _, *rest = output
        ctx.engine, ctx.activation, *tensors = inputs
        ctx.mark_non_differentiable(*rest)
        ctx.save_for_backward(y, *rest, *tensors)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        """Gradients of all arguments; those of the dynamics only where they are needed."""
        tensors, (dy, dm) = ctx.saved_tensors, grad_outputs[:2]
        saved, inputs = Saved(*tensors[:4]), tensors[4:]
        needed = ctx.needs_input_grad[2:]
        # A derivative of the gradients is needed, or many gradients at once.
        if torch.is_grad_enabled() or is_batched(dy, dm):
            run = partial(plain, ctx.activation)
            return None, None, *differentiable_backward(run, inputs, (dy, dm), needed)
        with no_autocast(dy.device):
            x, h_0, _, *matrices = inputs
            o, how = BlockMatrices(*matrices), (ctx.engine, ctx.activation)
            return None, None, *_backward(*how, x, h_0, saved, o, dy, dm, needed)


def _forward(
    engine: str, activation: str, x: Tensor, h: Tensor, m: Tensor, o: BlockMatrices
) -> ForwardResult:
    if engine == "native":
        return core.forward(x, h, m, o, activation)
    return forward(x, h, m, o, activation, engine == "triton")


def _backward(
    engine: str, activation: str, x: Tensor, h: Tensor, saved: Saved, o: BlockMatrices,
    dy: Tensor, dm: Tensor, needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:  # fmt: skip
    if engine == "native":
        return core.backward(x, h, saved, o, dy, dm, needed, activation)
    return backward(x, h, saved, o, dy, dm, needed, activation, engine == "triton")


def plain(
    activation: str, x: Tensor, h: Tensor, m: Tensor, *matrices: Tensor
) -> tuple[Tensor, Tensor]:
    """Result of :class:`BlockLMU` by autograd."""
    o, function = BlockMatrices(*matrices), activation_of(activation).function
    n, steps, dtype = h.shape[1], len(o.D) - 1, m.dtype
    channels = len(o.H) // steps
    outputs, wide = [], widen(m)
    for x_b in x.split(steps, dim=1):
        size, m = x_b.shape[1], narrow(wide, x.dtype)
        before = m @ o.W.mT + m @ o.D[:size].mT @ o.W.mT  # (steps, batch, width)
        share = x_b @ o.X + before.transpose(0, 1)
        state = torch.nn.functional.pad(h, (0, len(o.M) - n))
        for base in share.unbind(1):
            total = base + state @ o.M
            h = function(total[:, :n])
            state = torch.cat([h, total[:, n:]], dim=1)
            outputs.append(h)
        held = size * channels
        wide = wide + (m @ o.D[size].mT + state[:, n : n + held] @ o.H[:held])
    return torch.stack(outputs, dim=1), wide.to(dtype)


# One operator for torch.compile; traced, the loop would unroll.


@torch.library.custom_op("lmu::blocks", mutates_args=())
def _compiled(
    engine: str, activation: str, x: Tensor, h_0: Tensor, m_0: Tensor,
    X: Tensor, M: Tensor, W: Tensor, D: Tensor, H: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    saved, m = _forward(engine, activation, x, h_0, m_0, BlockMatrices(X, M, W, D, H))
    return saved.y, m, saved.history, saved.memories, saved.R


@_compiled.register_fake
def _(
    engine: str, activation: str, x: Tensor, h_0: Tensor, m_0: Tensor,
    X: Tensor, M: Tensor, W: Tensor, D: Tensor, H: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    (batch, length, _), (history, order) = x.shape, H.shape
    steps = len(D) - 1
    number = -(-length // steps)
    return (
        x.new_empty(batch, length, h_0.shape[1]),
        torch.empty_like(m_0),
        x.new_empty(number + 1, batch, history),
        x.new_empty(number + 1, batch, order),
        x.new_empty(steps, *W.shape),
    )


# PyTorch 2.6 infers no schema from Sequence[Tensor] and list[Tensor].
@torch.library.custom_op(
    "lmu::blocks_backward",
    mutates_args=(),
    schema="(Tensor[] saved, Tensor[] inputs, Tensor dy, Tensor dm, bool[] needed, "
    "str engine, str activation) -> Tensor[]",
)
def _compiled_backward(
    saved: Sequence[Tensor], inputs: Sequence[Tensor], dy: Tensor, dm: Tensor,
    needed: Sequence[bool], engine: str, activation: str,
) -> list[Tensor]:  # fmt: skip
    x, h_0, _, *matrices = inputs
    o = BlockMatrices(*matrices)
    grads = _backward(engine, activation, x, h_0, Saved(*saved), o, dy, dm, needed)
    each = zip(grads, needed, strict=True)
    return [x.new_empty(0) if g is None or not need else g for g, need in each]


@_compiled_backward.register_fake
def _(
    saved: Sequence[Tensor], inputs: Sequence[Tensor], dy: Tensor, dm: Tensor,
    needed: Sequence[bool], engine: str, activation: str,
) -> list[Tensor]:  # fmt: skip
    each = zip(inputs, needed, strict=True)
    return [torch.empty_like(t) if need else inputs[0].new_empty(0) for t, need in each]


def _backward_of_compiled(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
    tensors, (dy, dm) = ctx.saved_tensors, grad_outputs[:2]
    needed, how = ctx.needs_input_grad[2:], (ctx.engine, ctx.activation)
    grads = _compiled_backward(tensors[:4], tensors[4:], dy, dm, needed, *how)
    return None, None, *(g if need else None for g, need in zip(grads, needed, strict=True))


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    y, _, *rest = output
    ctx.engine, ctx.activation, *tensors = inputs
    ctx.save_for_backward(y, *rest, *tensors)


_compiled.register_autograd(_backward_of_compiled, setup_context=_keep_for_backward)
