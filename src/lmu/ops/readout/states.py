"""The read-out from all memory states, which are formed first."""

import torch
from torch import Tensor

from lmu.ops._activations import ACTIVATIONS
from lmu.ops._modes import is_transformed
from lmu.ops.cost import Cost, Machine, Problem, beyond
from lmu.ops.memory.dispatch import fastest_seconds, run_memory
from lmu.ops.memory.fft import fft_cost
from lmu.ops.memory.recurrent import recurrent_cost


def states_readout(
    u: Tensor, x: Tensor, Ad: Tensor, Bd: Tensor, W_m: Tensor, W_x: Tensor, bias: Tensor,
    m_0: Tensor | None, H: Tensor | None, activation: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Compute all memory states, then the read-out, as in the equations.

    Cost: that of the memory, and 2 b T c d r FLOPs; memory b T c d floats, several times over.
    """
    m, m_n = run_memory(u, Ad, Bd, m_0, H=H)
    if is_transformed():
        z = m.flatten(2) @ W_m.mT + x @ W_x.mT + bias
        return ACTIVATIONS[activation].function(z), m_n
    # In place: earlier operations do not need z for backward.
    z = torch.addmm(bias, x.flatten(0, 1), W_x.mT)
    z.addmm_(m.flatten(2).flatten(0, 1), W_m.mT)
    return ACTIVATIONS[activation].in_place(z).unflatten(0, x.shape[:2]), m_n


def states_readout_cost(problem: Problem) -> Cost:
    """Cost of the hidden units at all steps from all states."""
    p, values = problem, problem.batch * problem.length * problem.rows
    states = recurrent_cost(p) if p.length == 1 else fft_cost(p)
    flops = states.flops + 2.0 * values * p.channels * p.order
    return Cost(flops, states.bytes + 8.0 * values)


def states_readout_terms(problem: Problem, machine: Machine) -> dict[str, float]:
    """Terms of the time of all hidden units from all states, forward and backward."""
    p = problem
    states, values = p.channels * p.order, p.batch * p.length
    return {
        "memory": fastest_seconds(p, machine),
        "calls": 20.0,
        "flops": 6.0 * values * p.rows * states,
        "bytes": 4.0 * values * (p.rows + states),
        "far_bytes": beyond(4.0 * values * (p.rows + states), 1 << 20),
        "new_bytes": beyond(4.0 * values * p.rows, 1 << 25),
    }
