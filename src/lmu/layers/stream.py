"""Streams: a layer that keeps its own state and steps as fast as the machine allows."""

from typing import Any

import torch
from torch import Tensor

from lmu.layers._checks import check_input, check_size
from lmu.layers._engines import Engine, FFTEngine, LMUEngine, Rows, StepsEngine
from lmu.layers._hidden import TANH
from lmu.layers.lmu import LMU
from lmu.layers.lmu_fft import LMUFFT
from lmu.layers.stack import LMUStack
from lmu.layers.state import State, map_state
from lmu.ops._precision import compute_dtype, no_autocast


class Stream:
    """Run a trained layer step by step on one or many streams, for inference.

    ``h = stream(x_t)`` gives the same numbers as the layer over the whole sequence, but checks
    little, allocates nothing that stays, and reads the layer's weights once, here: call
    :meth:`refresh` after changing them. An :class:`lmu.LMU` advances its memory once in a block of
    some ten steps (see :mod:`lmu.ops.lmu_blocks`). Dropout is off.

    Args:
        layer: :class:`lmu.LMU`, :class:`lmu.LMUFFT` or :class:`lmu.LMUStack`.
        batch_size: Number of streams that step together.

    Raises:
        TypeError: The layer is of another kind, or ``batch_size`` is not an int.
        ValueError: ``batch_size`` is below 1.
    """

    def __init__(self, layer: LMU | LMUFFT | LMUStack, batch_size: int = 1) -> None:
        if not isinstance(layer, LMU | LMUFFT | LMUStack):
            raise TypeError(f"layer must be an LMU, LMUFFT or LMUStack, got {type(layer).__name__}")
        self.layer = layer
        self.batch_size = check_size("batch_size", batch_size)
        self._engine = self._build()

    def __call__(self, x: Tensor) -> Tensor:
        """Advance all streams one step.

        Args:
            x: Input (batch_size, input_size), of the layer's dtype and device.

        Returns:
            The hidden state of each stream (batch_size, hidden_size).

        Raises:
            TypeError: The dtype is not the layer's.
            ValueError: A size or the device does not fit.
        """
        if x.shape != self._shape or x.dtype != self._dtype or x.device != self._device:
            self._refuse(x)
        # Nothing here has a graph; entering a context would take as long as a product.
        x = x.detach() if x.requires_grad else x
        if torch.is_autocast_enabled(self._device.type):
            with no_autocast(self._device):
                return self._step(x)
        return self._step(x)

    def _step(self, x: Tensor) -> Tensor:
        if torch.is_inference_mode_enabled():  # what is kept must serve outside of it too
            with torch.inference_mode(False), torch.no_grad():
                return self._engine.step(x)
        return self._engine.step(x)

    @property
    def state(self) -> State:
        """Copies of ``(h, m)``, (batch_size, hidden_size) and (batch_size, order).

        Of a stack or a recurrent hidden cell, of what their state is.
        """
        with torch.no_grad(), no_autocast(self._device):
            return self._engine.state()

    @state.setter
    def state(self, state: State) -> None:
        with torch.inference_mode(False), torch.no_grad(), no_autocast(self._device):
            self._engine.start(state)

    def reset(self, streams: Rows | None = None) -> None:
        """Forget the past of all streams, or of those that an int, slice, mask or index names."""
        with torch.no_grad():
            self._engine.reset(slice(None) if streams is None else streams)

    def refresh(self) -> None:
        """Read the layer's weights again; the state stays."""
        state = self.state
        self._engine = self._build()
        dtype = compute_dtype(self._dtype)
        self.state = map_state(lambda s: s.to(self._device, dtype), state)

    def __getstate__(self) -> dict[str, Any]:
        return {"layer": self.layer, "batch_size": self.batch_size, "state": self.state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.layer, self.batch_size = state["layer"], state["batch_size"]
        self._engine = self._build()
        self.state = state["state"]

    def _build(self) -> Engine:
        layer = self.layer
        weight = layer._like()
        self._shape = torch.Size([self.batch_size, layer.input_size])
        self._device, self._dtype = weight.device, weight.dtype
        with torch.inference_mode(False), torch.no_grad(), no_autocast(weight.device):
            if isinstance(layer, LMUFFT):
                return FFTEngine(layer, self.batch_size)
            if isinstance(layer, LMU) and layer.hidden_cell == TANH and layer._linear_encoder:
                return LMUEngine(layer, self.batch_size)
            return StepsEngine(layer, self.batch_size)

    def _refuse(self, x: Tensor) -> None:
        check_input(x, ("batch",), self.layer.input_size, self.layer._like())
        if len(x) != self.batch_size:
            raise ValueError(
                f"the stream was built for batch_size={self.batch_size}, got {len(x)} rows: "
                "build another one"
            )
