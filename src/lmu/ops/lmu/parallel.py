"""The LMU whose hidden state is not fed back into the memory: only h is sequential."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lmu.ops._modes import widen
from lmu.ops.cost import Cost, Problem
from lmu.ops.lmu.naive import LMUWeights
from lmu.ops.memory.chunked import chunk_length, chunked_readout
from lmu.ops.recurrence import recurrence


def parallel(
    x: Tensor, h: Tensor, m: Tensor, weights: LMUWeights, powers: object = None,
    activation: str | Callable[[Tensor], Tensor] = "tanh",
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """All hidden states (batch, time, hidden) and the last ``h`` and ``m``, for ``e_h = 0``.

    The memory is then linear in the input, ``m_t = (Ad + Bd e_m) m_{t-1} + Bd e_x x_t``, and its
    share of the activation's argument is evaluated for all steps at once, in chunks. Several
    channels must not feed each other: for them ``e_m`` is not read.

    Shapes: ``x`` (batch, time, input), ``h`` (batch, hidden) and ``m`` (batch, order) before the
    first step. ``powers`` are not used.

    Cost: 2 b T (n^2 + n (d + L)) FLOPs with chunks of L steps, of which n^2 in T sequential steps.
    """
    del powers
    w = weights
    a, m_n = _memory(F.linear(x, w.e_x), m, w)
    a = a[:, : x.shape[1]] + F.linear(x, w.W_x)
    y = recurrence(a, h, w.W_h, activation)
    return y, y[:, -1].clone(), m_n


def _memory(u: Tensor, m: Tensor, w: LMUWeights) -> tuple[Tensor, Tensor]:
    """``W_m m_t`` at all steps, (batch, whole chunks, hidden), and the last memory."""
    Ad = widen(w.E) + torch.eye(len(w.E), dtype=widen(w.E).dtype, device=w.E.device)
    Bd, number = widen(w.Bd), u.shape[2]
    if number == 1:
        return chunked_readout(u[..., 0], Ad + Bd * w.e_m, Bd[:, 0], w.W_m, m)
    a, last, size = None, [], len(Ad) // number
    for c in range(number):
        own = slice(c * size, (c + 1) * size)
        part, m_n = chunked_readout(
            u[..., c], Ad[own, own], Bd[own, c], w.W_m[:, own], m[:, own].contiguous()
        )
        a = part if a is None else a + part
        last.append(m_n)
    assert a is not None
    return a, torch.cat(last, dim=1)


def parallel_cost(problem: Problem) -> Cost:
    """Cost of a sequence whose hidden state is not fed back."""
    b, T, d, n = problem.batch, problem.length, problem.channels * problem.order, problem.rows
    steps = chunk_length(T, d, n)
    flops = 2.0 * b * T * n * (n + d + steps)
    return Cost(flops, 8.0 * b * T * n + 4.0 * (steps + d) * steps * n)
