"""Pure functions that evaluate Legendre memories; every algorithm is one file."""

from lmu.ops.cost import Cost, MethodChoice, Problem
from lmu.ops.lmu.block_matrices import BlockDynamics, block_dynamics, block_length
from lmu.ops.lmu.dispatch import (
    LMU_METHODS,
    LMUMethod,
    choose_lmu,
    explain_lmu,
    lmu_sequence,
)
from lmu.ops.lmu.loop import LMUWeights, lmu_step
from lmu.ops.memory.dispatch import (
    MEMORY_METHODS,
    MemoryMethod,
    choose_memory,
    explain_memory,
    final_memory,
    final_state,
    memory,
)
from lmu.ops.memory.recurrent import memory_step
from lmu.ops.readout.dispatch import (
    READOUT_METHODS,
    ReadoutMethod,
    choose_readout,
    explain_readout,
    readout,
)
from lmu.ops.system import System, join_channels

__all__ = [
    "LMU_METHODS",
    "MEMORY_METHODS",
    "READOUT_METHODS",
    "BlockDynamics",
    "Cost",
    "LMUMethod",
    "LMUWeights",
    "MemoryMethod",
    "MethodChoice",
    "Problem",
    "ReadoutMethod",
    "System",
    "block_dynamics",
    "block_length",
    "choose_lmu",
    "choose_memory",
    "choose_readout",
    "explain_lmu",
    "explain_memory",
    "explain_readout",
    "final_memory",
    "final_state",
    "join_channels",
    "lmu_sequence",
    "lmu_step",
    "memory",
    "memory_step",
    "readout",
]
