"""Backward of the nonlinear LMU in blocks of time; see :mod:`lmu.ops.lmu.blocks`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lmu.ops._activations import ACTIVATIONS
from lmu.ops._modes import widen
from lmu.ops._sum import FOLD
from lmu.ops.lmu.block_matrices import BlockMatrices
from lmu.ops.lmu.blocks_forward import BlockStates, Saved
from lmu.theory.rounding import flush, flush_, narrow

ROWS = 64  # rows at least of a product, over several blocks where one has fewer


def backward(
    x: Tensor, h_0: Tensor, saved: Saved, o: BlockMatrices, dy: Tensor, dm: Tensor,
    needed: Sequence[bool], activation: str, kernels: bool,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Gradients of ``x``, ``h_0``, ``m_0`` and the matrices."""
    back = _Backward(x, h_0, saved, o, dy, dm, needed, activation, kernels)
    batch, length, steps = x.shape[0], x.shape[1], len(o.D) - 1
    whole, rest = divmod(length, steps)
    group = max(1, min(whole, ROWS // batch))
    with torch.inference_mode():
        if rest:
            back.group(whole, whole + 1, _Workspace(x, h_0, o, 1, rest))
        workspace = _Workspace(x, h_0, o, group, steps)
        for stop in range(whole, 0, -group):
            back.group(max(0, stop - group), stop, workspace)
        back.finish()
    return back.dx, back.dh, (back.total + back.delta).to(dm.dtype), *back.grads


class _Workspace:
    """Buffers of backward for a group of blocks, used for one group after the other."""

    def __init__(self, x: Tensor, h: Tensor, o: BlockMatrices, blocks: int, steps: int) -> None:
        batch, width = len(x), len(o.M)
        self.size = steps
        channels = len(o.H) // (len(o.D) - 1)
        self.states = BlockStates(x, batch, steps, width, h.shape[1], channels)
        self.slope = torch.empty_like(self.states.outputs, memory_format=torch.contiguous_format)
        self.slopes = self.slope.unbind(1)
        self.grads = self.states.all[None]  # of the arguments of f and of u, in each state
        if blocks > 1:
            self.grads = x.new_empty(blocks, batch, steps, width)
        self.before = x.new_zeros(blocks, batch, steps, width)  # the block states before these


class _Backward:
    """Backward in groups of blocks from the end, so that products have many rows."""

    def __init__(
        self, x: Tensor, h_0: Tensor, saved: Saved, o: BlockMatrices, dy: Tensor, dm: Tensor,
        needed: Sequence[bool], activation: str, kernels: bool,
    ) -> None:  # fmt: skip
        self.kernels = kernels
        self.slope: Any = ACTIVATIONS[activation].slope
        self.x, self.h_0, self.saved, self.o, self.dy = x, h_0, saved, o, dy
        # As in lmu.ops._sum.
        self.total, self.base = widen(dm), narrow(dm, x.dtype)
        self.dm, self.delta, self.age = self.base, torch.zeros_like(self.base), 0
        self.dx = torch.empty_like(x) if needed[0] else None
        self.dh = torch.zeros_like(h_0)
        self.grads = BlockMatrices(*(torch.zeros_like(t) for t in o))
        self.dR = torch.zeros_like(saved.R)
        self.learned = needed[6] or needed[7]
        self.steps = len(o.D) - 1
        self.channels = len(o.H) // self.steps
        self.MT = o.M.mT.contiguous()
        self.one = x.new_ones(())

    def group(self, start: int, stop: int, space: _Workspace) -> None:
        """Go back over blocks ``start`` to ``stop``, which have the size of the workspace."""
        for i in range(stop - 1, start - 1, -1):
            self._block(i, space)
            if len(space.grads) > 1:
                space.grads[i - start].copy_(space.states.all)
        number, size, first = stop - start, space.size, start * self.steps
        total, grads = self.grads, space.grads[:number]
        flat = grads.flatten(0, 2)
        total.M.addmm_(self._fill_before(start, number, space).mT, flat)
        x = self.x[:, first : first + number * size].unflatten(1, (number, size)).transpose(0, 1)
        total.X.addmm_(x.flatten(0, 2).mT, flat)
        memories = self.saved.memories[start:stop].flatten(0, 1)
        self.dR[:size].flatten(0, 1).addmm_(grads.flatten(2).flatten(0, 1).mT, memories)
        if self.dx is not None:
            dx = (flat @ self.o.X.mT).view_as(x).transpose(0, 1).flatten(1, 2)
            self.dx[:, first : first + number * size] = dx

    def _block(self, i: int, space: _Workspace) -> None:
        """Compute gradients of a block's states and of the memory before it, step by step."""
        s, o, size, saved = space.states, self.o, space.size, self.saved
        time, held = slice(i * self.steps, i * self.steps + size), size * self.channels
        s.outputs.copy_(self.dy[:, time])
        s.all[..., s.outputs.shape[2] :].zero_()
        dm = self.dm
        torch.mm(dm, o.H[:held].mT, out=s.history)
        s.hidden[-1].add_(self.dh)
        self.slope(self.one, saved.y[:, time], space.slope)
        if self.kernels:
            from lmu.ops.triton import retreat

            retreat(s.all, space.slope, self.MT)
        else:
            state, backwards = None, (s.steps[::-1], s.hidden[::-1], space.slopes[::-1])
            for earlier, g, slope in zip(*backwards, strict=True):
                state = earlier if state is None else earlier.addmm_(state, self.MT)
                g.mul_(slope)
        torch.mm(s.steps[0], self.MT[:, : self.dh.shape[1]], out=self.dh)
        if self.learned:
            self.grads.H[:held].addmm_(saved.history[i, :, :held].mT, dm)
            self.grads.D[size].addmm_(dm.mT, saved.memories[i])
        self.delta.addmm_(dm, o.D[size]).addmm_(s.long, saved.R[:size].flatten(0, 1))
        self.dm = self.base + self.delta
        self.age += 1
        if self.age == FOLD:
            self._fold()

    def _fold(self) -> None:
        self.total = self.total + self.delta
        self.delta.zero_()
        self.dm = self.base = flush(self.total.to(self.delta.dtype))
        flush_(self.dh)
        self.age = 0

    def _fill_before(self, start: int, number: int, space: _Workspace) -> Tensor:
        """Return the block states before each step, (blocks * batch * steps, width)."""
        size, first, n = space.size, start * self.steps, self.h_0.shape[1]
        c = self.channels
        h = self.saved.y[:, max(first - 1, 0) : first + number * size - 1]
        if first == 0:
            h = torch.cat([self.h_0[:, None], h], dim=1)
        before = space.before[:number]
        before[..., :n] = h.unflatten(1, (number, size)).transpose(0, 1)
        # The history holds a block's inputs, the newest first: before step s are its last s.
        history = self.saved.history[start : start + number, :, : size * c]
        past = torch.nn.functional.pad(history, (0, size * c)).unfold(2, size * c, c)
        before[..., n : n + size * c] = past[:, :, 1:].flip(2)
        return before.flatten(0, 2)

    def finish(self) -> None:
        """Add the gradient of ``R_s = W + W D_s`` to those of W and D."""
        for dR_s, D_s in zip(self.dR, self.o.D, strict=False):
            self.grads.W.add_(dR_s).addmm_(dR_s, D_s.mT)
        if self.learned:
            self.grads.D[:-1].baddbmm_(self.o.W.mT.expand(len(self.dR), -1, -1), self.dR)
