"""Pure functions that evaluate Legendre memories; every algorithm is one file."""

from lmu.ops._channels import join_channels
from lmu.ops.choice import Choice, Work
from lmu.ops.lmu import LMU_METHODS, choose_lmu, lmu_sequence
from lmu.ops.lmu_loop import LMUWeights, lmu_step
from lmu.ops.lmu_operators import Powers, block_length, block_powers
from lmu.ops.memory import METHODS, Method, choose, final_memory, final_state, memory
from lmu.ops.readout import READOUTS, choose_readout, readout
from lmu.ops.recurrent import memory_step
from lmu.ops.system import System

__all__ = [
    "LMU_METHODS",
    "METHODS",
    "READOUTS",
    "Choice",
    "LMUWeights",
    "Method",
    "Powers",
    "System",
    "Work",
    "block_length",
    "block_powers",
    "choose",
    "choose_lmu",
    "choose_readout",
    "final_memory",
    "final_state",
    "join_channels",
    "lmu_sequence",
    "lmu_step",
    "memory",
    "memory_step",
    "readout",
]
