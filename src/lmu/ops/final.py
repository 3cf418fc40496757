"""Only the last state: one matrix product with the impulse response."""

from torch import Tensor

from lmu.ops._precision import widen
from lmu.theory import apply_power, impulse_response


def final(u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None, H: Tensor | None) -> Tensor:
    """The last memory state, ``m_T = sum_k H[:, k] u_{T-k} + Ad^T m_0``.

    Shapes: ``u`` (batch, time, channels), ``Ad`` (order, order), ``Bd`` (order,), ``m_0`` (batch,
    channels, order), ``H`` (order, >= time) or None; returns (batch, channels, order).

    Cost: 2 b T c d FLOPs and no intermediate state; with ``m_0`` also 2 d^3 log2(T), without ``H``
    also 2 d^2 T + 2 d^3 log2(T).

    Source: Chilkuri & Eliasmith, ICML 2021, equation 25.
    """
    batch, length, channels = u.shape
    if H is None:
        H = impulse_response(widen(Ad), widen(Bd), length).to(u.dtype)
    # Reversing the input is cheaper than reversing H, which is order / batch times as large.
    # One product of two matrices: a batch of vectors against H takes several times as long.
    m = (u.flip(1).mT.flatten(0, 1) @ H[:, :length].mT).unflatten(0, (batch, channels))
    if m_0 is not None:
        columns = m_0.flatten(0, 1).mT
        m = m + apply_power(widen(Ad), columns, length).mT.view_as(m)
    return m
