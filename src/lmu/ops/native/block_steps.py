"""Kernel of a time step in blocks, for streams of large LMUs and LMUFFTs.

With ``z = [a | u]``, the argument of the activation and the input of the memory, step s of a block
is ``z_s = N [h | x 1] + V Ad^s m + sum_i K_i u_{s-1-i}``, where ``K_i = V Ad^i Bd``, m is the
memory before the block and ``V = [W_m (Ad + Bd e_m); e_m]``. Only N, as large as ``W_h``, is read
at each step. For m the steps of a block share products of several rows, with ``Ad^s m`` by
doubling; these are made one block earlier, from the memory then, a piece at each step, so that all
steps take about as long. Inputs of the block before are added to eight steps at once.

Without feedback u is known before z, which is a alone: then N has no columns for h, and a step
reads ``V = W_m Ad`` and ``K_i = W_m Ad^i Bd`` from i = 0, the new input, on.
"""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from lmu.ops import native
from lmu.ops.native.steps import Steps, StepWeights, pad_rows, padded
from lmu.theory.rounding import flush

GROUP = 8  # as in C
_POINTERS = (
    "x", "out", "read", "memory", "start", "powers", "change", "bases", "past", "now", "N", "K",
    "H", "doubling", "reading", "encoder",
)  # fmt: skip
_SIZES = (
    "streams", "at", "turn", "warm", "length", "stride", "stages", "width", "read_row", "order_row",
    "hidden", "channels", "order", "inputs", "open",
    "encoder_activation", "activation",
)  # fmt: skip
# Numbers a second that a thread reads, within 1 MiB and beyond, and products that it adds up.
_NEAR, _FAR, _PRODUCTS, _PRODUCTS_OF_BLOCKS = 20e9, 10e9, 45e9, 41e9
_LARGEST = 2**25  # numbers in the buffers of all streams


class _Arguments(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _SIZES),
    )


class Plan(NamedTuple):
    """Steps of a block, and between the powers of ``Ad`` that are made for it by doubling."""

    length: int
    stride: int


def plan(batch: int) -> Plan:
    """Where few streams step, powers are the rows of products; else streams are."""
    return Plan(32, 4) if batch < 16 else Plan(16, 16)


