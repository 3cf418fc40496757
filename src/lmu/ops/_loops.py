"""Loops over time whose steps a compiler may not look into one by one."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from lmu.ops._modes import is_differentiated
from lmu.ops._sum import STRETCH

Carry = tuple[Any, ...]
Slices = tuple[Tensor, ...]
Stepped = tuple[Carry, Tensor]
Step = Callable[[Carry, Slices], Stepped]


def in_stretches(
    step: Step, carry: Carry, xs: tuple[Tensor, ...], mend: Callable[[Carry], Carry]
) -> tuple[Carry, Tensor]:
    """As :func:`over_time`, with ``mend`` applied to what is carried every now and then."""
    if torch.compiler.is_compiling():

        def mended(carry: Carry, slices: Slices) -> Stepped:
            carry, y = step(carry, slices)
            return mend(carry), y

        return over_time(mended, carry, xs)
    if xs[0].shape[1] <= STRETCH:
        carry, y = over_time(step, carry, xs)
        return mend(carry), y
    outputs = []
    for stretch in zip(*(x.split(STRETCH, dim=1) for x in xs), strict=True):
        carry, y = over_time(step, carry, stretch)
        carry = mend(carry)
        outputs.append(y)
    return carry, torch.cat(outputs, dim=1)


def over_time(step: Step, carry: Carry, xs: tuple[Tensor, ...]) -> tuple[Carry, Tensor]:
    """Run ``step(carry, slices) -> (carry, output)`` over the second axis of ``xs``.

    Compiled or exported it is one operator for any length, where PyTorch has one with gradients;
    in older versions, and otherwise, the steps follow each other.

    Returns:
        The last carry, and the outputs (batch, time, ...).
    """
    outputs = []
    if torch.compiler.is_compiling() and not is_differentiated() and _has_scan():
        if all(part is not None for part in carry):
            carry, y = _scan(step, carry, xs)
            return carry, y
        # What it starts from is for the first step to say.
        carry, first = step(carry, tuple(x[:, 0] for x in xs))
        if xs[0].shape[1] == 1:
            return carry, first.unsqueeze(1)
        carry, y = _scan(step, carry, tuple(x[:, 1:] for x in xs))
        return carry, torch.cat([first.unsqueeze(1), y], dim=1)
    for slices in zip(*(x.unbind(1) for x in xs), strict=True):
        carry, y = step(carry, slices)
        outputs.append(y)
    return carry, torch.stack(outputs, dim=1)


def _has_scan() -> bool:
    import torch._higher_order_ops.scan  # noqa: F401 - a module of the name of its function

    return hasattr(sys.modules["torch._higher_order_ops.scan"], "ScanAutogradOp")


def _scan(step: Step, carry: Carry, xs: tuple[Tensor, ...]) -> tuple[Carry, Tensor]:
    from torch._higher_order_ops import scan

    def combine(carry: Carry, slices: Slices) -> Stepped:
        carry, y = step(carry, slices)
        # No result may be another one, or an argument.
        return tree_map(torch.clone, carry), y.clone()

    steps = tuple(x.transpose(0, 1) for x in xs)
    carry, y = scan(combine, tree_map(torch.clone, carry), steps)
    return carry, y.transpose(0, 1)
