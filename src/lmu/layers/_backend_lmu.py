"""A stream of the nonlinear LMU: block states are prepared for all steps of a block at once."""

from typing import TypeGuard

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from lmu.layers._modules import is_hooked
from lmu.layers.lmu import LMU
from lmu.layers.state import State
from lmu.ops import LMUWeights, block_length
from lmu.ops._activations import activation_of, is_fused
from lmu.ops._modes import widen
from lmu.ops.lmu.block_matrices import block_matrices
from lmu.ops.lmu.blocks_forward import BlockStates
from lmu.ops.lmu.loop import run_lmu_step
from lmu.theory.rounding import flush, flush_


class LMUBackend:
    """The nonlinear LMU in blocks: what the memory adds to a block's steps is computed at once.

    All streams share a block; ``at`` of its ``length`` steps are done. A step of only some streams
    ends the block, and ``at`` is None: then all step by the equations themselves. A block begins
    again when ``waiting`` more steps were of all streams, as many as a block has: it would not pay
    for fewer.
    """

    at: int | None
    waiting: int

    @staticmethod
    def fits(layer: object) -> TypeGuard[LMU]:
        """True for the published recurrence, all of whose weights can be read."""
        if not isinstance(layer, LMU) or is_hooked(layer) or layer.memory._own_hooks:
            return False
        own = isinstance(layer.hidden_cell, str) and is_fused(layer.hidden_activation)
        return own and layer._linear_encoder

    def __init__(self, layer: LMU, batch: int) -> None:
        weights = layer._weights(ones=layer._biased)
        dtype = weights.W_h.dtype
        steps = block_length(layer.hidden_size, layer.memory_channels)
        dynamics = layer._system().block_dynamics(layer.memory_channels, steps, dtype)
        self.o = o = block_matrices(weights, dynamics)
        self.weights = LMUWeights(*(w.clone() for w in weights))
        self.activation = layer.hidden_activation
        self.activate = activation_of(layer.hidden_activation).in_place
        self.dtype, self.out, self.n = dtype, layer._like().dtype, layer.hidden_size
        self.biased, self.c = layer._biased, layer.memory_channels
        self.length = steps = len(o.D) - 1
        W = o.W.expand(steps, -1, -1)
        self.R = torch.baddbmm(W, W, o.D[:-1]).flatten(0, 1).mT.contiguous()
        self.states = BlockStates(o.W, batch, steps, len(o.M), self.n, self.c)
        self.first, self.E = o.M[: self.n], o.D[-1].mT.contiguous()
        # Before the block, or without one after the last step.
        self.h, self.m = o.W.new_empty(batch, self.n), o.W.new_empty(batch, o.W.shape[1])
        self.total = widen(self.m)  # the memory in float64, of which m is the narrow copy
        self.layer, self.batch = layer, batch
        self.start(None)

    def start(self, state: State) -> None:
        h, m = self.layer._checked_state(self.batch, state)
        self.h.copy_(h)
        self.total = widen(m).clone()
        self._narrow()
        self._begin_block()

    def _narrow(self) -> None:
        flush_(self.m.copy_(self.total))
        flush_(self.h)

    def _begin_block(self) -> None:
        self.before, self.M, self.at, self.waiting = self.h, self.first, 0, 0
        torch.mm(self.m, self.R, out=self.states.long)

    def _end_block(self) -> None:
        """Bring ``h`` and ``m`` up to the last step, and step by the equations from there."""
        h, self.total = self._now()
        if h is not self.h:
            self.h.copy_(h)
        self._narrow()
        self.before, self.at = self.h, None

    def step(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        x = x if x.dtype == self.dtype else x.to(self.dtype)
        if rows is not None:
            self._end_block()
            self.waiting = self.length - 1
            return self._step(x, rows)
        if self.waiting:
            self.waiting -= 1
            return self._step(x, None)
        at = self.at
        if at is None or at == self.length:
            self._end_block()
            self._begin_block()
            at = 0
        state = self.states.steps[at]
        state.addmm_(pad(x, (0, 1), value=1.0) if self.biased else x, self.o.X)
        state.addmm_(self.before, self.M)
        h = self.activate(self.states.hidden[at])
        self.before, self.M, self.at = state, self.o.M, at + 1
        return h.clone() if self.dtype == self.out else h.to(self.out)

    def _now(self) -> tuple[Tensor, Tensor]:
        """The hidden state and the memory after the last step."""
        at = self.at
        if not at:
            return self.h, self.total
        E = self.E if at == self.length else self.o.D[at].mT
        increment = torch.mm(self.m, E)
        inputs = at * self.c
        increment.addmm_(self.before[:, self.n : self.n + inputs], self.o.H[:inputs])
        return self.before[:, : self.n], self.total + increment

    def _step(self, x: Tensor, rows: Tensor | None) -> Tensor:
        w = self.weights
        x = pad(x, (0, 1), value=1.0) if self.biased else x
        shares = linear(x, w.e_x), linear(x, w.W_x)
        if rows is None:
            h, self.total = run_lmu_step(*shares, self.h, self.total, w, self.activation)
            self.h.copy_(flush_(h))
        else:
            before = self.h[rows], self.total[rows]
            h, total = run_lmu_step(*shares, *before, w, self.activation)
            self.h.index_copy_(0, rows, flush_(h))
            self.total.index_copy_(0, rows, total)
        return h.to(self.out)

    def state(self) -> State:
        h, total = self._now()
        return h.to(self.out, copy=True), flush(total.to(self.dtype))

    def reset(self, rows: Tensor) -> None:
        for part in (self.states.all, self.before, self.h, self.m, self.total):
            part[rows] = 0
