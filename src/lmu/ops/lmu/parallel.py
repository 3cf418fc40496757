"""The LMU whose hidden state is not fed back into the memory: only h is sequential."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lmu.ops._modes import no_autocast, widen
from lmu.ops._states import State, last_valid
from lmu.ops.cost import Cost, Problem
from lmu.ops.lmu.loop import DefaultCell
from lmu.ops.lmu.naive import LMUWeights
from lmu.ops.memory.chunked import chunk_length
from lmu.ops.memory.dispatch import run_final_state, run_memory
from lmu.ops.readout.chunked import channels_readout
from lmu.ops.system import System


def parallel(
    x: Tensor, h: Tensor, m: Tensor, weights: LMUWeights, dynamics: object = None,
    activation: str | Callable[[Tensor], Tensor] = "tanh",
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """All hidden states (batch, time, hidden) and the last ``h`` and ``m``, for ``e_h = 0``.

    The memory is then linear in the input, ``m_t = (Ad + Bd e_m) m_{t-1} + Bd e_x x_t``. Several
    channels must not feed each other: for them ``e_m`` is not read.

    Shapes: ``x`` (batch, time, input), ``h`` (batch, hidden) and ``m`` (batch, order) before the
    first step. ``dynamics`` are not used.

    Cost: 2 b T (n^2 + n (d + L)) FLOPs with chunks of L steps, of which n^2 in T sequential steps.
    """
    del dynamics
    w = weights
    cell = DefaultCell(w.W_x, w.W_h, w.W_m, activation)
    return run_parallel(F.linear(x, w.e_x), x, h, m, _separate(w), cell)


def _separate(w: LMUWeights) -> System:
    """Split the joined system into those of the channels."""
    number = len(w.e_x)
    E, Bd = widen(w.E), widen(w.Bd)
    if number == 1:
        E = E + Bd * w.e_m
        Ad, Bd = E + torch.eye(len(E), dtype=E.dtype, device=E.device), Bd[:, 0]
    else:
        c = torch.arange(number, device=E.device)
        E = E.unflatten(1, (number, -1)).unflatten(0, (number, -1))[c, :, c]
        Ad = E + torch.eye(E.shape[-1], dtype=E.dtype, device=E.device)
        Bd = Bd.unflatten(0, (number, -1))[c, :, c]
    return System(Ad, Bd, constant=False)


def run_parallel(
    u: Tensor,
    x: Tensor,
    h: State,
    m: Tensor | None,
    system: System,
    cell: Any,
    mask: Tensor | None = None,
    *,
    last: bool = False,
) -> tuple[Tensor, State, Tensor]:
    """Outputs of all steps, and the last state of the cell and of the memory.

    The memory is computed at all steps first, and then the cell.
    Only the memory, and the default cell, are kept from autocast.

    Shapes: ``u`` (batch, time, channels), the memory's input; ``x`` (batch, time, input); ``h`` the
    cell's state or None; ``m`` (batch, channels * order), zeros if None. Steps that are padding are
    False in ``mask`` (batch, time, 1). With ``last`` the cell, which has no state then, reads the
    last step alone.
    """
    default = isinstance(cell, DefaultCell)
    with no_autocast(u.device):
        m_0 = None if m is None else m.unflatten(1, (u.shape[2], -1))
        if default and mask is None:
            z, m_n = channels_readout(u, widen(system.Ad), widen(system.Bd), cell.W_m, m_0)
            y, h = cell.run(z[:, : x.shape[1]] + cell.inputs(x), h)
            return y, h, m_n.flatten(1)
        if last:
            m_n = run_final_state(u, system, m_0).flatten(1)
            states, x = m_n.unsqueeze(1), x[:, -1:]
        else:
            H = system.kept_response(u.shape[1], u.dtype)
            states, m_n = run_memory(u, widen(system.Ad), widen(system.Bd), m_0, H=H)
            states, m_n = states.flatten(2), m_n.flatten(1)
        if mask is not None:
            m_n = last_valid(states, mask, m)
            m_n = m_n if m is None else m_n.to(m.dtype)
        if default:
            y, h = cell.run(F.linear(states, cell.W_m) + cell.inputs(x), h, mask)
            return y, h, m_n
    y, h = cell.sequence(states, x, h, mask)
    return y, h, m_n


def parallel_cost(problem: Problem) -> Cost:
    """Cost of a sequence whose hidden state is not fed back."""
    b, T, d, n = problem.batch, problem.length, problem.channels * problem.order, problem.rows
    steps = chunk_length(T, d, n)
    flops = 2.0 * b * T * n * (n + d + steps)
    return Cost(flops, 8.0 * b * T * n + 4.0 * (steps + d) * steps * n)
