"""Loops over time in a graph, for lengths unknown when it is traced.

Both take ``step(carry, slices) -> (carry, output)``, with a carry of one or more tensors and an
output shaped like the first of them, and return the last carry and, if ``all_outputs``, the outputs
(time, ...), else None. The carry and slices of ``xs`` are tuples; time is the first axis of ``xs``,
and it has at least one step.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Carry = tuple[Tensor, ...]
Step = Callable[[Carry, Carry], tuple[Carry, Tensor]]
Loop = Callable[[Step, Carry, Carry, bool], tuple[Carry, Tensor | None]]


def scan_loop(
    step: Step, carry: Carry, xs: Carry, all_outputs: bool
) -> tuple[Carry, Tensor | None]:
    """Loop by the operator ``scan``, which ONNX has."""
    from torch._higher_order_ops import scan

    def combine(carry: Carry, slices: Carry) -> tuple[Carry, tuple[Tensor, ...]]:
        carry, output = step(carry, slices)
        return carry, (output.clone(),) if all_outputs else ()

    last, outputs = scan(combine, carry, xs)
    return last, outputs[0] if all_outputs else None


def while_loop(
    step: Step, carry: Carry, xs: Carry, all_outputs: bool
) -> tuple[Carry, Tensor | None]:
    """Loop by the operator ``while_loop``, as Inductor refuses scans of variable shape.

    Each step copies the outputs of all: their memory traffic grows with the square of the length.
    """
    from torch._higher_order_ops import while_loop as loop

    length = xs[0].shape[0]
    at = torch.zeros(1, dtype=torch.int64, device=xs[0].device)
    outputs = (carry[0].new_zeros(length, *carry[0].shape),) if all_outputs else ()

    def unfinished(at: Tensor, *_: Tensor) -> Tensor:
        return (at < length).all()

    def body(at: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        before, outputs = rest[: len(carry)], rest[len(carry) :]
        slices = tuple(x.index_select(0, at).squeeze(0) for x in xs)
        after, output = step(before, slices)
        return (at + 1, *after, *(o.index_copy(0, at, output[None]) for o in outputs))

    _, *rest = loop(unfinished, body, (at, *carry, *outputs))
    return tuple(rest[: len(carry)]), rest[-1] if all_outputs else None
