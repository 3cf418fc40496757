"""The layers: ``nn.Module`` around the pure functions of :mod:`lmu.ops`."""

from lmu.layers.bidirectional import Bidirectional
from lmu.layers.cell import LMUCell
from lmu.layers.lmu import LMU
from lmu.layers.lmu_fft import LMUFFT
from lmu.layers.memory import LegendreMemory
from lmu.layers.stack import LMUStack
from lmu.layers.state import detach_state
from lmu.layers.stream import Stream

__all__ = [
    "LMU",
    "LMUFFT",
    "Bidirectional",
    "LMUCell",
    "LMUStack",
    "LegendreMemory",
    "Stream",
    "detach_state",
]
