"""States that a loop carries: a tensor, or a tuple of states."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

State = Any  # a Tensor, or a tuple of states; the alias cannot name itself


def map_state(function: Callable[..., Tensor], *states: State) -> State:
    """Apply a function to each tensor of a state, or to those of several alike; None stays None."""
    first = states[0]
    if isinstance(first, (tuple, list)):
        return tuple(map_state(function, *parts) for parts in zip(*states, strict=True))
    return None if first is None else function(*states)


def output_of(state: State) -> Tensor:
    """Return the hidden units in a cell's state: the state, or the first of several tensors."""
    return output_of(state[0]) if isinstance(state, (tuple, list)) else state


def freeze(state: State, before: State, mask: Tensor | None = None) -> State:
    """Return the new state where ``mask`` (batch, 1) is True, and the one before elsewhere."""
    if mask is None:
        return state
    if before is None:
        before = map_state(torch.zeros_like, state)

    def choose(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(mask.view(-1, *[1] * (new.ndim - 1)), new, old)

    return map_state(choose, state, before)


def last_valid(y: Tensor, mask: Tensor | None, before: Tensor | None = None) -> Tensor:
    """The step of ``y`` (batch, time, size) at which each sequence ends, (batch, size).

    For a sequence without steps it is the state ``before``, or zero. Padding is False in ``mask``
    (batch, time, 1), and comes last.
    """
    if mask is None:
        return y[:, -1].clone()
    steps = mask.sum(1, keepdim=True)
    index = (steps - 1).clamp(min=0).expand(-1, -1, y.shape[2])
    # Not take_along_dim, for which a compiler makes a graph for each length.
    last = y.gather(1, index).squeeze(1)
    start = last.new_zeros(()) if before is None else before.to(last.dtype)
    return torch.where(steps.squeeze(2) > 0, last, start)
