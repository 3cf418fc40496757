"""Systems other than Legendre's that a memory can be built with."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmu._arguments import shown
from lmu.ops._modes import is_plain
from lmu.theory import discretize, fourier, fourier_basis
from lmu.theory.discretize import DISCRETIZERS

Decoder = Callable[[int, Tensor], Tensor]


class StateSpace(NamedTuple):
    """``dm/dt = A m + B u`` with time in steps, or already discrete, and how to read its window.

    Attributes:
        A: (order, order), or (channels, order, order) with dynamics for each channel.
        B: (order,) or (channels, order).
        decoder: ``decoder(order, r)`` gives the weights (*r.shape, order) with which a state is
            read out at the fractions ``r`` of the window, float64 on the CPU; None if the system
            has no window.
    """

    A: Tensor
    B: Tensor
    decoder: Decoder | None = None

    def discretize(self, method: str | None) -> dict[str, Tensor]:
        """``Ad`` and ``Bd`` in float64; with the method None they are ``A`` and ``B``."""
        if method is None:
            return {"Ad": self.A, "Bd": self.B}
        if self.A.ndim == 2:
            Ad, Bd = discretize(self.A, self.B, method)
        else:
            pairs = [discretize(A, B, method) for A, B in zip(self.A, self.B, strict=True)]
            Ad, Bd = (torch.stack(matrices) for matrices in zip(*pairs, strict=True))
        return {"Ad": Ad, "Bd": Bd}


# By name: matrices of (order, theta), and the decoder.
SYSTEMS = {"fourier": (fourier, fourier_basis)}


def named_system(name: str, order: int, theta: Any) -> StateSpace:
    """The system of a name, of the window ``theta`` or, if it is a tuple, of each channel's."""
    if name not in SYSTEMS:
        raise ValueError(
            f"system must be one of {list(SYSTEMS)}, (A, B) or (A, B, decoder), got {name!r}"
        )
    matrices, decoder = SYSTEMS[name]
    if not isinstance(theta, tuple):
        return StateSpace(*matrices(order, theta), decoder)
    A, B = zip(*(matrices(order, value) for value in theta), strict=True)
    return StateSpace(torch.stack(A), torch.stack(B), decoder)


def check_system(
    system: Any, order: int, channels: int, theta: Any, learn_theta: bool, discretizer: str | None
) -> StateSpace | None:
    """Return the system that was passed, in float64 on the CPU; None is Legendre's.

    Raises:
        TypeError: It is no tuple of two real tensors and perhaps a function.
        ValueError: A shape does not fit, a number is not finite, or another argument contradicts.
    """
    if system is None:
        if discretizer is None:
            raise ValueError(
                "discretizer=None says that system holds the discrete matrices, and there is no "
                f"system: choose one of {sorted(DISCRETIZERS)}, or pass system=(Ad, Bd)"
            )
        return None
    if isinstance(system, str):
        if discretizer is None:
            raise ValueError("discretizer=None is for discrete matrices, and system has a name")
        system = named_system(system, order, theta)
    if not isinstance(system, (tuple, list)) or len(system) not in {2, 3}:
        raise TypeError(
            f"system must be one of {list(SYSTEMS)}, (A, B) or (A, B, decoder), got {shown(system)}"
        )
    if learn_theta:
        raise ValueError(
            "learn_theta trains the window of the Legendre system, and system is another: train "
            "its matrices by learn_a and learn_b"
        )
    if discretizer == "euler":
        raise ValueError(
            "discretizer 'euler' tests windows of the Legendre system: with system= choose "
            "'euler-unchecked', 'zoh' or 'bilinear', or None if the matrices are discrete"
        )
    A, B, *decoder = system
    for name, matrix in (("A", A), ("B", B)):
        if not isinstance(matrix, Tensor) or not matrix.is_floating_point():
            kind = matrix.dtype if isinstance(matrix, Tensor) else type(matrix).__name__
            raise TypeError(f"{name} of system must be a real floating tensor, got {kind}")
        if matrix.is_meta:
            raise ValueError(f"{name} of system is on meta, without numbers: make it on the CPU")
    shapes = {(order,), (channels, order)}
    if B.shape not in shapes or A.shape != (*B.shape, order):
        raise ValueError(
            f"system must hold A ({order}, {order}) and B ({order},), or with a first axis for "
            f"{channels} channels, got {tuple(A.shape)} and {tuple(B.shape)}"
        )
    if decoder and decoder[0] is not None and not callable(decoder[0]):
        raise TypeError(f"the decoder of system must be a function, got {shown(decoder[0])}")
    A, B = (t.detach().to("cpu", torch.float64, copy=True) for t in (A, B))
    # Fake tensors have no numbers to look at.
    if is_plain(A, B) and not (A.isfinite().all() and B.isfinite().all()):
        raise ValueError("system must hold finite numbers, and there is a NaN or an infinity")
    return StateSpace(A, B, *decoder)
