"""Kernel of a time step of streams: encoder, memory and hidden units in one call."""

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.functional import pad

from lmu.ops import native
from lmu.theory.rounding import flush

_empty_like = torch.empty_like  # looked up once, as a step takes microseconds
TILE = 48  # streams that a part steps at once
VECTOR = 16  # numbers of the widest vector: rows of matrices are padded to multiples
WORTH = 2e6  # FLOPs that are worth a thread
_POINTERS = ("x", "out", "rows", "state", "memory", "encoder", "dynamics", "read_out", "work")
_SIZES = (
    "state_row", "order_row", "hidden_row", "hidden", "channels", "order", "inputs", "columns",
    "encoder_start", "read_out_start", "dynamics_step", "tile", "encoder_activation", "activation",
)  # fmt: skip


class _Arguments(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in _POINTERS),
        ("count", ctypes.c_int64),
        *((name, ctypes.c_int64) for name in _SIZES),
    )


class Reader(NamedTuple):
    """``W_h h + W_m m + W_x x + b``, with None for what is not read."""

    W_x: Tensor | None  # (rows, inputs)
    W_h: Tensor | None  # (rows, hidden)
    W_m: Tensor | None  # (rows, channels * order)
    bias: Tensor | None  # (rows,)


class StepWeights(NamedTuple):
    """Weights of a step, ``m_t = m_{t-1} + E m_{t-1} + Bd u_t`` for each channel.

    ``u_t`` is what the encoder reads before the step, through its activation, and the new ``h``
    what the read-out reads of the new memory and the ``h`` before, through its own.
    """

    E: Tensor  # (channels or 1, order, order), Ad - I, better in float64
    Bd: Tensor  # (channels or 1, order)
    encoder: Reader | None = None  # None: u is the input
    read_out: Reader | None = None  # None: there are no hidden units
    encoder_activation: str = "identity"
    activation: str = "identity"


