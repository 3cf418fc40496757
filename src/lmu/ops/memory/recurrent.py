"""All states step by step, in the precision of the input."""

import torch
from torch import Tensor

from lmu._arguments import explained, tensor
from lmu.ops._loops import Carry, Slices, Stepped, over_time
from lmu.ops._modes import widen
from lmu.ops.cost import Cost, Problem
from lmu.theory.rounding import flush, narrow

_tensor = tensor(floating=True)


@explained(u=_tensor, m=_tensor, E=_tensor, Bd=_tensor)
def memory_step(u: Tensor, m: Tensor, E: Tensor, Bd: Tensor) -> Tensor:
    """Advance one step by the increment: ``m_t = m_{t-1} + E m_{t-1} + Bd u_t``, ``E = Ad - I``.

    For a long window ``Ad`` is close to the identity, and rounding it to float32 loses digits that
    rounding ``E`` keeps. And increments are far smaller than ``m``: added up in float32, those of a
    constant input err alike at each step (docs/numerics.md has figures). So ``m`` may be float64,
    and only its increment float32.

    Shapes: ``u`` (batch, channels), ``m`` (batch, channels, order), ``E`` (order, order), ``Bd``
    (order,), of one dtype but for ``m``; with dynamics for each channel ``E`` (channels, order,
    order) and ``Bd`` (channels, order). Returns the new ``m``.
    """
    read = narrow(m, E.dtype)
    increment = read @ E.mT if E.ndim == 2 else (read.unsqueeze(2) @ E.mT).squeeze(2)
    return flush(m + (increment + u[..., None] * Bd))


def recurrent(u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None, H: Tensor | None) -> Tensor:
    """All memory states, step by step; increments are computed in the precision of ``u``.

    Shapes: ``u`` (batch, time, channels), ``Ad`` (order, order), ``Bd`` (order,), ``m_0`` (batch,
    channels, order); returns (batch, time, channels, order). ``H`` is not used.

    Cost: 2 b T c d^2 FLOPs in T sequential steps.

    Source: Voelker et al., NeurIPS 2019, equation 4.
    """
    del H
    E = narrow(Ad - torch.eye(len(Bd), dtype=Ad.dtype, device=Ad.device), u.dtype)
    Bd = narrow(Bd, u.dtype)
    m = widen(u.new_zeros(u.shape[0], u.shape[2], len(Bd)) if m_0 is None else m_0)

    def step(carry: Carry, slices: Slices) -> Stepped:
        m = memory_step(slices[0], carry[0], E, Bd)
        return (m,), m.to(u.dtype)

    return over_time(step, (m,), (u,))[1]


def recurrent_cost(problem: Problem) -> Cost:
    """Cost of all states, step by step."""
    values = problem.batch * problem.length * problem.channels * problem.order
    return Cost(2.0 * values * problem.order, 8.0 * values)
