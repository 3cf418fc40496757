"""Legendre polynomials, and decoding of a memory state."""

import torch
from torch import Tensor

from lmu._arguments import checked, explained, tensor, whole


@checked(order=whole(most=2**20), x=tensor(floating=True))
def legendre(order: int, x: Tensor) -> Tensor:
    """Legendre polynomials ``P_0 ... P_{order-1}`` at the points ``x``.

    Three-term recurrence ``(n+1) P_{n+1}(x) = (2n+1) x P_n(x) - n P_{n-1}(x)``, which is stable on
    [-1, 1], where the closed form with binomials overflows.

    Args:
        order: Number of polynomials, at least 1.
        x: Points of any shape, floating.

    Returns:
        (*x.shape, order), of the dtype of ``x``.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: ``order < 1``.
    """
    if order < 1:
        raise ValueError(f"order must be at least 1, got {order}")
    values = [torch.ones_like(x), x]
    for n in range(1, order - 1):
        values.append(((2 * n + 1) * x * values[n] - n * values[n - 1]) / (n + 1))
    return torch.stack(values[:order], dim=-1)


@explained(m=tensor(floating=True), r=tensor(floating=True))
def decode_window(m: Tensor, r: Tensor) -> Tensor:
    r"""Decode past input from a memory state.

    .. math:: u(t - r\theta) \approx \sum_i P_i(2r - 1)\, m_i(t), \qquad 0 \le r \le 1

    With zero-order hold the decoded delay is ``r * theta - 1/2`` steps; the hold shifts it by half
    a step.

    Args:
        m: Memory states (..., order).
        r: Delays (points,) as fractions of the window, within [0, 1]; or (..., points), for each
            state.

    Returns:
        The decoded input (..., points), of the dtype of ``m``.

    Raises:
        TypeError: ``m`` is not floating.
        ValueError: ``r`` has another shape or leaves [0, 1].

    Source: Voelker et al., NeurIPS 2019, equation 3.
    """
    if not m.is_floating_point():
        raise TypeError(f"m must be floating, got {m.dtype}")
    if not r.ndim or (r.ndim > 1 and r.shape[:-1] != m.shape[:-1]):
        raise ValueError(
            f"r must have the shape (points,), or {(*m.shape[:-1], 'points')}, got {tuple(r.shape)}"
        )
    if not ((r >= 0) & (r <= 1)).all():
        raise ValueError(
            f"r must lie within [0, 1], the fraction of the window, got values from "
            f"{r.min().item():g} to {r.max().item():g}"
        )
    weights = legendre(m.shape[-1], 2 * r.to("cpu", torch.float64) - 1)
    if r.ndim == 1:
        return m @ weights.to(m).mT
    return (weights.to(m) @ m.unsqueeze(-1)).squeeze(-1)
