"""Streams: a layer that keeps its own state and steps as fast as the machine allows."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lmu.layers._backend_fft import FFTBackend
from lmu.layers._backend_lmu import LMUBackend
from lmu.layers._backend_memory import MemoryBackend
from lmu.layers._backend_native import NativeBackend
from lmu.layers._backends import Backend, StepsBackend
from lmu.layers._checks import check_input, check_size
from lmu.layers._modules import in_evaluation, unwrap
from lmu.layers.lmu import LMU
from lmu.layers.lmu_fft import LMUFFT
from lmu.layers.memory import LegendreMemory
from lmu.layers.stack import LMUStack
from lmu.layers.state import Begun, State, map_state
from lmu.ops._modes import compute_dtype, no_autocast

Rows = int | slice | Tensor | Sequence[int] | Sequence[bool]


class Stream:
    """Run a trained layer step by step on one or many streams, for inference.

    ``h = stream(x_t)`` gives the same numbers as the layer over the whole sequence, but checks
    little, and reads the weights of an :class:`lmu.LMU` or :class:`lmu.LMUFFT` once, here: call
    :meth:`refresh` after changing them. Stacks, other hidden cells, activations with parameters,
    and modules with hooks or adapters are called, in evaluation mode; the modules that were passed
    keep their mode. Dropout is off.

    On the CPU a step is one call of the compiled core (:func:`lmu.native_status`), where the
    activations are ``"tanh"``, ``"relu"``, ``"sigmoid"`` or ``"identity"``. Large layers go in
    blocks of 16 or 32 steps, each of which prepares a part of the next block, so that steps take
    about as long; without the core an :class:`lmu.LMU` advances its memory once in a block of some
    ten steps (see :mod:`lmu.ops.lmu.blocks`).

    Where only some streams have a sample, ``h = stream(x_t, streams=rows)`` advances these, and
    the others stand still. That costs a gather and a scatter of their states; a layer in blocks
    ends its block there and goes step by step, an :class:`lmu.LMU` at ``n^2 + n d + d^2``
    multiplications a step of a stream, until all streams have stepped together for the length of a
    block.

    Args:
        layer: :class:`lmu.LMU`, :class:`lmu.LMUFFT` or :class:`lmu.LMUStack`; or a
            :class:`lmu.LegendreMemory`, for which output and state are its memory. Also compiled,
            or wrapped for checkpointing or data parallel.
        batch_size: Number of streams that step together.

    Raises:
        TypeError: The layer is of another kind, or ``batch_size`` is not an int.
        ValueError: ``batch_size`` is below 1.
    """

    def __init__(
        self, layer: LMU | LMUFFT | LMUStack | LegendreMemory, batch_size: int = 1
    ) -> None:
        inner = unwrap(layer)
        if not isinstance(inner, (LMU, LMUFFT, LMUStack, LegendreMemory)):
            raise TypeError(
                "layer must be an LMU, LMUFFT, LMUStack or LegendreMemory, "
                f"got {type(inner).__name__}"
            )
        if any(hasattr(module, "_fsdp_wrapped_module") for module in layer.modules()):
            raise TypeError("a stream cannot read weights that FSDP shards: gather them first")
        self.layer = layer
        self.batch_size = check_size("batch_size", batch_size)
        self._backend = self._build()

    def __call__(self, x: Tensor, streams: Rows | None = None) -> Tensor:
        """Advance all streams one step, or some of them.

        Args:
            x: Input (batch_size, input_size), of the layer's dtype and device; with ``streams`` a
                row for each of these.
            streams: Those that step: an int, slice, mask or index without repetition. The others
                stand still.

        Returns:
            The hidden state of each stream (batch_size, hidden_size), or of each of ``streams``, in
            their order.

        Raises:
            TypeError: The dtype is not the layer's.
            ValueError: A size or the device does not fit, or ``streams`` names one that is not
                there, or one twice.
        """
        rows, shape = None, self._shape
        if streams is not None:
            rows = self._numbers(streams)
            self._check_once(rows, streams)
            shape = len(rows), self._shape[1]
        fits = isinstance(x, Tensor) and x.shape == shape and x.layout is torch.strided
        if not fits or x.dtype != self._dtype or x.device != self._device:
            self._refuse(x, rows)
        if self._is_native and not torch.is_inference_mode_enabled():
            return self._backend.step(x, rows)
        # Nothing here has a graph; entering a context would take as long as a product.
        x = x.detach() if x.requires_grad else x
        if torch.is_autocast_enabled(self._device.type):
            with no_autocast(self._device):
                return self._step(x, rows)
        if torch.is_inference_mode_enabled():
            return self._step(x, rows)
        return self._backend.step(x, rows)

    def _step(self, x: Tensor, rows: Tensor | None) -> Tensor:
        # What is kept must serve outside of inference mode too.
        with torch.inference_mode(False), torch.no_grad():
            return self._backend.step(x, rows)

    def _numbers(self, streams: Rows) -> Tensor:
        """The numbers of the named streams (streams,), each of which is there."""
        try:
            index: Any = streams
            if isinstance(streams, bool) or not isinstance(streams, (slice, int)):
                # On the CPU: a GPU does not raise.
                index = torch.as_tensor(streams, device="cpu")
                index = index if index.numel() else index.long()
            rows = self._everyone[index]
        except (IndexError, TypeError, ValueError, RuntimeError) as wrong:
            raise ValueError(
                f"streams must name some of {self.batch_size}, by an int, slice, mask "
                f"({self.batch_size},) or index, got {streams!r}: {wrong}"
            ) from wrong
        rows = rows.view(1) if rows.ndim == 0 else rows
        if rows.ndim > 1:
            raise ValueError(f"streams must have one axis at most, got {streams!r}")
        return rows.to(self._device)

    def _check_once(self, rows: Tensor, streams: Rows) -> None:
        if len(rows) < 2 or isinstance(streams, slice):
            return
        named = torch.zeros(self.batch_size, dtype=torch.bool).index_fill_(0, rows.cpu(), True)
        if int(named.sum()) != len(rows):
            raise ValueError(
                f"streams must name each stream once, got {streams!r}: give its samples one after "
                "another"
            )

    @property
    def state(self) -> State:
        """Copies of ``(h, m)``, (batch_size, hidden_size) and (batch_size, order).

        A stack or a recurrent hidden cell has a state of its own form. Streams without a past are
        zero, and the state object marks them (its parts do not), so that
        ``stream.state = stream.state`` changes nothing but the last digit of the memory, which is
        summed up in float64.
        """
        with torch.no_grad(), no_autocast(self._device):
            return self._backend.state()

    @state.setter
    def state(self, state: State) -> None:
        with torch.inference_mode(False), torch.no_grad(), no_autocast(self._device):
            self._backend.start(state)

    def reset(self, streams: Rows | None = None) -> None:
        """Forget the past of all streams, or of those that an int, slice, mask or index names.

        Raises:
            ValueError: ``streams`` names one that is not there.
        """
        with torch.inference_mode(False), torch.no_grad():
            self._backend.reset(self._numbers(slice(None) if streams is None else streams))

    def refresh(self) -> None:
        """Read the layer's weights again; the state stays."""
        state = self.state
        self._backend = self._build()
        dtype = compute_dtype(self._dtype)

        def follow(s: Tensor) -> Tensor:
            return s.to(self._device, dtype if s.is_floating_point() else None)

        moved = map_state(follow, state)
        self.state = Begun(moved, state.new) if isinstance(state, Begun) else moved

    def __getstate__(self) -> dict[str, Any]:
        return {"layer": self.layer, "batch_size": self.batch_size, "state": self.state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.layer, self.batch_size = state["layer"], state["batch_size"]
        self._backend = self._build()
        self.state = state["state"]

    def _build(self) -> Backend:
        layer = in_evaluation(unwrap(self.layer))
        weight = layer._like()
        alone = isinstance(layer, LegendreMemory)
        self.input_size: int = layer.channels if alone else layer.input_size
        self._shape = torch.Size([self.batch_size, self.input_size])
        self._everyone = torch.arange(self.batch_size)
        self._device, self._dtype = weight.device, weight.dtype
        self._is_native = NativeBackend.fits(layer)  # which no mode of PyTorch's touches
        with torch.inference_mode(False), torch.no_grad(), no_autocast(weight.device):
            if self._is_native:
                return NativeBackend(layer, self.batch_size)
            if alone:
                return MemoryBackend(layer, self.batch_size, weight)
            if FFTBackend.fits(layer):
                return FFTBackend(layer, self.batch_size)
            if LMUBackend.fits(layer):
                return LMUBackend(layer, self.batch_size)
            return StepsBackend(layer, self.batch_size)

    def _refuse(self, x: Tensor, rows: Tensor | None) -> None:
        check_input(x, ("batch",), self._shape[1], unwrap(self.layer)._like())
        if rows is not None:
            raise ValueError(f"streams names {len(rows)} streams, got {len(x)} rows of x")
        if len(x) != self.batch_size:
            raise ValueError(
                f"the stream was built for batch_size={self.batch_size}, got {len(x)} rows: "
                "build another one"
            )
