"""Legendre Memory Units for PyTorch."""

from lmu.layers import (
    LMU,
    LMUFFT,
    Bidirectional,
    LegendreMemory,
    LMUCell,
    LMUStack,
    Stream,
    detach_state,
)
from lmu.ops.native import native_status

__version__ = "0.1.0"

__all__ = [
    "LMU",
    "LMUFFT",
    "Bidirectional",
    "LMUCell",
    "LMUStack",
    "LegendreMemory",
    "Stream",
    "__version__",
    "detach_state",
    "native_status",
]
