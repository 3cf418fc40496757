"""The read-out in chunks of time: one matrix product per chunk, states only between chunks."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from lmu.ops._activations import ACTIVATIONS
from lmu.ops._modes import is_transformed
from lmu.ops.cost import Cost, Machine, Problem
from lmu.ops.memory.chunked import (
    channels_at_once,
    chunk_length,
    chunked_readout,
    terms_of_chunks,
)


def chunks_readout(
    u: Tensor, x: Tensor, Ad: Tensor, Bd: Tensor, W_m: Tensor, W_x: Tensor, bias: Tensor,
    m_0: Tensor | None, H: Tensor | None, activation: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One matrix product per chunk of time, a short recurrence between chunks.

    Cost: 2 b T c (L + d) r FLOPs with chunks of L steps; memory b T r floats.
    """
    del H
    z, m_n = channels_readout(u, Ad, Bd, W_m, m_0)
    length = x.shape[1]
    x1 = pad(x, (0, 1, 0, z.shape[1] - length), value=1.0)
    W1 = torch.cat([W_x, bias[:, None]], dim=1)
    if is_transformed():
        return ACTIVATIONS[activation].function(z + x1 @ W1.mT)[:, :length], m_n
    # In place: earlier operations do not need z for backward.
    z.flatten(0, 1).addmm_(x1.flatten(0, 1), W1.mT)
    return ACTIVATIONS[activation].in_place(z)[:, :length], m_n


def channels_readout(
    u: Tensor, Ad: Tensor, Bd: Tensor, W_m: Tensor, m_0: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The chunked read-out summed over channels, and the last states (batch, channels, order)."""
    order, length, number = Bd.shape[-1], u.shape[1], u.shape[2]
    at_once = 1 if Ad.ndim == 3 else channels_at_once(length, order, len(W_m))
    z, last = None, []
    for c in range(0, number, at_once):
        these = slice(c, min(c + at_once, number))
        dynamics = (Ad, Bd) if Ad.ndim == 2 else (Ad[c], Bd[c])
        W = W_m[:, these.start * order : these.stop * order]
        start = None if m_0 is None else m_0[:, these]
        if is_transformed() and z is not None:
            part, m_n = chunked_readout(u[..., these], *dynamics, W, start)
            z = z + part
        else:
            z, m_n = chunked_readout(u[..., these], *dynamics, W, start, z)
        last.append(m_n)
    assert z is not None
    return z, torch.cat(last, dim=1)


def chunks_readout_cost(problem: Problem) -> Cost:
    """Cost of the hidden units at all steps in chunks."""
    return cost_of_chunks(problem, chunk_length(problem.length, problem.order, problem.rows))


def cost_of_chunks(problem: Problem, inputs: float) -> Cost:
    """Cost of chunks whose outputs are sums over ``inputs`` inputs and the states before them."""
    b, T, c, d, r = (
        problem.batch, problem.length, problem.channels, problem.order, problem.rows
    )  # fmt: skip
    steps = chunk_length(T, d, r)
    flops = 2.0 * b * T * c * (inputs + d) * r + 2.0 * c * steps * d * d * r
    return Cost(flops, 4.0 * b * T * r + 4.0 * c * (steps + d) * steps * r)


def chunks_readout_terms(problem: Problem, machine: Machine) -> dict[str, float]:
    """Terms of the time of all hidden units in chunks, forward and backward."""
    del machine
    p = problem
    return terms_of_chunks(p, chunks_readout_cost(p).flops, p.rows, p.batch, p.channels)
