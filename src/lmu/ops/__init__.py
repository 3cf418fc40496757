"""Pure functions that evaluate Legendre memories; every algorithm is one file."""

from lmu.ops.lmu import LMU_METHODS, lmu_sequence
from lmu.ops.lmu_loop import LMUWeights, lmu_step
from lmu.ops.memory import METHODS, Choice, Method, choose, final_memory, memory

__all__ = [
    "LMU_METHODS",
    "METHODS",
    "Choice",
    "LMUWeights",
    "Method",
    "choose",
    "final_memory",
    "lmu_sequence",
    "lmu_step",
    "memory",
]
