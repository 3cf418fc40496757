"""What steps a stream: each keeps the states of all its sequences, in buffers of its own."""

import copy
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from lmu.layers._hidden import output_of
from lmu.layers.lmu import LMU
from lmu.layers.lmu_fft import LMUFFT
from lmu.layers.stack import LMUStack
from lmu.layers.state import State, map_state
from lmu.ops import Powers
from lmu.ops._precision import compute_dtype
from lmu.ops.lmu_forward import Slots
from lmu.ops.lmu_operators import block_operators

Rows = int | slice | Tensor


class Engine(Protocol):
    def step(self, x: Tensor) -> Tensor: ...
    def state(self) -> State: ...
    def start(self, state: State) -> None: ...
    def reset(self, rows: Rows) -> None: ...


class StepsEngine:
    """Any layer, by its own steps; a stream without a past is stepped without a state."""

    def __init__(self, layer: LMU | LMUStack, batch: int) -> None:
        self.layer = copy.deepcopy(layer).eval()
        like = layer._like()
        _, example = self.layer.step(like.new_zeros(batch, layer.input_size), None)
        self.zeros = map_state(torch.zeros_like, example)
        self.start(None)

    def start(self, state: State) -> None:
        self.now, self.fresh = self.zeros, torch.ones(self._batch, dtype=torch.bool)
        if state is not None:
            self.now = self._fit(self.zeros, state)
            self.fresh = torch.zeros_like(self.fresh)
        self.all_old = not self.fresh.any()

    @property
    def _batch(self) -> int:
        return len(output_of(self.zeros))

    def _fit(self, zeros: State, state: State) -> State:
        if isinstance(zeros, tuple):
            if not isinstance(state, tuple | list) or len(state) != len(zeros):
                raise TypeError(f"the state must be a tuple of {len(zeros)}, as the stream's is")
            return tuple(self._fit(z, s) for z, s in zip(zeros, state, strict=True))
        if not isinstance(state, Tensor) or state.shape != zeros.shape:
            raise ValueError(f"a part of the state must have the shape {tuple(zeros.shape)}")
        return state.to(zeros, copy=True)

    def step(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            if self.all_old:
                y, self.now = self.layer.step(x, self.now)
                return y
            rows = self.fresh.to(x.device)
            first = self.layer.step(x, None)
            later = self.layer.step(x, self.now)
            self.all_old = True
            self.fresh = torch.zeros_like(self.fresh)

        def choose(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(rows.view(-1, *[1] * (new.ndim - 1)), new, old)

        y, self.now = map_state(choose, first, later)
        return y

    def state(self) -> State:
        return map_state(torch.clone, self.now)

    def reset(self, rows: Rows) -> None:
        self.fresh[rows if not isinstance(rows, Tensor) else rows.cpu()] = True
        self.all_old = not self.fresh.any()
        # What a state shows of a stream that has no past; a layer's may share memory with others.
        mask = self.fresh.to(output_of(self.zeros).device)

        def clear(s: Tensor) -> Tensor:
            return torch.where(mask.view(-1, *[1] * (s.ndim - 1)), torch.zeros_like(s), s)

        self.now = map_state(clear, self.now)


class LMUEngine:
    """The nonlinear LMU in blocks: slots are prepared for some steps at once."""

    def __init__(self, layer: LMU, batch: int) -> None:
        weights = layer._weights(ones=layer._biased)
        dtype = weights.W_h.dtype
        powers = Powers(*(t.to(dtype) for t in layer._exact_powers()))
        self.o = o = block_operators(weights, powers)
        self.dtype, self.out, self.n = dtype, layer._like().dtype, layer.hidden_size
        self.biased, self.c = layer._biased, layer.memory_channels
        steps = len(o.D) - 1
        W = o.W.expand(steps, -1, -1)
        self.R = torch.baddbmm(W, W, o.D[:-1]).flatten(0, 1).mT.contiguous()
        self.slots = Slots(o.W, batch, steps, len(o.M), self.n, self.c)
        self.first, self.next = o.M[: self.n], (o.D[-1].mT.contiguous(), o.H)
        self.m = o.W.new_empty(batch, o.W.shape[1])
        self.layer, self.batch = layer, batch
        self.start(None)

    def start(self, state: State) -> None:
        h, m = self.layer._checked_state(self.batch, state)
        self.m.copy_(m)
        self.before, self.M, self.at = h.clone(), self.first, 0
        torch.mm(self.m, self.R, out=self.slots.long)

    def step(self, x: Tensor) -> Tensor:
        s, at = self.slots, self.at
        if at == len(s.steps):
            self._advance()
            at = 0
        slot = s.steps[at]
        x = x if x.dtype == self.dtype else x.to(self.dtype)
        slot.addmm_(pad(x, (0, 1), value=1.0) if self.biased else x, self.o.X)
        slot.addmm_(self.before, self.M)
        h = s.hidden[at].tanh_()
        self.before, self.M, self.at = slot, self.o.M, at + 1
        return h.clone() if self.dtype == self.out else h.to(self.out)

    def _advance(self) -> None:
        """Go on to the next block: :meth:`state` and :meth:`start`, in place."""
        E, H = self.next
        h = self.before[:, : self.n].clone()
        m = torch.addmm(self.m, self.m, E)
        self.m = m.addmm_(self.slots.registers, H)
        self.before, self.M = h, self.first
        torch.mm(m, self.R, out=self.slots.long)

    def state(self) -> State:
        m, at = self.m, self.at
        if at:
            held = at * self.c
            registers = self.before[:, self.n : self.n + held]
            m = torch.addmm(m, m, self.o.D[at].mT).addmm_(registers, self.o.H[:held])
        h = self.before[:, : self.n].to(self.out, copy=True)
        return h, m.clone() if m is self.m else m

    def reset(self, rows: Rows) -> None:
        self.slots.all[rows] = 0
        self.before[rows] = 0
        self.m[rows] = 0


class FFTEngine:
    """The parallel layer: its memory step by step, one product for each sum."""

    def __init__(self, layer: LMUFFT, batch: int) -> None:
        dtype = compute_dtype(layer.W_h.weight.dtype)
        c, d, k = layer.memory_channels, layer.memory_size, layer.input_size
        self.dtype, self.out, self.k = dtype, layer.W_h.weight.dtype, k
        E, Bd = layer._increment().expand(c, d, d), layer._dynamics()[1].expand(c, d)
        self.E, self.Bd = E.mT.to(dtype, copy=True), Bd.to(dtype, copy=True)[:, None]
        self.encode = layer.encoder_activation
        self.W_u = self.b_u = None
        if layer.W_u is not None:
            u = layer.W_u
            self.W_u, self.b_u = (p.to(dtype, copy=True) for p in (u.weight.mT, u.bias))
        W, self.b_h = (p.to(dtype, copy=True) for p in (layer.W_h.weight, layer.W_h.bias))
        self.W_m = W[:, : c * d].mT.unflatten(0, (c, d)).contiguous()
        self.W_x = W[:, c * d :].mT.contiguous()
        self.m = self.W_m.new_zeros(c, batch, d)
        self.layer, self.batch = layer, batch
        self.start(None)

    def start(self, state: State) -> None:
        h, m = self.layer._checked_state(self.batch, state)
        self.h = h.clone()
        self.m.copy_(m.unflatten(1, (len(self.m), -1)).transpose(0, 1))

    def step(self, x: Tensor) -> Tensor:
        x = x.to(self.dtype)
        u = x if self.W_u is None or self.b_u is None else torch.addmm(self.b_u, x, self.W_u)
        u = u if self.encode is None else self.encode(u)
        u = u.mT[..., None]  # (channels, batch, 1)
        self.m = torch.baddbmm(self.m, self.m, self.E).addcmul_(u, self.Bd)
        h = torch.addmm(self.b_h, x, self.W_x) if len(self.W_x) else self.b_h.repeat(len(x), 1)
        for m, W_m in zip(self.m, self.W_m, strict=True):
            h.addmm_(m, W_m)
        self.h = h.relu_()
        return h.clone() if self.dtype == self.out else h.to(self.out)

    def state(self) -> State:
        return self.h.to(self.out, copy=True), self.m.transpose(0, 1).flatten(1).clone()

    def reset(self, rows: Rows) -> None:
        self.h[rows] = 0
        self.m[:, rows] = 0
