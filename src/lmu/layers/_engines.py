"""What steps a stream: each keeps the states of all its sequences, in buffers of its own."""

from typing import NamedTuple, Protocol, TypeGuard

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from lmu._arguments import shown
from lmu.layers._hidden import output_of
from lmu.layers._modules import is_hooked, is_simple
from lmu.layers.lmu import LMU
from lmu.layers.lmu_fft import LMUFFT
from lmu.layers.stack import LMUStack
from lmu.layers.state import State, map_state
from lmu.ops import LMUWeights, block_length, lmu_step
from lmu.ops._precision import compute_dtype
from lmu.ops.lmu_forward import Slots
from lmu.ops.lmu_operators import block_operators

Rows = int | slice | Tensor


class Engine(Protocol):
    """``rows``, of distinct streams, are those that step; all if None."""

    def step(self, x: Tensor, rows: Tensor | None = None) -> Tensor: ...
    def state(self) -> State: ...
    def start(self, state: State) -> None: ...
    def reset(self, rows: Rows) -> None: ...


class StepsEngine:
    """Any layer, by its own steps; a stream without a past is stepped without a state."""

    def __init__(self, layer: LMU | LMUStack, batch: int) -> None:
        self.layer, self.batch = layer, batch
        self.zeros: State = None  # until a step has shown what a state is
        self.start(None)

    def start(self, state: State) -> None:
        self.now, self.fresh = self.zeros, torch.ones(self.batch, dtype=torch.bool)
        if state is not None:
            self._learn()
            self.now = self._fit(self.zeros, state)
            self.fresh = torch.zeros_like(self.fresh)
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
            return self.layer.step(x, state)

    def state(self) -> State:
        self._learn()
        return map_state(torch.clone, self.now)

    def reset(self, rows: Rows) -> None:
        self._learn()
        self.fresh[rows if not isinstance(rows, Tensor) else rows.cpu()] = True
        self.all_old = not self.fresh.any()
        # What a state shows of a stream that has no past; a layer's may share memory with others.
        mask = self.fresh.to(output_of(self.zeros).device)

        def clear(s: Tensor) -> Tensor:
            return torch.where(mask.view(-1, *[1] * (s.ndim - 1)), torch.zeros_like(s), s)

        self.now = map_state(clear, self.now)


