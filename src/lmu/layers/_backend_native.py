"""A stream in the compiled core: one call for encoder, memory and hidden units."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lmu.layers._backend_fft import FFTBackend
from lmu.layers._backend_lmu import LMUBackend
from lmu.layers.lmu import LMU
from lmu.layers.lmu_fft import LMUFFT
from lmu.layers.memory import LegendreMemory
from lmu.layers.state import State
from lmu.ops import native
from lmu.ops._activations import activation_of, in_own_dtype
from lmu.ops._modes import compute_dtype
from lmu.ops.native.block_steps import BlockSteps, is_worth_blocks
from lmu.ops.native.steps import Reader, Steps, StepWeights, core_name


class NativeBackend:
    """Any layer whose step is a memory between two matrix products."""

    @staticmethod
    def fits(layer: object) -> bool:
        """True if all weights can be read, and the compiled core can run on them."""
        if isinstance(layer, LMU):
            fits = LMUBackend.fits(layer) and core_name(layer.hidden_activation) is not None
        elif isinstance(layer, LMUFFT):
            fits = FFTBackend.fits(layer) and core_name(layer.encoder_activation) is not None
        else:
            fits = isinstance(layer, LegendreMemory)
        like: Tensor = layer._like() if fits else torch.empty(0)  # type: ignore[attr-defined]
        return fits and like.is_cpu and native.is_available(like.new_empty(0, dtype=_wide(like)))

    def __init__(self, layer: LMU | LMUFFT | LegendreMemory, batch: int) -> None:
        self.layer, self.batch, self.out = layer, batch, layer._like().dtype
        self.dtype = compute_dtype(self.out)
        self.alone = isinstance(layer, LegendreMemory)
        self.finish: Callable[[Tensor], Tensor] | None = None
        if isinstance(layer, LegendreMemory):
            sizes = layer.channels, layer.channels, 0
            self.steps = Steps(self._of_memory(layer), batch, *sizes, self.dtype)
        else:
            n, c = layer.hidden_size, layer.memory_channels
            lmu = isinstance(layer, LMU)
            weights = self._of_lmu(layer) if lmu else self._of_fft(layer)
            blocks = is_worth_blocks(batch, n, layer.memory_size, c, lmu)
            kind = BlockSteps if blocks else Steps
            self.steps = kind(weights, batch, layer.input_size, c, n, self.dtype)
        if self.finish is None and self.dtype == self.out:
            self.step = self.steps.step  # nothing is left to do around it
        self.start(None)

    def _of_memory(self, memory: LegendreMemory, **readers: Any) -> StepWeights:
        system = memory._system(memory._anchor.device)
        E, Bd = system.increment(), system.Bd
        E, Bd = (E, Bd) if E.ndim == 3 else (E[None], Bd[None])
        return StepWeights(E, Bd, **readers)

    def _of_lmu(self, layer: LMU) -> StepWeights:
        w = layer._weights(ones=True)
        readers = {
            "encoder": Reader(w.e_x[:, :-1], w.e_h, w.e_m, w.e_x[:, -1]),
            "read_out": Reader(w.W_x[:, :-1], w.W_h, w.W_m, w.W_x[:, -1]),
        }
        name = core_name(layer.hidden_activation)
        return self._of_memory(layer.memory, activation=name, **readers)

    def _of_fft(self, layer: LMUFFT) -> StepWeights:
        W, bias = layer.W_h.weight.to(self.dtype), layer.W_h.bias.to(self.dtype)
        W_m, W_x = W.tensor_split([layer._state_size], dim=1)
        readers: dict[str, Any] = {
            "read_out": Reader(W_x if layer.input_to_hidden else None, None, W_m, bias)
        }
        if layer.W_u is not None:
            u = layer.W_u
            readers["encoder"] = Reader(u.weight.to(self.dtype), None, None, u.bias.to(self.dtype))
        name = core_name(layer.hidden_activation)
        if name is None:
            self.finish = _finish(layer.hidden_activation)
        return self._of_memory(
            layer.memory,
            encoder_activation=core_name(layer.encoder_activation),
            activation=name or "identity",
            **readers,
        )

    def start(self, state: State) -> None:
        h, m = None, None
        if isinstance(self.layer, LegendreMemory):
            if state is not None:
                m = self.layer._checked_memory(state, self.batch, self.layer._like())
        else:
            h, m = self.layer._checked_state(self.batch, state)
        like = self.steps.state
        h = like.new_zeros(self.batch, self.steps.hidden) if h is None else h
        m = torch.zeros_like(self.steps.memory) if m is None else m.flatten(1)
        self.steps.set(h, m)

    def step(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        x = x if x.dtype == self.dtype else x.to(self.dtype)
        y = self.steps.step(x, rows)
        if self.finish is not None:
            y = self.finish(y)
            self.steps.keep(y, rows)
        return y if self.alone or self.dtype == self.out else y.to(self.out)

    def state(self) -> State:
        h, m = self.steps.get()
        return m if self.alone else (h.to(self.out, copy=True), m)

    def reset(self, rows: Tensor) -> None:
        self.steps.reset(rows)


def _wide(like: Tensor) -> torch.dtype:
    return compute_dtype(like.dtype)


def _finish(activation: Any) -> Callable[[Tensor], Tensor]:
    """An activation that the core does not know; it may overwrite its argument."""
    if isinstance(activation, nn.Module):  # it may have parameters
        return torch.no_grad()(in_own_dtype(activation))
    return activation_of(activation).in_place
