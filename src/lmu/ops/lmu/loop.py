"""The nonlinear LMU with any encoder and hidden cell, one step after another, by autograd."""

from contextlib import nullcontext
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lmu._arguments import explained, instance, tensor
from lmu.ops._activations import Function, activation_of, check_activation
from lmu.ops._loops import Carry, Slices, Stepped, in_stretches
from lmu.ops._modes import no_autocast
from lmu.ops._states import State, freeze, last_valid, output_of
from lmu.ops._sum import Sum
from lmu.ops.cost import Cost, Machine, Problem, beyond
from lmu.ops.lmu.naive import LMUWeights
from lmu.ops.recurrence import recurrence
from lmu.theory.rounding import flush

Masks = tuple[Tensor | None, Tensor | None]  # of h and of m


class Memory(NamedTuple):
    """A memory that reads the previous step's states; all in the dtype of the computation."""

    E: Tensor  # (order, order), Ad - I of all channels as one system
    Bd: Tensor  # (order, channels)
    e_h: Tensor | None  # (channels, hidden)
    e_m: Tensor | None  # (channels, order)
    activation: Function | None = None  # of its input
    dropout: float = 0.0  # probability that a state is dropped where it is fed back

    def masks(self, h: Tensor, m: Tensor) -> Masks:
        """Draw factors of ``h`` and ``m`` where they are fed back, the same at all steps."""
        if not self.dropout:
            return None, None
        dtype = self.E.dtype
        mask_h = F.dropout(torch.ones_like(h, dtype=dtype), self.dropout)
        mask_m = F.dropout(torch.ones_like(m, dtype=dtype), self.dropout)
        return mask_h, mask_m

    def step(self, u: Tensor, h: Tensor, m: Sum, masks: Masks = (None, None)) -> tuple[Tensor, Sum]:
        """Complete the input (batch, channels) from the share of x in it, and advance the state."""
        for state, encoder, mask in ((h, self.e_h, masks[0]), (m.m, self.e_m, masks[1])):
            if encoder is not None:
                fed = state if state.dtype == u.dtype else state.to(u.dtype)
                u = torch.addmm(u, fed if mask is None else fed * mask, encoder.mT)
        u = u if self.activation is None else activation_of(self.activation).function(u)
        return u, m.advance(u, self.E, self.Bd)


class Cell(Protocol):
    """A hidden cell that reads the memory."""

    def inputs(self, x: Tensor, /) -> Tensor:
        """Prepare the input (batch, time, input) for all steps at once."""
        ...

    def start(self, u: Tensor, h: State, /) -> State:
        """Return the state before the first step; None if only the cell knows it."""
        ...

    def step(self, m: Tensor, x: Tensor, h: State, /) -> tuple[Tensor, State]:
        """Return output and state from the memory, a slice of :meth:`inputs` and the last state."""
        ...


