"""Discretization of the continuous system with a step of 1."""

from collections.abc import Callable

import torch
from torch import Tensor

from lmu._arguments import explained, tensor
from lmu.theory.euler import euler, euler_unchecked

Discretizer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def zoh(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Zero-order hold, exact for an input that is constant during each step.

    ``[[Ad, Bd], [0, 1]] = expm([[A, B], [0, 0]])``. Source: Voelker et al., 2019, section 2.
    """
    order = A.shape[0]
    block = A.new_zeros(order + 1, order + 1)
    block[:order, :order] = A
    block[:order, order] = B
    block = torch.linalg.matrix_exp(block)
    return block[:order, :order].contiguous(), block[:order, order].contiguous()


def bilinear(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Bilinear (trapezoidal) rule, second order and always stable.

    ``Ad = (I - A/2)^-1 (I + A/2)``, ``Bd = (I - A/2)^-1 B``.
    """
    identity = torch.eye(A.shape[0], dtype=A.dtype, device=A.device)
    right = torch.cat([identity + A / 2, B[:, None]], dim=1)
    solved = torch.linalg.solve(identity - A / 2, right)
    return solved[:, :-1].contiguous(), solved[:, -1].contiguous()


DISCRETIZERS: dict[str, Discretizer] = {
    "zoh": zoh,
    "euler": euler,
    "euler-unchecked": euler_unchecked,
    "bilinear": bilinear,
}


_A = tensor("order", "order", floating=True, filled=True)
_B = tensor("order", floating=True, filled=True)


@explained(A=_A, B=_B)
def discretize(A: Tensor, B: Tensor, method: str = "zoh") -> tuple[Tensor, Tensor]:
    """Discretize ``dm/dt = A m + B u`` with a step of 1: ``m_t = Ad m_{t-1} + Bd u_t``.

    Args:
        A: (order, order), per time step.
        B: (order,), per time step.
        method: A key of :data:`DISCRETIZERS`: ``"zoh"``, ``"euler"``, ``"bilinear"``, or
            ``"euler-unchecked"``, which builds what ``"euler"`` refuses.

    Returns:
        ``Ad`` (order, order) and ``Bd`` (order,), of the dtype of ``A``.

    Raises:
        TypeError: A matrix is no floating tensor.
        ValueError: The method is unknown, or it is Euler's and the window is too short; or shapes
            do not fit.
    """
    if not isinstance(method, str) or method not in DISCRETIZERS:
        raise ValueError(f"discretizer must be one of {sorted(DISCRETIZERS)}, got {method!r}")
    return DISCRETIZERS[method](A, B)
