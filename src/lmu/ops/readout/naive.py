"""The read-out of a linear memory by its equations: the reference of all methods."""

from collections.abc import Callable

from torch import Tensor

from lmu.ops._activations import apply_rows
from lmu.ops.memory.dispatch import run_memory


def naive(
    u: Tensor, x: Tensor, Ad: Tensor, Bd: Tensor, W_m: Tensor, W_x: Tensor, bias: Tensor,
    m_0: Tensor | None = None, activation: str | Callable[[Tensor], Tensor] = "relu",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Hidden units of all steps (batch, time, hidden) and the last memory, by autograd.

    Shapes: as in :func:`lmu.ops.readout`; all in one dtype, float64 for the truth.

    Cost: 2 b T c (d^2 + d r) FLOPs, of which d^2 in T sequential steps.

    Source: Chilkuri & Eliasmith, ICML 2021, equations 19 and 20.
    """
    m, m_n = run_memory(u, Ad, Bd, m_0, method="naive")
    z = m.flatten(2) @ W_m.mT + x @ W_x.mT + bias
    return apply_rows(activation, z), m_n
