"""A stream of the nonlinear LMU: slots are prepared for the steps of a block at once."""

from typing import TypeGuard

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from lmu.layers._modules import is_hooked
from lmu.layers.lmu import LMU
from lmu.layers.state import State
from lmu.ops import LMUWeights, block_length, lmu_step
from lmu.ops._modes import widen
from lmu.ops.lmu.block_matrices import block_matrices
from lmu.ops.lmu.blocks_forward import BlockStates
from lmu.theory.rounding import flush, flush_


class LMUBackend:
    """The nonlinear LMU in blocks: slots are prepared for some steps at once.

    All streams are at the same step of a block, ``at``, from 0 to its length. Where some of them
    step alone, the block ends there, and all go step by step, until so many steps in a row are of
    all streams as a block has: ``at`` counts them down, and at its length + 1 a block begins again.
    """

    @staticmethod
    def fits(layer: object) -> TypeGuard[LMU]:
        """True for the published recurrence, all of whose weights can be read."""
        if not isinstance(layer, LMU) or is_hooked(layer):
            return False
        return isinstance(layer.hidden_cell, str) and layer._linear_encoder

    def __init__(self, layer: LMU, batch: int) -> None:
        weights = layer._weights(ones=layer._biased)
        dtype = weights.W_h.dtype
        steps = block_length(layer.hidden_size, layer.memory_channels)
        powers = layer._system().powers(layer.memory_channels, steps, dtype)
        self.o = o = block_matrices(weights, powers)
        self.weights = LMUWeights(*(w.clone() for w in weights))
        self.dtype, self.out, self.n = dtype, layer._like().dtype, layer.hidden_size
        self.biased, self.c = layer._biased, layer.memory_channels
        self.length = steps = len(o.D) - 1
        W = o.W.expand(steps, -1, -1)
        self.R = torch.baddbmm(W, W, o.D[:-1]).flatten(0, 1).mT.contiguous()
        self.slots = BlockStates(o.W, batch, steps, len(o.M), self.n, self.c)
        self.first, self.E = o.M[: self.n], o.D[-1].mT.contiguous()
        # Of the step before the block, or where the streams go step by step, of the last one.
        self.h, self.m = o.W.new_empty(batch, self.n), o.W.new_empty(batch, o.W.shape[1])
        self.total = widen(self.m)  # of which m is what is multiplied
        self.layer, self.batch = layer, batch
        self.start(None)

    def start(self, state: State) -> None:
        h, m = self.layer._checked_state(self.batch, state)
        self.h.copy_(h)
        self.total = widen(m).clone()
        self._read()
        self._open()

    def _read(self) -> None:
        flush_(self.m.copy_(self.total))
        flush_(self.h)

    def _open(self) -> None:
        self.before, self.M, self.at = self.h, self.first, 0
        torch.mm(self.m, self.R, out=self.slots.long)

    def step(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        s, at = self.slots, self.at
        x = x if x.dtype == self.dtype else x.to(self.dtype)
        if rows is not None:
            if at <= self.length:
                self._close()
            self.at = 2 * self.length
            return self._step(x, rows)
        if at >= self.length:
            if at > self.length + 1:
                self.at = at - 1
                return self._step(x, None)
            self._close()
            self._open()
            at = 0
        slot = s.steps[at]
        slot.addmm_(pad(x, (0, 1), value=1.0) if self.biased else x, self.o.X)
        slot.addmm_(self.before, self.M)
        h = s.hidden[at].tanh_()
        self.before, self.M, self.at = slot, self.o.M, at + 1
        return h.clone() if self.dtype == self.out else h.to(self.out)

    def _close(self) -> None:
        """End the block, whole or not, if there is one."""
        h, self.total = self._now()
        if self.at <= self.length:
            self.h.copy_(h)
        self._read()
        self.before, self.at = self.h, self.length + 1

    def _now(self) -> tuple[Tensor, Tensor]:
        """The hidden state and the memory of the last step."""
        total, at = self.total, self.at
        if 0 < at <= self.length:
            held = at * self.c
            E = self.E if at == self.length else self.o.D[at].mT
            increment = torch.mm(self.m, E)
            increment.addmm_(self.before[:, self.n : self.n + held], self.o.H[:held])
            total = total + increment
        return self.before[:, : self.n], total

    def _step(self, x: Tensor, rows: Tensor | None) -> Tensor:
        w = self.weights
        x = pad(x, (0, 1), value=1.0) if self.biased else x
        given = linear(x, w.e_x), linear(x, w.W_x)
        if rows is None:
            h, self.total = lmu_step(*given, self.h, self.total, w)
            self.h.copy_(flush_(h))
        else:
            h, total = lmu_step(*given, self.h[rows], self.total[rows], w)
            self.h.index_copy_(0, rows, flush_(h))
            self.total.index_copy_(0, rows, total)
        return h.to(self.out)

    def state(self) -> State:
        h, total = self._now()
        return h.to(self.out, copy=True), flush(total.to(self.dtype))

    def reset(self, rows: Tensor) -> None:
        for part in (self.slots.all, self.before, self.m, self.total):
            part[rows] = 0