def is_worth_blocks(batch: int, hidden: int, order: int, channels: int, feedback: bool) -> bool:
    """True if a step in blocks takes less time than a direct one."""
    n, d, (length, stride) = hidden, order * channels, plan(batch)
    fed = n if feedback else 0
    direct = n * (fed + d) + channels * (order * order + fed + d)
    block = n * (fed + length * channels)
    # For each step of a block.
    reads = (stride * n + (length // stride).bit_length() * d) * d / length
    products = n * d + d * d / stride + length / GROUP * n * channels
    buffers = batch * (2 * length * (n + channels) + length // stride * d)
    prepared = max(reads / _FAR, batch * products / _PRODUCTS_OF_BLOCKS)
    blocks = _seconds(batch, block) + prepared + 0.3e-6 + 0.1e-6 * batch
    return blocks < 0.9 * _seconds(batch, direct) and buffers < _LARGEST


def _seconds(batch: int, weights: int) -> float:
    return max(weights / (_NEAR if weights < 2**18 else _FAR * 1.8), batch * weights / _PRODUCTS)


class BlockSteps(Steps):
    """:class:`Steps` in blocks, while all streams step together.

    Streams step by :class:`Steps` until they have done so for the length of a block, in which the
    first block is prepared. A step of only some streams ends the block; so does a new state.
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
        super().__init__(weights, batch, inputs, channels, hidden, dtype)
        self.length, self.stride = plan(batch)
        self._keep_matrices(weights)
        self._make_buffers()
        self._block = self._fill_block(weights)
        self._run_block = native.bind("step_blocks", dtype, self._block)
        self._stop(0)

    def _keep_matrices(self, w: StepWeights) -> None:
        c, n = self.channels, self.hidden
        # Nothing is fed back if what is read of a row of the state is x.
        self.open = w.encoder is None or (w.encoder.W_h is None and w.encoder.W_m is None)
        E = torch.block_diag(*w.E.double().expand(c, -1, -1))
        Bd = torch.block_diag(*w.Bd.double().expand(c, -1)).mT
        assert w.read_out is not None
        read_out = self._whole(w.read_out).double()
        encoder = torch.zeros(c, read_out.shape[1], dtype=torch.float64)
        encoder = encoder if w.encoder is None else self._whole(w.encoder).double()
        (e_h, e_m, e_x), (W_h, W_m, W_x) = (
            r.split([n, c * self.order, self.inputs + 1], dim=1) for r in (encoder, read_out)
        )
        N, V, first = W_x, W_m + W_m @ E, W_m
        if not self.open:
            N = torch.cat([torch.cat([W_h, W_x], 1), torch.cat([e_h, e_x], 1)])
            N[:n] += W_m @ Bd @ N[n:]
            V = first = torch.cat([V + W_m @ Bd @ e_m, e_m])
        reading, H, increments = [V], [Bd], [E]
        for _ in range(1, self.stride):
            reading.append(reading[-1] + reading[-1] @ E)
        for _ in range(2 * self.length - 1):
            H.append(H[-1] + E @ H[-1])
        for _ in range(self.length.bit_length() - 1):  # of 1, 2, 4, ... self.length steps
            increments.append(increments[-1] @ increments[-1] + 2 * increments[-1])
        powers = [increments[-1], *increments[self.stride.bit_length() - 1 : -1]]
        rows = torch.stack(H)
        self._N = self._narrow(N.mT)
        self._K = self._narrow((first @ rows).mT)
        self._H = self._narrow(rows[: self.length].mT)
        self._doubling = self._narrow(torch.stack(powers).mT)
        self._reading = self._narrow(torch.stack(reading).mT)

    def _narrow(self, matrix: Tensor) -> Tensor:
        return pad_rows(matrix.to(self.dtype))

    def _make_buffers(self) -> None:
        b, c, n, d = self.batch, self.channels, self.hidden, self.channels * self.order
        new, width = self.state.new_zeros, self._N.shape[1]
        self._read = new(b, padded(n + self.inputs + 1))
        self._read[:, n + self.inputs] = 1
        self._start, self._change = new(b, padded(d)), new(b, padded(d))
        self._powers = new(b, self.length // self.stride, padded(d))
        self._bases = new(2, b, self.length, width)
        self._past, self._now = new(b, self.length + 2 * GROUP, c), new(b, self.length, c)

    def _fill_block(self, w: StepWeights) -> _Arguments:
        a = _Arguments()
        for name in _POINTERS[2:-1]:
            setattr(a, name, getattr(self, "memory" if name == "memory" else f"_{name}").data_ptr())
        if self.open and self._encoder is not None:
            a.encoder = self._encoder.data_ptr()
        a.streams, a.open = self.batch, self.open
        a.hidden, a.channels, a.inputs = self.hidden, self.channels, self.inputs
        a.order, a.order_row = self.memory.shape[1], self._start.shape[1]
        a.length, a.stride, a.stages = self.length, self.stride, len(self._doubling)
        a.width, a.read_row = self._N.shape[1], self._read.shape[1]
        a.encoder_activation = native.ACTIVATION_NUMBERS[w.encoder_activation]
        a.activation = native.ACTIVATION_NUMBERS[w.activation]
        return a

    def _stop(self, waiting: int) -> None:
        """Step directly, and prepare a block after some steps."""
        self.blocks, self.at, self.waiting, self._block.warm = False, 0, waiting, 1

    def step(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Advance the streams, or some of them, one step; see :meth:`Steps.step`."""
        if rows is not None:
            self._leave(self.length)
            return super().step(x, rows)
        if not self.blocks:
            return self._step_before(x)
        block, at = self._block, self.at
        block.at = at
        x, y = x if x.is_contiguous() else x.contiguous(), torch.empty_like(self._out)
        self._advance(x.data_ptr(), y.data_ptr())
        if at == 0:
            block.warm = 0
        self.at = at + 1
        if at + 1 == self.length:
            self._turn()
        return y

    def _turn(self) -> None:
        self.at, self._block.turn = 0, 1 - self._block.turn

    def _advance(self, x: int | None, y: int | None) -> None:
        if self.parts == 1:
            self._run_block(x, y)
        else:
            self._block.x, self._block.out = x, y
            native.run("step_blocks", self.dtype, self._block, self.parts)

    def _step_before(self, x: Tensor) -> Tensor:
        """A direct step, in which the first block may be prepared."""
        if self.waiting:
            self.waiting -= 1
            return super().step(x)
        at = self._block.at = self.at
        self._advance(None, None)
        y = super().step(x)
        self._now[:, self.length - 1 - at] = self._inputs.squeeze(2)
        self.at = at + 1
        if self.at == self.length:
            self._read[:, : self.hidden] = self.h
            self.blocks = True
            self._turn()
        return y

    def _leave(self, waiting: int) -> None:
        """Bring the state up to the last step, and step directly from there."""
        if self.blocks:
            h, m = self._read[:, : self.hidden], self._replay()
            self._stop(waiting)
            super().set(h, m)
        self._stop(waiting)

    def _replay(self) -> Tensor:
        """The memory after the last step, in float64."""
        done = self.at or (0 if self._block.warm else self.length)
        base = flush(self.memory.to(self.dtype)).unflatten(1, (self.channels, -1)).transpose(0, 1)
        B, E = self._dynamics[..., : self.order].split([1, self.order], dim=1)
        m, delta = base, torch.zeros_like(base)
        for u in self._now.unbind(1)[::-1][:done]:
            delta = delta + (u.mT.unsqueeze(2) * B + m @ E)
            m = base + delta
        return self.memory + delta.transpose(0, 1).flatten(1)

    def set(self, h: Tensor, m: Tensor) -> None:
        """Replace the states, see :meth:`Steps.set`; the next block is prepared at once."""
        self._stop(0)
        super().set(h, m)

    def get(self) -> tuple[Tensor, Tensor]:
        """The states; see :meth:`Steps.get`."""
        if not self.blocks:
            return super().get()
        return self._read[:, : self.hidden], flush(self._replay().to(self.dtype))

    def keep(self, h: Tensor, rows: Tensor | None) -> None:
        """Replace hidden units; see :meth:`Steps.keep`."""
        if self.blocks:
            self._read[:, : self.hidden] = h
        else:
            super().keep(h, rows)

    def reset(self, rows: Tensor) -> None:
        """Forget the past of some streams; the others go on in their block."""
        super().reset(rows)
        self._read[rows, : self.hidden] = 0
        self._bases[:, rows] = 0
        for part in (self._start, self._change, self._powers, self._past, self._now):
            part[rows] = 0
