"""The memory by its equation, step by step: the reference of all methods."""

import torch
from torch import Tensor


def naive(u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None, H: Tensor | None) -> Tensor:
    """All memory states, ``m_t = Ad m_{t-1} + Bd u_t``.

    Shapes: ``u`` (batch, time, channels), ``Ad`` (order, order), ``Bd`` (order,), ``m_0`` (batch,
    channels, order); returns (batch, time, channels, order). ``H`` is not used. Computed in the
    dtype of ``Ad`` and rounded once, at the end.

    Cost: 2 b T c d^2 FLOPs in T sequential steps.

    Source: Voelker et al., NeurIPS 2019, equation 4.
    """
    del H
    m = Bd.new_zeros(u.shape[0], u.shape[2], Bd.shape[0]) if m_0 is None else m_0.to(Bd.dtype)
    states = []
    for u_t in u.to(Bd.dtype).unbind(1):
        m = m @ Ad.mT + u_t[..., None] * Bd
        states.append(m)
    return torch.stack(states, dim=1).to(u.dtype)
