"""The nonlinear Legendre Memory Unit: one step, and the plain loop that defines what is right."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lmu._arguments import explained, instance, tensor
from lmu.ops._loops import Carry, Slices, Stepped, in_stretches
from lmu.ops._sum import Sum
from lmu.ops.cost import Cost, Problem
from lmu.theory.rounding import flush


class LMUWeights(NamedTuple):
    """Everything that multiplies a signal in the LMU; all of one dtype and on one device.

    Several memory channels are one system of ``order = channels * memory_size`` states: ``E`` has a
    block on its diagonal for each channel, ``Bd`` a column.
    """

    e_x: Tensor  # (channels, input)
    e_h: Tensor  # (channels, hidden)
    e_m: Tensor  # (channels, order)
    W_x: Tensor  # (hidden, input)
    W_h: Tensor  # (hidden, hidden)
    W_m: Tensor  # (hidden, order)
    E: Tensor  # (order, order), Ad - I: see lmu_step
    Bd: Tensor  # (order, channels)


_row = tensor("batch", "features", floating=True)


@explained(u_x=_row, h_x=_row, h=_row, m=_row, weights=instance(LMUWeights))
def lmu_step(
    u_x: Tensor, h_x: Tensor, h: Tensor, m: Tensor, weights: LMUWeights
) -> tuple[Tensor, Tensor]:
    """One step, from the input's share of the two sums and the state before it.

    ``u_t = u_x + e_h h_{t-1} + e_m m_{t-1}``, ``m_t = Ad m_{t-1} + Bd u_t`` and
    ``h_t = tanh(h_x + W_h h_{t-1} + W_m m_t)``, where ``u_x = e_x x_t`` and ``h_x = W_x x_t``.

    The memory is advanced by its increment, ``m_t = m_{t-1} + E m_{t-1} + Bd u_t`` with ``E = Ad -
    I``, and ``m`` may be float64 for that: see :func:`lmu.ops.memory_step`.

    Shapes: ``u_x`` (batch, channels), ``h_x`` (batch, hidden), ``h`` (batch, hidden), ``m`` (batch,
    order); returns the new ``h`` and ``m``.

    Source: Voelker et al., NeurIPS 2019, equations 4, 6 and 7.
    """
    w = weights
    h, after = step_of_sum(u_x, h_x, h, Sum.start(m, w.E.dtype, 1), w)
    return h, after.end(m.dtype)


def step_of_sum(u_x: Tensor, h_x: Tensor, h: Tensor, m: Sum, w: LMUWeights) -> tuple[Tensor, Sum]:
    """:func:`lmu_step` of a memory in a loop."""
    u = torch.addmm(torch.addmm(u_x, h, w.e_h.mT), m.m, w.e_m.mT)
    m = m.advance(u, w.E, w.Bd)
    return torch.tanh(torch.addmm(torch.addmm(h_x, h, w.W_h.mT), m.m, w.W_m.mT)), m


def loop(
    x: Tensor, h: Tensor, m: Tensor, weights: LMUWeights, powers: object = None
) -> tuple[Tensor, Tensor, Tensor]:
    """All hidden states (batch, time, hidden) and the last ``h`` and ``m``, by autograd.

    Shapes: ``x`` (batch, time, input), ``h`` (batch, hidden) and ``m`` (batch, order) before the
    first step. ``powers`` are not used.

    Cost: 2 b T (d^2 + n^2 + n d) FLOPs in T sequential steps.
    """
    del powers
    u_x, h_x = F.linear(x, weights.e_x), F.linear(x, weights.W_x)
    dtype = weights.E.dtype

    def step(carry: Carry, slices: Slices) -> Stepped:
        (u_t, h_t), (h, m) = slices, carry
        h, after = step_of_sum(u_t, h_t, h, Sum.unpack(m, dtype), weights)
        return (h, after.pack()), h

    def mend(carry: Carry) -> Carry:
        h, m = carry
        return flush(h), Sum.unpack(m, dtype).fold().pack()

    start = h, Sum.start(m, dtype, x.shape[1]).pack()
    (h, after), y = in_stretches(step, start, (u_x, h_x), mend)
    return y, h, Sum.unpack(after, dtype).end(m.dtype)


def loop_cost(problem: Problem) -> Cost:
    """Cost of a sequence step by step."""
    b, T, d, n = problem.batch, problem.length, problem.channels * problem.order, problem.rows
    return Cost(2.0 * b * T * (n * n + n * d + d * d), 4.0 * b * T * n + 4.0 * b * T * (n + d))