class LMUEngine:
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
        self.o = o = block_operators(weights, powers)
        self.weights = LMUWeights(*(w.clone() for w in weights))
        self.dtype, self.out, self.n = dtype, layer._like().dtype, layer.hidden_size
        self.biased, self.c = layer._biased, layer.memory_channels
        self.length = steps = len(o.D) - 1
        W = o.W.expand(steps, -1, -1)
        self.R = torch.baddbmm(W, W, o.D[:-1]).flatten(0, 1).mT.contiguous()
        self.slots = Slots(o.W, batch, steps, len(o.M), self.n, self.c)
        self.first, self.E = o.M[: self.n], o.D[-1].mT.contiguous()
        # Of the step before the block, or where the streams go step by step, of the last one.
        self.h, self.m = o.W.new_empty(batch, self.n), o.W.new_empty(batch, o.W.shape[1])
        self.layer, self.batch = layer, batch
        self.start(None)

    def start(self, state: State) -> None:
        h, m = self.layer._checked_state(self.batch, state)
        self.h.copy_(h)
        self.m.copy_(m)
        self._open()

    def _open(self) -> None:
        self.before, self.M, self.at = self.h, self.first, 0
        torch.mm(self.m, self.R, out=self.slots.long)

    def step(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        s, at = self.slots, self.at
        x = x if x.dtype == self.dtype else x.to(self.dtype)
        if rows is not None:
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
        h, self.m = self._now()
        if self.at <= self.length:
            self.h.copy_(h)
        self.before, self.at = self.h, self.length + 1

    def _now(self) -> tuple[Tensor, Tensor]:
        m, at = self.m, self.at
        if 0 < at <= self.length:
            held = at * self.c
            E = self.E if at == self.length else self.o.D[at].mT
            m = torch.addmm(m, m, E)
            m.addmm_(self.before[:, self.n : self.n + held], self.o.H[:held])
        return self.before[:, : self.n], m

    def _step(self, x: Tensor, rows: Tensor | None) -> Tensor:
        w = self.weights
        x = pad(x, (0, 1), value=1.0) if self.biased else x
        given = linear(x, w.e_x), linear(x, w.W_x)
        if rows is None:
            h, m = lmu_step(*given, self.h, self.m, w)
            self.h.copy_(h)
            self.m.copy_(m)
        else:
            h, m = lmu_step(*given, self.h[rows], self.m[rows], w)
            self.h.index_copy_(0, rows, h)
            self.m.index_copy_(0, rows, m)
        return h.to(self.out)

    def state(self) -> State:
        h, m = self._now()
        return h.to(self.out, copy=True), m.clone() if m is self.m else m

    def reset(self, rows: Rows) -> None:
        self.slots.all[rows] = 0
        self.before[rows] = 0
        self.m[rows] = 0


class Columns(NamedTuple):
    """What the read-out of a linear memory multiplies, a row for each stream, and its parts."""

    all: Tensor  # [m | x | 1]
    channels: tuple[Tensor, ...]  # m of each memory channel
    x: Tensor


class FFTEngine:
    """The parallel layer: its memory step by step, the read-out in one product."""

    @staticmethod
    def fits(layer: object) -> TypeGuard[LMUFFT]:
        """True if all weights can be read, and none is a module's that must be called."""
        if not isinstance(layer, LMUFFT) or is_hooked(layer):
            return False
        return is_simple(layer.W_h) and (layer.W_u is None or is_simple(layer.W_u))

    def __init__(self, layer: LMUFFT, batch: int) -> None:
        weight, self.out = layer.W_h.weight, layer.W_h.weight.dtype
        self.dtype = dtype = compute_dtype(self.out)
        self.c, self.d = c, d = layer.memory_channels, layer.memory_size
        system = layer._system()
        E, Bd = system.increment().expand(c, d, d), system.Bd.expand(c, d)
        self.E = E.mT.to(dtype, copy=True).contiguous().unbind()
        self.Bd = Bd.to(dtype, copy=True)[:, None].unbind()
        self.encode = layer.encoder_activation
        self.W_u = self.b_u = None
        if layer.W_u is not None:
            u = layer.W_u
            self.W_u, self.b_u = (p.to(dtype, copy=True) for p in (u.weight.mT, u.bias))
        self.W = torch.cat([weight.mT, layer.W_h.bias[None]]).to(dtype)
        # A step reads one and writes the other: a product cannot write where it reads.
        self.now, self.other = (self._columns(self.W.new_ones(batch, len(self.W))) for _ in "ab")
        self.layer, self.batch = layer, batch
        self.start(None)

    def _columns(self, z: Tensor) -> Columns:
        m, x, _ = z.tensor_split((self.c * self.d, -1), dim=1)
        return Columns(z, m.split(self.d, dim=1), x)

    def start(self, state: State) -> None:
        h, m = self.layer._checked_state(self.batch, state)
        size = self.c * self.d
        self.h = self.W.new_zeros(self.batch, self.layer.hidden_size) if h is None else h.clone()
        self.now.all[:, :size] = 0 if m is None else m.flatten(1)

    def step(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        x = x.to(self.dtype)
        if rows is None:
            self.h = self._step(x, self.now, self.other)
            self.now, self.other = self.other, self.now
            return self.h.clone() if self.dtype == self.out else self.h.to(self.out)
        before = self.now.all[rows]
        after = self._columns(before.clone())
        h = self._step(x, self._columns(before), after)
        self.now.all.index_copy_(0, rows, after.all)
        self.h.index_copy_(0, rows, h)
        return h.to(self.out)

    def _step(self, x: Tensor, before: Columns, after: Columns) -> Tensor:
        u = x if self.W_u is None or self.b_u is None else torch.addmm(self.b_u, x, self.W_u)
        if self.encode is not None:
            # One in place must not write to the caller's input.
            u = self.encode(u.clone() if self.W_u is None else u)
        for u_c, m, m_n, E, Bd in zip(
            u.split(1, dim=1), before.channels, after.channels, self.E, self.Bd, strict=True
        ):
            torch.addmm(m, m, E, out=m_n).addmm_(u_c, Bd)
        if after.x.shape[1]:
            after.x.copy_(x)
        return torch.mm(after.all, self.W).relu_()

    def state(self) -> State:
        m = self.now.all[:, : self.c * self.d]
        return self.h.to(self.out, copy=True), m.clone(memory_format=torch.contiguous_format)

    def reset(self, rows: Rows) -> None:
        self.h[rows] = 0
        self.now.all[rows, : self.c * self.d] = 0
