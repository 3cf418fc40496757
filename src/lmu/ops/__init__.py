"""Pure functions that evaluate Legendre memories; every algorithm is one file."""

from lmu.ops.lmu import LMUWeights, lmu_sequence, lmu_step
from lmu.ops.memory import METHODS, Choice, Method, choose, final_memory, memory

__all__ = [
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
