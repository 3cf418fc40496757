"""Forward Euler, and the windows for which its memory is usable."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from lmu._arguments import checked, number, tensor
from lmu.theory.legt import legt

GAIN_LIMIT = 10.0  # costs one of the seven digits of float32
_LARGEST = 1e6  # beyond it, rounding makes powers of Ad grow that exact ones would not


@checked(
    Ad=tensor("order", "order", floating=True, filled=True, finite=True),
    Bd=tensor("order", floating=True, filled=True, finite=True),
    theta=number(above=0),
)
def noise_gain(Ad: Tensor, Bd: Tensor, theta: float) -> float:
    r"""Factor by which a discrete memory is noisier than a perfect window.

    .. math::
        g = \max_i \sqrt{\theta \, P_{ii}}, \qquad
        P = \sum_k (\bar A^k \bar B) (\bar A^k \bar B)^T
        \quad \text{in } z_i = m_i / \sqrt{2i+1}

    White noise of standard deviation 1 gives ``z_i`` a standard deviation of ``1 / sqrt(theta)`` in
    a perfect window, and of at most g times as much in this memory. With zero-order hold and the
    bilinear rule g is at most 1. The sum's number of terms is doubled until the rest is negligible.

    Args:
        Ad: Discrete matrix (order, order).
        Bd: Discrete input vector (order,).
        theta: Length of the window in time steps.

    Returns:
        The gain; infinity where it is above 1e6, as wherever powers of ``Ad`` grow without bound.

    Cost: three products of matrices (order, order) per doubling, log2(theta) + 5 or so of them.
    """
    i = torch.arange(len(Bd), dtype=torch.float64, device="cpu")
    scale = (2 * i + 1).sqrt()
    power = Ad.to(scale) * (scale / scale[:, None])
    start = Bd.to(scale) / scale
    total = torch.outer(start, start)
    while power.norm() > 1e-3:  # else what follows adds less than 1e-6 of the sum
        total = total + power @ total @ power.mT
        power = power @ power
        if not total.diagonal().max() * theta < _LARGEST**2:  # or NaN
            return math.inf
    return math.sqrt(theta * total.diagonal().max().item())


def euler_unchecked(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Forward Euler, ``Ad = I + A, Bd = B``, of any window, also where states explode.

    Source: Voelker et al., 2019, equation 4 (with a step of 1).
    """
    return torch.eye(A.shape[0], dtype=A.dtype, device=A.device) + A, B.clone()


def euler(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Forward Euler, ``Ad = I + A, Bd = B``: first order, and usable for a long window only.

    Raises:
        ValueError: :func:`noise_gain` is above 10. A spectral radius below 1 is not enough, as
            powers of ``Ad`` grow before they fall.

    Source: Voelker et al., 2019, equation 4 (with a step of 1).
    """
    Ad, Bd = euler_unchecked(A, B)
    theta = 1 / B[0].item()
    gain = noise_gain(Ad, Bd, theta)
    if gain > GAIN_LIMIT:
        raise ValueError(f"{describe_gain(len(B), theta, gain)}. {_FIX}")
    return Ad, Bd


def describe_gain(order: int, theta: float, gain: float) -> str:
    """Describe a memory whose gain is too large, for messages."""
    times = f"{gain:.3g} times" if math.isfinite(gain) else f"more than {_LARGEST:,.0f} times"
    return (
        f"Euler's discretization of order {order} with theta={theta:g} lets powers of Ad grow: "
        f"noise is {times} as large in the states as in a perfect window, where "
        f"{GAIN_LIMIT:g} is allowed"
    )


_FIX = (
    "Use discretizer='zoh' or 'bilinear', a larger theta (the least is "
    "lmu.theory.least_theta(order, 'euler')) or a smaller order; "
    "discretizer='euler-unchecked' builds it all the same"
)


@lru_cache(maxsize=256)
def least_theta_of_euler(order: int) -> float:
    """The shortest window that :func:`euler` accepts, by bisection to 1e-3 of its length.

    It is the lower end of the bracket, so that every accepted theta lies above it: the gain falls
    with theta. At high orders it is about ``0.4 * order**2``.

    Cost: some 10 calls of :func:`noise_gain` that run to the end.
    """
    A, B = legt(order, 1.0)

    def is_accepted(theta: float) -> bool:
        return noise_gain(*euler_unchecked(A / theta, B / theta), theta) <= GAIN_LIMIT

    low, high = 0.0, float(order)
    while not is_accepted(high):
        low, high = high, 2 * high
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if is_accepted(middle) else (middle, high)
    return low
