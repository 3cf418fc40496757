"""The discrete system, differentiable in the window's length."""

from typing import Any

import torch
from torch import Tensor

from lmu._arguments import checked, explained, one_of, tensor, whole
from lmu.theory.discretize import DISCRETIZERS, bilinear
from lmu.theory.euler import euler_unchecked, least_theta_of_euler
from lmu.theory.legt import legt


class _Exponential(torch.autograd.Function):
    """``(theta, A) -> exp(A / theta)``, whose derivative commutes with it.

    ``d/dtheta exp(A / theta) = -A exp(A / theta) / theta^2``: one product, where differentiating
    the series takes an exponential of twice the size.
    """

    @staticmethod
    def forward(theta: Tensor, A: Tensor) -> Tensor:
        return torch.linalg.matrix_exp(A / theta)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:
        theta, A, exponential = ctx.saved_tensors
        return -(grad_outputs[0] * (A @ exponential)).sum() / theta**2, None


@explained(order=whole(1, 2**20), theta=tensor(floating=True))
def discretize_theta(order: int, theta: Tensor, method: str = "zoh") -> tuple[Tensor, Tensor]:
    """Discretize the Legendre system of a learned window, differentiably in ``theta``.

    With zero-order hold ``Ad = exp(A)`` and ``Bd = e_0 - Ad e_0``: a constant input leaves the
    state ``e_0`` as it is.

    Args:
        order: Number of polynomials d.
        theta: Length of the window in time steps, a tensor without axes, best in float64. It must
            be positive and, for Euler's method, at least :func:`least_theta`; the caller ensures
            this, as a check would wait for the device.
        method: ``"zoh"``, ``"euler"``, ``"euler-unchecked"`` or ``"bilinear"``.

    Returns:
        ``Ad`` (order, order) and ``Bd`` (order,), of the dtype and on the device of ``theta``.

    Raises:
        ValueError: The method is unknown.
    """
    if not isinstance(method, str) or method not in DISCRETIZERS:
        raise ValueError(f"discretizer must be one of {sorted(DISCRETIZERS)}, got {method!r}")
    A, B = (t.to(theta) for t in legt(order, 1.0))
    if method == "bilinear":
        return bilinear(A / theta, B / theta)
    if method in ("euler", "euler-unchecked"):
        return euler_unchecked(A / theta, B / theta)
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        Ad = torch.linalg.matrix_exp(A / theta)
    else:
        Ad = _Exponential.apply(theta, A)
    e_0 = torch.zeros_like(B)
    e_0[0] = 1
    return Ad, e_0 - Ad[:, 0]


@checked(order=whole(1, 2**20), method=one_of(sorted(DISCRETIZERS)))
def least_theta(order: int, method: str) -> float:
    """The shortest window, in time steps, that a discretization accepts; 0 if it accepts any.

    For ``"euler"`` the one at which noise grows tenfold, :func:`lmu.theory.noise_gain`.
    """
    return least_theta_of_euler(int(order)) if method == "euler" else 0.0
