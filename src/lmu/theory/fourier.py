"""The continuous Fourier system of a sliding window, and the basis of its state."""

import math

import torch
from torch import Tensor

from lmu._arguments import checked, explained, tensor, whole
from lmu.theory.legt import check_window


@explained(order=whole(1, 2**20))
def fourier(order: int, theta: float) -> tuple[Tensor, Tensor]:
    r"""Matrices of the linear system whose state is a Fourier series of the last ``theta`` steps.

    .. math::
        \dot m = A m + B u, \qquad A = \frac{D - 2 g g^\top}{\theta}, \qquad B = \frac{2 g}{\theta}

    The state is the vector of coefficients of the window in the orthonormal basis ``g_i(r)`` of
    :func:`fourier_basis`, ``m_i(t) = \int_0^1 u(t - r theta) g_i(r) dr``. Here ``g = g(0)``, and
    ``D``, with ``g'(r) = D g(r)``, is skew: ``-2 pi k`` from the sine of frequency k to its cosine,
    and ``2 pi k`` back.

    Integration by parts leaves ``theta dm/dt = D m + (u(t) - u(t - theta)) g``. At its ends the
    series gives the mean of both, so that ``u(t - theta)`` is taken to be ``2 g^T m - u(t)``.

    Args:
        order: Number of coefficients d = 2 K + 1, an odd number: a constant, and a cosine and a
            sine for each of K frequencies.
        theta: Length of the window in time steps, positive and finite.

    Returns:
        ``A`` (order, order) and ``B`` (order,), float64 on the CPU, per time step.

    Raises:
        TypeError: ``order`` is not an integer or ``theta`` not a number.
        ValueError: ``order`` is even or below 1, or ``theta`` is not positive and finite.

    Source: Gu et al., "How to Train Your HiPPO", ICLR 2023, the system FouT.
    """
    length = check_window(order, theta)
    g = fourier_basis(order, torch.zeros((), dtype=torch.float64, device="cpu"))
    A = -2 * torch.outer(g, g)
    cosines = torch.arange(1, int(order), 2, device="cpu")
    frequencies = math.pi * (cosines + 1).double()  # 2 pi k
    A[cosines, cosines + 1] -= frequencies
    A[cosines + 1, cosines] += frequencies
    return A / length, 2 * g / length


@checked(order=whole(1, 2**20), r=tensor(floating=True))
def fourier_basis(order: int, r: Tensor) -> Tensor:
    r"""The Fourier basis at the delays ``r``: ``1, sqrt(2) cos(2 pi r), sqrt(2) sin(2 pi r), ...``.

    .. math:: u(t - r\theta) \approx \sum_i g_i(r)\, m_i(t), \qquad 0 \le r \le 1

    It is orthonormal over a window, ``0 <= r <= 1``.

    Args:
        order: Number of functions, odd: a constant, and a cosine and a sine for each frequency.
        r: Delays of any shape as fractions of the window, floating.

    Returns:
        (*r.shape, order), of the dtype of ``r``.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: ``order`` is even or below 1.
    """
    if order % 2 == 0:
        raise ValueError(
            f"order must be odd, a constant and a cosine and sine for each frequency, got {order}: "
            f"give {order - 1} or {order + 1}"
        )
    k = torch.arange(1, (order + 1) // 2, dtype=r.dtype, device=r.device)
    angles = 2 * math.pi * r[..., None] * k
    pairs = torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(-2)
    return torch.cat([torch.ones_like(r)[..., None], math.sqrt(2) * pairs], dim=-1)
