"""One step after another, in the precision of the input."""

import torch
from torch import Tensor

from lmu._arguments import explained, tensor
from lmu.ops._loops import Carry, Slices, Stepped, over_time

_tensor = tensor(floating=True)


@explained(u=_tensor, m=_tensor, E=_tensor, Bd=_tensor)
def memory_step(u: Tensor, m: Tensor, E: Tensor, Bd: Tensor) -> Tensor:
    """One step by the increment, ``m_t = m_{t-1} + E m_{t-1} + Bd u_t`` with ``E = Ad - I``.

    For a long window ``Ad`` is close to the identity, and rounding it to float32 loses digits that
    rounding ``E`` keeps.

    Shapes: ``u`` (batch, channels), ``m`` (batch, channels, order), ``E`` (order, order), ``Bd``
    (order,), all of one dtype; with dynamics for each channel ``E`` (channels, order, order) and
    ``Bd`` (channels, order). Returns the new ``m``.
    """
    increment = m @ E.mT if E.ndim == 2 else (m.unsqueeze(2) @ E.mT).squeeze(2)
    return m + u[..., None] * Bd + increment


def recurrent(u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None, H: Tensor | None) -> Tensor:
    """All memory states, step by step in the precision of ``u``.

    Shapes: ``u`` (batch, time, channels), ``Ad`` (order, order), ``Bd`` (order,), ``m_0`` (batch,
    channels, order); returns (batch, time, channels, order). ``H`` is not used.

    Cost: 2 b T c d^2 FLOPs in T sequential steps.

    Source: Voelker et al., NeurIPS 2019, equation 4.
    """
    del H
    E = (Ad - torch.eye(len(Bd), dtype=Ad.dtype, device=Ad.device)).to(u.dtype)
    Bd = Bd.to(u.dtype)
    m = u.new_zeros(u.shape[0], u.shape[2], len(Bd)) if m_0 is None else m_0

    def step(carry: Carry, slices: Slices) -> Stepped:
        m = memory_step(slices[0], carry[0], E, Bd)
        return (m,), m

    return over_time(step, (m,), (u,))[1]
