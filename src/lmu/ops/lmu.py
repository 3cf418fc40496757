"""The public entry to the nonlinear memory unit: chooses how its sequence is run."""

from collections.abc import Callable

from torch import Tensor

from lmu.ops._autograd import is_transformed
from lmu.ops.lmu_blocks import blocks
from lmu.ops.lmu_fused import fused
from lmu.ops.lmu_loop import LMUWeights, loop

LMU_METHODS: dict[str, Callable[..., tuple[Tensor, Tensor, Tensor]]] = {
    "loop": loop,
    "fused": fused,
    "blocks": blocks,
}


def lmu_sequence(
    x: Tensor, h: Tensor, m: Tensor, weights: LMUWeights, *, method: str = "auto"
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The hidden states of a whole sequence of the nonlinear LMU.

    Args:
        x: Input (batch, time, input), of the dtype of all other arguments.
        h: Hidden state before the first step (batch, hidden).
        m: Memory before the first step (batch, order).
        weights: The layer's weights.
        method: ``"fused"``, with a hand-written backward pass; ``"loop"``, of plain operations; or
            ``"auto"``: ``"loop"`` inside ``torch.compile`` and ``torch.func``, else ``"fused"``.

    Returns:
        Hidden states (batch, time, hidden), and the last ``(h, m)``.

    Raises:
        ValueError: The method is unknown.

    Source: Voelker et al., NeurIPS 2019, equations 4, 6 and 7.
    """
    if method == "auto":
        method = "loop" if is_transformed() else "fused"
    if method not in LMU_METHODS:
        raise ValueError(f"method must be 'auto' or one of {list(LMU_METHODS)}, got {method!r}")
    y, h, m = LMU_METHODS[method](x, h, m, weights)
    return y, (h, m)
