"""Loops over time: one operator under a compiler where PyTorch has one, else step by step."""

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
    step: Step, carry: Carry, xs: tuple[Tensor, ...], fold: Callable[[Carry], Carry]
) -> tuple[Carry, Tensor]:
    """Run :func:`over_time`, applying ``fold`` to the carry every 64 steps; compiled, each step."""
    if torch.compiler.is_compiling():

        def folded(carry: Carry, slices: Slices) -> Stepped:
            carry, y = step(carry, slices)
            return fold(carry), y

        return over_time(folded, carry, xs)
    if xs[0].shape[1] <= STRETCH:
        carry, y = over_time(step, carry, xs)
        return fold(carry), y
    outputs = []
    for stretch in zip(*(x.split(STRETCH, dim=1) for x in xs), strict=True):
        carry, y = over_time(step, carry, stretch)
        carry = fold(carry)
        outputs.append(y)
    return carry, torch.cat(outputs, dim=1)


def over_time(step: Step, carry: Carry, xs: tuple[Tensor, ...]) -> tuple[Carry, Tensor]:
    """Run ``step(carry, slices) -> (carry, output)`` over the second axis of ``xs``.

    Compiled or exported it is one operator for any length, where PyTorch has one with gradients.
    Otherwise, and in older versions, it is a Python loop.

    Returns:
        The last carry, and the outputs (batch, time, ...).
    """
    outputs = []
    if torch.compiler.is_compiling() and not is_differentiated() and _has_scan():
        if all(part is not None for part in carry):
            carry, y = _scan(step, carry, xs)
            return carry, y
        # The first step makes the parts of the carry that are None.
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
        # scan refuses results that alias each other or an argument.
        return tree_map(torch.clone, carry), y.clone()

    steps = tuple(x.transpose(0, 1) for x in xs)
    carry, y = scan(combine, tree_map(torch.clone, carry), steps)
    return carry, y.transpose(0, 1)
