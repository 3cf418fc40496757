"""A stream of a memory alone, and of the memory in a stream of the parallel layer."""

import torch
from torch import Tensor

from lmu.layers.memory import LegendreMemory
from lmu.layers.state import State
from lmu.ops._modes import compute_dtype, widen
from lmu.ops._sum import STRETCH
from lmu.theory.rounding import flush, flush_


class MemoryBackend:
    """The memory ``base + delta``, step by step.

    The increments of some steps are added up in ``delta``, which stays small enough for float32,
    and then to ``total``, in float64, of which ``base`` is the copy that steps read.

    Args:
        memory: The memory.
        batch: Number of streams.
        like: A tensor of the dtype and device that the layer has.
        m: Holds the memory after each step (batch, channels * order).
    """

    def __init__(
        self, memory: LegendreMemory, batch: int, like: Tensor, m: Tensor | None = None
    ) -> None:
        self.memory, self.batch, self.like = memory, batch, like
        self.d, self.c = d, c = memory.memory_size, memory.channels
        self.dtype = dtype = compute_dtype(like.dtype)
        system = memory._system(like.device)
        E, Bd = system.increment().expand(c, d, d), system.Bd.expand(c, d)
        self.E = E.mT.to(dtype, copy=True).contiguous().unbind()
        self.Bd = Bd.to(dtype, copy=True)[:, None].unbind()
        self.m = self.Bd[0].new_empty(batch, c * d) if m is None else m
        self.base, self.delta = self.m.new_empty(batch, c * d), self.m.new_empty(batch, c * d)
        self.parts = self._parts(self.m, self.delta)
        self.start(None)

    def start(self, state: State) -> None:
        if state is None:
            m = torch.zeros_like(self.base)
        else:
            m = self.memory._checked_memory(state, self.batch, self.like).flatten(1)
        self.total = widen(m).clone()
        self.delta.zero_()
        self._fold()

    def _fold(self) -> None:
        self.total.add_(self.delta)
        self.delta.zero_()
        flush_(self.base.copy_(self.total))
        self.m.copy_(self.base)
        self.age = 0

    def advance(self, u: Tensor) -> None:
        """Advance all streams one step, in ``m``."""
        if self.age == STRETCH:
            self._fold()
        self._add_increment(u, self.parts)
        torch.add(self.base, self.delta, out=self.m)
        self.age += 1

    def advance_some(self, u: Tensor, rows: Tensor) -> None:
        """Advance those of the streams that ``rows`` number."""
        if self.age:
            self._fold()
        increment = torch.zeros_like(self.delta[rows])
        self._add_increment(u, self._parts(self.m[rows], increment))
        total = self.total[rows] + increment
        m = flush(total.to(self.dtype))
        for part, new in ((self.total, total), (self.base, m), (self.m, m)):
            part.index_copy_(0, rows, new)

    def _parts(self, m: Tensor, increment: Tensor) -> list[tuple[Tensor, ...]]:
        """Of each channel the memory, its increment and the matrices."""
        views = (m.split(self.d, dim=1), increment.split(self.d, dim=1))
        return list(zip(*views, self.E, self.Bd, strict=True))

    def _add_increment(self, u: Tensor, parts: list[tuple[Tensor, ...]]) -> None:
        """Add ``E m + Bd u`` of each channel."""
        each = (u,) if self.c == 1 else u.split(1, dim=1)
        for u_c, (m, increment, E, Bd) in zip(each, parts, strict=True):
            increment.addmm_(m, E).addmm_(u_c, Bd)

    def step(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        u = x.to(self.dtype)
        if rows is None:
            self.advance(u)
            return self.m.clone()
        self.advance_some(u, rows)
        return self.m[rows]

    def state(self) -> State:
        return flush((self.total + self.delta).to(self.dtype))

    def reset(self, rows: Tensor) -> None:
        for part in (self.total, self.base, self.delta, self.m):
            part[rows] = 0
