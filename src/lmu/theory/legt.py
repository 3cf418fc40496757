"""The continuous Legendre delay system (LegT)."""

import math
from numbers import Integral, Real

import torch
from torch import Tensor

from lmu._arguments import explained, shown, whole


@explained(order=whole(1, 2**20))
def legt(order: int, theta: float) -> tuple[Tensor, Tensor]:
    r"""Matrices of the linear system whose state holds the last ``theta`` steps of its input.

    .. math::
        \dot m = A m + B u, \qquad
        A_{ij} = \frac{2i+1}{\theta} \begin{cases} -1 & i < j \\ (-1)^{i-j+1} & i \ge j \end{cases},
        \qquad B_i = \frac{2i+1}{\theta} (-1)^i

    The state ``m`` is the vector of coefficients of the window in shifted Legendre polynomials.

    Args:
        order: Number of polynomials d, at least 1.
        theta: Length of the window in time steps, positive and finite.

    Returns:
        ``A`` (order, order) and ``B`` (order,), float64 on the CPU, per time step.

    Raises:
        TypeError: ``order`` is not an integer or ``theta`` not a number.
        ValueError: ``order < 1``, or ``theta`` is not positive and finite.

    Source: Voelker et al., NeurIPS 2019, equations 1 and 2.
    """
    length = check_window(order, theta)
    i = torch.arange(int(order), dtype=torch.float64, device="cpu")
    sign = 1 - 2 * (i % 2)  # (-1)^i
    scale = (2 * i + 1) / length
    upper = i[:, None] < i[None, :]
    A = scale[:, None] * torch.where(upper, -1.0, -sign[:, None] * sign[None, :])
    return A, scale * sign


def check_window(order: int, theta: float) -> float:
    """Return the length of a window as a float; refuse a wrong order or length."""
    if isinstance(order, bool) or not isinstance(order, Integral):
        raise TypeError(f"order must be an int, got {order!r}")
    if order < 1:
        raise ValueError(f"order must be at least 1, got {order}")
    if isinstance(theta, bool) or not isinstance(theta, Real):
        raise TypeError(f"theta must be a number of time steps, got {theta!r}")
    try:
        length = float(theta)
    except OverflowError:
        length = math.inf
    if not (math.isfinite(length) and length > 0):
        raise ValueError(
            f"theta must be a positive, finite number of time steps, got {shown(theta)}: "
            "give the length of the window that the memory should hold"
        )
    return length
