"""The public entry to the nonlinear memory unit: chooses how its sequence is run."""

from collections.abc import Callable

import torch
from torch import Tensor

from lmu.ops._autograd import is_transformed
from lmu.ops.choice import Choice
from lmu.ops.lmu_blocks import blocks
from lmu.ops.lmu_loop import LMUWeights, loop
from lmu.ops.lmu_operators import Powers

LMU_METHODS: dict[str, Callable[..., tuple[Tensor, Tensor, Tensor]]] = {
    "loop": loop,
    "blocks": blocks,
}


def choose_lmu(length: int, *, order: int, transformed: bool = False) -> Choice:
    """Pick the method for a sequence of ``length`` steps: a pure function, the same everywhere."""
    if transformed:
        return Choice("loop", "torch.func transforms want plain operations")
    # Measured on a CPU: building a block's operators takes as long as these many steps of the loop.
    least = max(16, order // 16)
    if length < least:
        return Choice("loop", f"fewer than {least} steps do not repay building a block's operators")
    return Choice("blocks", "in blocks of time only the hidden recurrence is sequential")


def lmu_sequence(
    x: Tensor,
    h: Tensor,
    m: Tensor,
    weights: LMUWeights,
    *,
    method: str = "auto",
    powers: Powers | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The hidden states of a whole sequence of the nonlinear LMU.

    Args:
        x: Input (batch, time, input), of the dtype of all other arguments.
        h: Hidden state before the first step (batch, hidden).
        m: Memory before the first step (batch, order).
        weights: The layer's weights.
        method: ``"blocks"``, with a hand-written backward pass; ``"loop"``, of plain operations; or
            ``"auto"``: see :func:`choose_lmu`.
        powers: Of the dynamics, to save ``"blocks"`` computing them where they are constant.

    Returns:
        Hidden states (batch, time, hidden), and the last ``(h, m)``.

    Raises:
        ValueError: The method is unknown.

    Source: Voelker et al., NeurIPS 2019, equations 4, 6 and 7.
    """
    if method == "auto":
        transformed = is_transformed() and not torch.compiler.is_compiling()
        method = choose_lmu(x.shape[1], order=m.shape[1], transformed=transformed).method
    if method not in LMU_METHODS:
        raise ValueError(f"method must be 'auto' or one of {list(LMU_METHODS)}, got {method!r}")
    y, h, m = LMU_METHODS[method](x, h, m, weights, powers)
    return y, (h, m)
