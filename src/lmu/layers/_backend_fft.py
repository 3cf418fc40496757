"""A stream of the parallel layer: its memory step by step, the read-out in one product."""

from types import BuiltinFunctionType
from typing import TypeGuard

import torch
from torch import Tensor, nn

from lmu.layers._backend_memory import MemoryBackend
from lmu.layers._modules import is_hooked, is_simple
from lmu.layers.lmu_fft import LMUFFT
from lmu.layers.state import State
from lmu.ops._activations import activation_of, in_own_dtype
from lmu.ops._modes import compute_dtype


class FFTBackend:
    """The parallel layer, whose read-out multiplies ``[m | x | 1]``."""

    @staticmethod
    def fits(layer: object) -> TypeGuard[LMUFFT]:
        """True if all weights can be read, and none is a module's that must be called."""
        if not isinstance(layer, LMUFFT) or is_hooked(layer) or layer.memory._own_hooks:
            return False
        return is_simple(layer.W_h) and (layer.W_u is None or is_simple(layer.W_u))

    def __init__(self, layer: LMUFFT, batch: int) -> None:
        weight, self.out = layer.W_h.weight, layer.W_h.weight.dtype
        self.dtype = dtype = compute_dtype(self.out)
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
        self.all = self.W.new_ones(batch, len(self.W))
        m, self.x, _ = self.all.tensor_split((layer._state_size, -1), dim=1)
        self.memory = MemoryBackend(layer.memory, batch, weight, m)
        self.layer, self.batch = layer, batch
        self.start(None)

    def start(self, state: State) -> None:
        h, m = self.layer._checked_state(self.batch, state)
        self.h = self.W.new_zeros(self.batch, self.layer.hidden_size) if h is None else h.clone()
        self.memory.start(None if m is None else m.flatten(1))

    def step(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        x = x.to(self.dtype)
        if rows is not None:
            return self._step_some(x, rows)
        self.memory.advance(self._encode(x))
        if self.x.shape[1]:
            self.x.copy_(x)
        self.h = self.activate(torch.mm(self.all, self.W))
        return self.h.clone() if self.dtype == self.out else self.h.to(self.out)

    def _step_some(self, x: Tensor, rows: Tensor) -> Tensor:
        self.memory.advance_some(self._encode(x), rows)
        if self.x.shape[1]:
            self.x.index_copy_(0, rows, x)
        h = self.activate(torch.mm(self.all[rows], self.W))
        self.h.index_copy_(0, rows, h)
        return h.to(self.out)

    def _encode(self, x: Tensor) -> Tensor:
        u = x if self.W_u is None or self.b_u is None else torch.addmm(self.b_u, x, self.W_u)
        if self.encode is None:
            return u
        # One in place must not write to the caller's input.
        return self.encode(u.clone() if self.W_u is None else u)

    def state(self) -> State:
        return self.h.to(self.out, copy=True), self.memory.state()

    def reset(self, rows: Tensor) -> None:
        self.memory.reset(rows)
        self.h[rows] = 0