class Steps:
    """States of streams, and the kernel that advances them.

    Results are those of :func:`lmu.ops.lmu_step`: increments of the memory are computed in the
    dtype of the weights and added up in float64.

    Args:
        weights: Copied.
        batch: Number of streams.
        inputs: Number of input features.
        channels: Number of memories.
        hidden: Number of hidden units.
        dtype: In which is computed, float32 or float64.

    Attributes:
        h: Hidden units after the last step (batch, hidden), a view of the state.
        memory: (batch, channels * order), float64.
    """

    def __init__(
        self,
        weights: StepWeights,
        batch: int,
        inputs: int,
        channels: int,
        hidden: int,
        dtype: torch.dtype,
    ) -> None:
        w, d = weights, weights.E.shape[-1]
        self.batch, self.inputs, self.hidden, self.channels = batch, inputs, hidden, channels
        self.order, self.dtype = d, dtype
        self.columns = hidden + channels * (1 + d) + inputs + 1
        self.state = torch.zeros(batch, padded(self.columns), dtype=dtype)
        self.memory = torch.zeros(batch, channels * d, dtype=torch.float64)
        self.h = self.state[:, :hidden]
        blocks = self.state[:, hidden : hidden + channels * (1 + d)]
        self._inputs, self._m = blocks.unflatten(1, (channels, 1 + d)).split([1, d], dim=2)
        self.state[:, self.columns - 1] = 1
        self._keep_weights(w)
        self._out = self.state.new_empty(batch, hidden or channels * d)
        flops = 2 * channels * d * (1 + d) + 2 * hidden * self.columns
        self.parts = parts_of(batch, flops)
        self._arguments = self._fill_arguments(w)
        self._run = native.bind("step", self.dtype, self._arguments)

    def _keep_weights(self, w: StepWeights) -> None:
        self._dynamics = pad_rows(torch.cat([w.Bd[:, None], w.E.mT], dim=1).to(self.dtype))
        self._encoder = self._read_out = None
        self.encoder_start = self.read_out_start = 0
        if w.encoder is not None:
            self.encoder_start = self._first(w.encoder)
            self._encoder = self._in_place(w.encoder)[:, self.encoder_start :].contiguous()
        if w.read_out is not None:
            self.read_out_start = self._first(w.read_out)
            self._read_out = pad_rows(self._in_place(w.read_out)[:, self.read_out_start :].mT)

    def _first(self, r: Reader) -> int:
        """The first number of a row of the state that is read."""
        after = self.hidden + self.channels * (1 + self.order)
        return 0 if r.W_h is not None else self.hidden if r.W_m is not None else after

    def _whole(self, r: Reader) -> Tensor:
        """All weights ``[W_h | W_m | W_x | b]``, zero where there are none."""
        rows = next(len(part) for part in r if part is not None)
        sizes = self.hidden, self.channels * self.order, self.inputs, 1
        bias = None if r.bias is None else r.bias[:, None]
        parts = zip((r.W_h, r.W_m, r.W_x, bias), sizes, strict=True)
        zeros = self.state.new_zeros
        return torch.cat([zeros(rows, size) if p is None else p for p, size in parts], dim=1)

    def _in_place(self, r: Reader) -> Tensor:
        """The weights of a whole row of the state, in which each channel's input precedes it."""
        c, d = self.channels, self.order
        h, m, x = self._whole(r).split([self.hidden, c * d, self.inputs + 1], dim=1)
        m = pad(m.unflatten(1, (c, d)), (1, 0)).flatten(1)
        return torch.cat([h, m, x], dim=1).to(self.dtype)

    def _fill_arguments(self, w: StepWeights) -> _Arguments:
        a = _Arguments()
        a.hidden, a.channels, a.order, a.inputs = (
            self.hidden, self.channels, self.order, self.inputs,
        )  # fmt: skip
        a.columns, a.count, a.tile = self.columns, self.batch, min(TILE, self.batch)
        a.state_row, a.order_row = self.state.shape[1], self._dynamics.shape[2]
        a.hidden_row = 0 if self._read_out is None else self._read_out.shape[1]
        a.encoder_start, a.read_out_start = self.encoder_start, self.read_out_start
        a.dynamics_step = self._dynamics[0].numel() if len(self._dynamics) > 1 else 0
        a.encoder_activation = native.ACTIVATION_NUMBERS[w.encoder_activation]
        a.activation = native.ACTIVATION_NUMBERS[w.activation]
        row = a.state_row + self.channels * a.order_row + a.hidden_row
        self._work = self.state.new_empty(self.parts * a.tile * row)
        a.state, a.memory, a.work = (t.data_ptr() for t in (self.state, self.memory, self._work))
        a.dynamics = self._dynamics.data_ptr()
        a.encoder = None if self._encoder is None else self._encoder.data_ptr()
        a.read_out = None if self._read_out is None else self._read_out.data_ptr()
        return a

    def step(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Advance the streams, or some of them, one step.

        Args:
            x: (batch, inputs), or a row for each of ``rows``; of the dtype of the weights.
            rows: Numbers of distinct streams (rows,), int64.

        Returns:
            The hidden units, or the memory where there are none.
        """
        x = x if x.is_contiguous() else x.contiguous()
        if rows is None:
            y = _empty_like(self._out)
            if self.parts == 1:
                self._run(x.data_ptr(), y.data_ptr())
            else:
                self._run_parts(x, y)
            return y
        a, y = self._arguments, self._out.new_empty(len(rows), self._out.shape[1])
        rows = rows.contiguous()
        a.rows, a.count = rows.data_ptr(), len(rows)
        self._run_parts(x, y)
        a.rows, a.count = None, self.batch
        return y

    def _run_parts(self, x: Tensor, y: Tensor) -> None:
        self._arguments.x, self._arguments.out = x.data_ptr(), y.data_ptr()
        native.run("step", self.dtype, self._arguments, self.parts)

    def set(self, h: Tensor, m: Tensor) -> None:
        """Replace hidden units (batch, hidden) and memory (batch, channels * order)."""
        self.h.copy_(h)
        self.memory.copy_(m)
        self._inputs.zero_()
        narrow = flush(self.memory.to(self.dtype))
        self._m.copy_(narrow.unflatten(1, (self.channels, self.order)))

    def get(self) -> tuple[Tensor, Tensor]:
        """Hidden units, which later steps overwrite, and a copy of the memory; as for :meth:`set`.

        The memory is in the dtype of the weights.
        """
        return self.h, flush(self.memory.to(self.dtype))

    def keep(self, h: Tensor, rows: Tensor | None) -> None:
        """Replace the hidden units after a step, of all streams or of some."""
        if rows is None:
            self.h.copy_(h)
        else:
            self.h.index_copy_(0, rows, h)

    def reset(self, rows: Tensor) -> None:
        """Forget the past of some streams."""
        for part in (self.h, self._inputs, self._m, self.memory):
            part[rows] = 0


_NAMES: dict[Any, str] = {
    None: "identity",
    **{name: name for name in native.ACTIVATION_NUMBERS},
    **{getattr(torch, name): name for name in ("relu", "tanh", "sigmoid")},
    **{getattr(F, name): name for name in ("relu", "tanh", "sigmoid")},
}


def core_name(activation: Any) -> str | None:
    """The name by which the core knows an activation, if it does."""
    return _NAMES.get(activation) if activation.__hash__ is not None else None


def parts_of(batch: int, flops: float) -> int:
    """Parts of the batch that are worth a thread each, at ``flops`` for a row."""
    return max(1, min(torch.get_num_threads(), batch, int(batch * flops / WORTH)))


def padded(size: int) -> int:
    """Round up to whole vectors."""
    return size + -size % VECTOR


def pad_rows(matrix: Tensor) -> Tensor:
    """A copy whose rows are whole vectors."""
    return pad(matrix, (0, -matrix.shape[-1] % VECTOR)).contiguous()