class DefaultCell(NamedTuple):
    """``h_t = f(W_x x_t + W_h h_{t-1} + W_m m_t)``, a bias being a column of ``W_x``."""

    W_x: Tensor
    W_h: Tensor
    W_m: Tensor
    activation: str | Function = "tanh"

    def inputs(self, x: Tensor) -> Tensor:
        """Return the share of ``x`` in the argument of the activation."""
        return F.linear(x, self.W_x)

    def start(self, u: Tensor, h: State) -> State:
        """Return the state before the first step, if there is one."""
        return h

    def step(self, m: Tensor, x: Tensor, h: State) -> tuple[Tensor, State]:
        """Return output and state, from the memory, the share of x and the last state."""
        z = torch.addmm(torch.addmm(x, h, self.W_h.mT), m, self.W_m.mT)
        h = activation_of(self.activation).function(z)
        return h, h

    def run(self, a: Tensor, h: State, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """Return outputs of all steps and the last state, from the shares of x and m in each step.

        Steps that are padding are False in ``mask`` (batch, time, 1): outputs mean nothing there,
        and the state is that before it.
        """
        y = recurrence(a, h, self.W_h, self.activation)
        return y, last_valid(y, mask, h)


def run_steps(
    u: Tensor,
    x: Tensor,
    h: State,
    m: Tensor,
    memory: Memory,
    cell: Cell,
    hidden: int,
    mask: Tensor | None = None,
    *,
    record: bool = False,
) -> tuple[Tensor, State, Tensor]:
    """Outputs of all steps (batch, time, hidden), and the last state of the cell and the memory.

    Only the memory, and the default cell, are kept from autocast.

    Shapes: ``u`` (batch, time, channels), the share of x in the memory's input; ``x`` (batch, time,
    input); ``h`` the cell's state or None; ``m`` (batch, order). Steps that are padding are False
    in ``mask`` (batch, time, 1): outputs mean nothing there, and states stay as they are. With
    ``record`` an output is ``[y_t | m_t | u_t]``, in the dtype of the memory.

    Cost: 2 b T (d^2 + n^2 + n d) FLOPs in T sequential steps with the default cell.
    """
    default = isinstance(cell, DefaultCell)
    h = cell.start(u, h)
    before = u.new_zeros(u.shape[0], hidden) if h is None else output_of(h)
    masks = memory.masks(before, m)

    def step(carry: Carry, slices: Slices) -> Stepped:
        (before, h, m), (u_t, x_t, *mask_t) = carry, slices
        m_n = Sum.unpack(m, u.dtype)
        if default:  # nothing is narrowed around the whole loop
            u_t, m_n = memory.step(u_t, before, m_n, masks)
        else:
            with no_autocast(u.device):
                u_t, m_n = memory.step(u_t, before, m_n, masks)
        y, h_n = cell.step(m_n.m, x_t, h)
        output = torch.cat([y.to(m_n.m), m_n.m, u_t], dim=1) if record else y
        if mask_t:
            return (y, freeze(h_n, h, *mask_t), freeze(m_n.pack(), m, *mask_t)), output
        return (y, h_n, m_n.pack()), output

    def fold(carry: Carry) -> Carry:
        before, h, m = carry
        if default:  # other cells' states are left as they are
            before = h = flush(h)
        return before, h, Sum.unpack(m, u.dtype).fold().pack()

    with no_autocast(u.device) if default else nullcontext():
        shares = cell.inputs(x)
        xs = (u, shares) if mask is None else (u, shares, mask)
        start = before, h, Sum.start(m, u.dtype, u.shape[1]).pack()
        (_, h, after), y = in_stretches(step, start, xs, fold)
        return y, h, Sum.unpack(after, u.dtype).end(m.dtype)


def loop(
    x: Tensor, h: Tensor, m: Tensor, weights: LMUWeights, dynamics: object = None,
    activation: str | Function = "tanh",
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """All hidden states (batch, time, hidden) and the last ``h`` and ``m``, step by step.

    Shapes: ``x`` (batch, time, input), ``h`` (batch, hidden) and ``m`` (batch, order) before the
    first step. ``dynamics`` are not used.

    Cost: 2 b T (d^2 + n^2 + n d) FLOPs in T sequential steps.
    """
    del dynamics
    memory, cell = _parts(weights, activation)
    return run_steps(F.linear(x, weights.e_x), x, h, m, memory, cell, h.shape[1])


def loop_cost(problem: Problem) -> Cost:
    """Cost of a sequence step by step."""
    b, T, d, n = problem.batch, problem.length, problem.channels * problem.order, problem.rows
    return Cost(2.0 * b * T * (n * n + n * d + d * d), 4.0 * b * T * n + 4.0 * b * T * (n + d))


def loop_terms(problem: Problem, machine: Machine) -> dict[str, float]:
    """Terms of the time of a sequence step by step, forward and backward."""
    del machine
    d, n = problem.channels * problem.order, problem.rows
    weights = 4.0 * (n * n + n * d + d * d)
    return {
        "calls": 60.0,
        "steps": problem.length,
        "flops": 3.0 * loop_cost(problem).flops,
        "bytes": problem.length * weights,
        "far_bytes": problem.length * beyond(weights, 1 << 20),
    }


def _parts(w: LMUWeights, activation: str | Function) -> tuple[Memory, DefaultCell]:
    return Memory(w.E, w.Bd, w.e_h, w.e_m), DefaultCell(w.W_x, w.W_h, w.W_m, activation)


_row = tensor("batch", "features", floating=True)


@explained(u_x=_row, h_x=_row, h=_row, m=_row, weights=instance(LMUWeights))
def lmu_step(
    u_x: Tensor, h_x: Tensor, h: Tensor, m: Tensor, weights: LMUWeights,
    activation: str | Function = "tanh",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Advance one step, from the share of the input in the two sums and the state before it.

    ``u_t = u_x + e_h h_{t-1} + e_m m_{t-1}``, ``m_t = Ad m_{t-1} + Bd u_t`` and
    ``h_t = f(h_x + W_h h_{t-1} + W_m m_t)``, where ``u_x = e_x x_t`` and ``h_x = W_x x_t``.

    The memory is advanced by its increment, ``m_t = m_{t-1} + E m_{t-1} + Bd u_t`` with ``E = Ad -
    I``, and ``m`` may be float64 for that: see :func:`lmu.ops.memory_step`.

    Args:
        u_x: (batch, channels).
        h_x: (batch, hidden).
        h: Hidden state before the step (batch, hidden).
        m: Memory before the step (batch, order).
        weights: The layer's weights.
        activation: f, ``"tanh"``, ``"relu"``, ``"sigmoid"``, ``"identity"``, ``"gelu"``, or a
            function.

    Returns:
        The new ``h`` and ``m``.

    Cost: 2 b (d^2 + n^2 + n d) FLOPs.

    Source: Voelker et al., NeurIPS 2019, equations 4, 6 and 7.
    """
    check_activation(activation)
    with no_autocast(u_x.device):
        return run_lmu_step(u_x, h_x, h, m, weights, activation)


def run_lmu_step(
    u_x: Tensor, h_x: Tensor, h: Tensor, m: Tensor, weights: LMUWeights,
    activation: str | Function = "tanh",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """:func:`lmu_step` of arguments that have been checked."""
    memory, cell = _parts(weights, activation)
    _, after = memory.step(u_x, h, Sum.start(m, weights.E.dtype, 1))
    return cell.step(after.m, h_x, h)[0], after.end(m.dtype)
