"""A stream of the parallel layer: its memory step by step, the read-out in one product."""

from types import BuiltinFunctionType
from typing import TypeGuard

import torch
from torch import Tensor, nn

from lmu.layers._modules import is_hooked, is_simple
from lmu.layers.lmu_fft import LMUFFT
from lmu.layers.state import State
from lmu.ops._activations import activation_of, in_own_dtype
from lmu.ops._modes import compute_dtype, widen
from lmu.ops._sum import STRETCH
from lmu.theory.rounding import flush, flush_


class FFTBackend:
    """The parallel layer: its memory step by step, the read-out in one product.

    The memory is ``base + delta``: the increments of some steps are added up in ``delta``, which
    stays small enough for float32, and then to ``total``, in float64, of which ``base`` is what a
    step can read in its own dtype.
    """

    @staticmethod
    def fits(layer: object) -> TypeGuard[LMUFFT]:
        """True if all weights can be read, and none is a module's that must be called."""
        if not isinstance(layer, LMUFFT) or is_hooked(layer) or layer.memory._own_hooks:
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
        self.encode = encode = layer.encoder_activation
        if encode is not None and not isinstance(encode, BuiltinFunctionType):
            self.encode = torch.no_grad()(in_own_dtype(encode))  # it may have parameters
        self.activate = activation_of(layer.hidden_activation).in_place
        if isinstance(layer.hidden_activation, nn.Module):
            self.activate = torch.no_grad()(in_own_dtype(layer.hidden_activation))
        self.W_u = self.b_u = None
        if layer.W_u is not None:
            u = layer.W_u
            self.W_u, self.b_u = (p.to(dtype, copy=True) for p in (u.weight.mT, u.bias))
        self.W = torch.cat([weight.mT, layer.W_h.bias[None]]).to(dtype)
        # What the read-out multiplies, [m | x | 1], and views of its parts.
        self.all = self.W.new_ones(batch, len(self.W))
        self.m, self.x, _ = self.all.tensor_split((c * d, -1), dim=1)
        self.base, self.delta = self.W.new_empty(batch, c * d), self.W.new_empty(batch, c * d)
        self.parts = self._parts(self.m, self.delta)
        self.layer, self.batch = layer, batch
        self.start(None)

    def start(self, state: State) -> None:
        h, m = self.layer._checked_state(self.batch, state)
        self.h = self.W.new_zeros(self.batch, self.layer.hidden_size) if h is None else h.clone()
        self.total = widen(torch.zeros_like(self.base) if m is None else m.flatten(1)).clone()
        self.delta.zero_()
        self._fold()

    def _fold(self) -> None:
        self.total.add_(self.delta)
        self.delta.zero_()
        flush_(self.base.copy_(self.total))
        self.m.copy_(self.base)
        self.age = 0

    def step(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        x = x.to(self.dtype)
        if rows is not None:
            return self._step_some(x, rows)
        self._advance(self._encode(x), self.parts)
        torch.add(self.base, self.delta, out=self.m)
        if self.x.shape[1]:
            self.x.copy_(x)
        self.h = self.activate(torch.mm(self.all, self.W))
        self.age += 1
        if self.age == STRETCH:
            self._fold()
        return self.h.clone() if self.dtype == self.out else self.h.to(self.out)

    def _step_some(self, x: Tensor, rows: Tensor) -> Tensor:
        if self.age:
            self._fold()
        now = self.all[rows]
        m, columns, _ = now.tensor_split((self.c * self.d, -1), dim=1)
        increment = torch.zeros_like(self.delta[rows])
        self._advance(self._encode(x), self._parts(m, increment))
        total = self.total[rows] + increment
        m.copy_(flush(total.to(self.dtype)))
        if columns.shape[1]:
            columns.copy_(x)
        h = self.activate(torch.mm(now, self.W))
        for part, new in ((self.total, total), (self.base, m), (self.all, now), (self.h, h)):
            part.index_copy_(0, rows, new)
        return h.to(self.out)

    def _encode(self, x: Tensor) -> Tensor:
        u = x if self.W_u is None or self.b_u is None else torch.addmm(self.b_u, x, self.W_u)
        if self.encode is None:
            return u
        # One in place must not write to the caller's input.
        return self.encode(u.clone() if self.W_u is None else u)

    def _parts(self, m: Tensor, increment: Tensor) -> list[tuple[Tensor, ...]]:
        """Of each channel the memory, its increment and what they are computed with."""
        views = (m.split(self.d, dim=1), increment.split(self.d, dim=1))
        return list(zip(*views, self.E, self.Bd, strict=True))

    def _advance(self, u: Tensor, parts: list[tuple[Tensor, ...]]) -> None:
        """Add the increment of each channel's memory, ``E m + Bd u``."""
        each = (u,) if self.c == 1 else u.split(1, dim=1)
        for u_c, (m, increment, E, Bd) in zip(each, parts, strict=True):
            increment.addmm_(m, E).addmm_(u_c, Bd)

    def state(self) -> State:
        m = flush((self.total + self.delta).to(self.dtype))
        return self.h.to(self.out, copy=True), m

    def reset(self, rows: Tensor) -> None:
        for part in (self.total, self.base, self.delta, self.m, self.h):
            part[rows] = 0
