"""The public entry to the nonlinear memory unit: chooses how its sequence is run."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lmu._arguments import checked, explained, flag, instance, tensor, word
from lmu.ops._autograd import is_exporting, is_transformed
from lmu.ops.choice import Choice, Work
from lmu.ops.lmu_blocks import blocks
from lmu.ops.lmu_loop import LMUWeights, loop
from lmu.ops.lmu_operators import Powers
from lmu.ops.lmu_parallel import parallel

LMU_METHODS: dict[str, Callable[..., tuple[Tensor, Tensor, Tensor]]] = {
    "loop": loop,
    "blocks": blocks,
    "triton": partial(blocks, kernels=True),
    "parallel": parallel,
}


@checked(work=instance(Work), feedback=flag, transformed=flag)
def choose_lmu(work: Work, *, feedback: bool = True, transformed: bool = False) -> Choice:
    """Pick the method of a nonlinear LMU: a pure function, the same everywhere.

    Args:
        work: Its ``rows`` are the hidden units.
        feedback: Whether the hidden state is fed back into the memory, or several channels of it
            are into each other.
        transformed: Whether ``torch.func`` looks on.
    """
    # Measured on a CPU: building a block's operators takes as long as these many steps of the loop.
    least = max(16, work.channels * work.order // 16)
    if transformed:
        method, reason = "loop", "torch.func transforms want plain operations"
    elif not feedback and work.length > 1:
        method, reason = "parallel", "nothing is fed back: the memory needs no steps, only h does"
    elif work.length < least:
        method, reason = "loop", f"fewer than {least} steps do not repay a block's operators"
    else:
        method, reason = "blocks", "in blocks of time only the hidden recurrence is sequential"
    return Choice(method, reason, work.lmu_cost(method))


@explained(
    x=tensor("batch", "time", "input", floating=True),
    h=tensor("batch", "hidden", floating=True),
    m=tensor("batch", "order", floating=True),
    weights=instance(LMUWeights),
    method=word,
    feedback=flag,
)
def lmu_sequence(
    x: Tensor,
    h: Tensor,
    m: Tensor,
    weights: LMUWeights,
    *,
    method: str = "auto",
    feedback: bool = True,
    powers: Powers | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The hidden states of a whole sequence of the nonlinear LMU.

    Args:
        x: Input (batch, time, input), of the dtype of all other arguments.
        h: Hidden state before the first step (batch, hidden).
        m: Memory before the first step (batch, channels * order).
        weights: The layer's weights.
        method: ``"blocks"``, with a hand-written backward pass; ``"loop"``, of plain operations; or
            ``"auto"``: see :func:`choose_lmu`; or ``"parallel"``, where nothing is fed back; or
            ``"triton"``: blocks whose steps are one kernel, on CUDA, by name only as yet.
        feedback: Whether ``e_h`` may differ from zero, or ``e_m`` with several channels.
        powers: Of the dynamics, to save ``"blocks"`` computing them where they are constant.

    Returns:
        Hidden states (batch, time, hidden), and the last ``(h, m)``.

    Raises:
        ValueError: The method is unknown, or ``"parallel"`` in spite of feedback.

    Source: Voelker et al., NeurIPS 2019, equations 4, 6 and 7.
    """
    if method == "auto" and torch.compiler.is_compiling():
        # Whatever the length, which the compiler should not look at.
        method = "loop" if is_exporting() else "blocks" if feedback else "parallel"
    elif method == "auto":
        transformed = is_transformed()
        channels = len(weights.e_x)
        order, device = m.shape[1] // channels, x.device.type
        work = Work(x.shape[1], order, h.shape[1], x.shape[0], channels, device)
        method = choose_lmu(work, feedback=feedback, transformed=transformed).method
    if not isinstance(method, str) or method not in LMU_METHODS:
        raise ValueError(f"method must be 'auto' or one of {list(LMU_METHODS)}, got {method!r}")
    if method == "parallel" and feedback:
        raise ValueError(
            "method 'parallel' cannot run: e_h feeds the hidden state back into the memory; "
            "choose 'blocks', or build the layer with hidden_to_memory=False"
        )
    y, h, m = LMU_METHODS[method](x, h, m, weights, powers)
    return y, (h, m)
