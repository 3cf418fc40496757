"""The mathematics of the Legendre memory, in float64 on the CPU, without ``nn.Module``."""

from lmu.theory.discretize import DISCRETIZERS, discretize
from lmu.theory.euler import noise_gain
from lmu.theory.fourier import fourier, fourier_basis
from lmu.theory.impulse import apply_power, apply_powers, impulse_response, krylov
from lmu.theory.legendre import decode_window, legendre
from lmu.theory.legt import legt
from lmu.theory.theta import discretize_theta, least_theta

__all__ = [
    "DISCRETIZERS",
    "apply_power",
    "apply_powers",
    "decode_window",
    "discretize",
    "discretize_theta",
    "fourier",
    "fourier_basis",
    "impulse_response",
    "krylov",
    "least_theta",
    "legendre",
    "legt",
    "noise_gain",
]
