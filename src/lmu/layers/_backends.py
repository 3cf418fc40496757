"""Backends of a stream, and the one that steps any layer."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from lmu._arguments import shown
from lmu.layers._base import MemoryLayer
from lmu.layers._modules import unwrap
from lmu.layers.lmu import LMU
from lmu.layers.stack import LMUStack
from lmu.layers.state import Begun, State, map_state
from lmu.ops._modes import compute_dtype, widen
from lmu.ops._states import output_of
from lmu.theory.rounding import narrow


class Backend(Protocol):
    """Keeps the states of all sequences, in buffers of its own.

    ``rows``, the numbers of distinct streams, are those that step; all if None.
    """

    def step(self, x: Tensor, rows: Tensor | None = None) -> Tensor: ...
    def state(self) -> State: ...
    def start(self, state: State) -> None: ...
    def reset(self, rows: Tensor) -> None: ...


def map_memories(layer: object, function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply a function to each memory in a layer's state."""
    inner = unwrap(layer)
    if isinstance(inner, LMUStack):
        y, parts = state
        each = zip(inner.layers, parts, strict=True)
        return y, tuple(map_memories(layer, function, part) for layer, part in each)
    if isinstance(inner, MemoryLayer):
        h, m = state
        return h, function(m)
    return state


class StepsBackend:
    """Any layer, by its own steps; a stream without a past is stepped without a state.

    Memories are carried in float64: see :func:`lmu.ops.memory_step`.
    """

    def __init__(self, layer: LMU | LMUStack, batch: int) -> None:
        self.layer, self.batch = layer, batch
        self.zeros: State = None  # until a step has shown what a state is
        self.start(None)

    def start(self, state: State) -> None:
        self.now, self.fresh = self.zeros, torch.ones(self.batch, dtype=torch.bool)
        if state is not None:
            self._learn()
            self.now = self._fit(self.zeros, state)
            new = state.new if isinstance(state, Begun) else (False,)
            self.fresh = torch.tensor(new).expand(self.batch).clone()
        self.all_old = not self.fresh.any()

    def _learn(self) -> None:
        """Find out what a state looks like, if no step has shown it."""
        if self.zeros is None:
            x = self.layer._like().new_zeros(self.batch, self.layer.input_size)
            self.now = self.zeros = map_state(torch.zeros_like, self._call(x, None)[1])

    def _fit(self, zeros: State, state: State) -> State:
        if isinstance(zeros, tuple):
            if not isinstance(state, (tuple, list)) or len(state) != len(zeros):
                raise TypeError(f"the state must be a tuple of {len(zeros)}, as the stream's is")
            return tuple(self._fit(z, s) for z, s in zip(zeros, state, strict=True))
        if state is None:
            return zeros
        if not isinstance(state, Tensor) or state.shape not in {zeros.shape, (1, *zeros.shape[1:])}:
            raise ValueError(f"a part of the state must have the shape {tuple(zeros.shape)}")
        if state.is_meta or state.layout is not torch.strided or state.is_complex():
            raise TypeError(f"a part of the state must be dense numbers, got {shown(state)}")
        return state.expand(zeros.shape).to(zeros, copy=True)

    def step(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        if rows is None:
            y, self.now = self._step(x, self.now, self.fresh)
            self.zeros = map_state(torch.zeros_like, self.now) if self.zeros is None else self.zeros
            if not self.all_old:
                self.all_old, self.fresh = True, torch.zeros_like(self.fresh)
            return y
        if not len(rows):  # a layer refuses an empty batch
            return x.new_empty(0, self.layer.hidden_size)
        fresh = self.fresh[rows.cpu()]
        self._learn()
        y, after = self._step(x, map_state(lambda s: s[rows], self.now), fresh)
        self.now = map_state(lambda s, new: s.index_copy(0, rows, new), self.now, after)
        self.fresh[rows.cpu()] = False
        self.all_old = not self.fresh.any()
        return y

    def _step(self, x: Tensor, now: State, fresh: Tensor) -> tuple[Tensor, State]:
        # Twice only where it must be: a module may count its calls, or keep a state of its own.
        if self.all_old or not fresh.any():
            return self._call(x, now)
        first = self._call(x, None)
        if fresh.all() and len(fresh) == len(x):
            return first
        later = self._call(x, now)
        fresh = fresh.to(x.device)

        def choose(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(fresh.view(-1, *[1] * (new.ndim - 1)), new, old)

        return map_state(choose, first, later)

    def _call(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        with torch.no_grad():
            y, after = self.layer.step(x, state)
        return y, map_memories(self.layer, widen, after)

    def state(self) -> State:
        self._learn()
        dtype = compute_dtype(self.layer._like().dtype)
        state = map_memories(self.layer, lambda m: narrow(m, dtype), self.now)
        state = map_state(torch.clone, state)
        return state if self.all_old else Begun(state, tuple(self.fresh.tolist()))

    def reset(self, rows: Tensor) -> None:
        self._learn()
        self.fresh[rows.cpu()] = True
        self.all_old = not self.fresh.any()
        # What a state shows of a stream that has no past; a layer's may share memory with others.
        mask = self.fresh.to(output_of(self.zeros).device)

        def clear(s: Tensor) -> Tensor:
            return torch.where(mask.view(-1, *[1] * (s.ndim - 1)), torch.zeros_like(s), s)

        self.now = map_state(clear, self.now)
