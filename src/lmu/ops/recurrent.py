"""One step after another, in the precision of the input."""

import torch
from torch import Tensor


def recurrent(u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None, H: Tensor | None) -> Tensor:
    """All memory states, by increments: ``m_t = m_{t-1} + (Ad - I) m_{t-1} + Bd u_t``.

    For a long window ``Ad`` is close to the identity, and rounding it to float32 loses digits that
    rounding ``Ad - I`` keeps.

    Shapes: ``u`` (batch, time, channels), ``Ad`` (order, order), ``Bd`` (order,), ``m_0`` (batch,
    channels, order); returns (batch, time, channels, order). ``H`` is not used.

    Cost: 2 b T c d^2 FLOPs in T sequential steps.

    Source: Voelker et al., NeurIPS 2019, equation 4.
    """
    del H
    batch, length, channels = u.shape
    E = (Ad - torch.eye(len(Bd), dtype=Ad.dtype, device=Ad.device)).to(u.dtype).mT
    forced = u.flatten(0, 1)[..., None] * Bd.to(u.dtype)  # (batch * time, channels, order)
    forced = forced.view(batch, length, channels, -1)
    m = u.new_zeros(batch, channels, len(Bd)) if m_0 is None else m_0
    states = []
    for v in forced.unbind(1):
        m = m + v + m @ E
        states.append(m)
    return torch.stack(states, dim=1)
