"""Kernel of a time step of the nonlinear LMU in blocks, for streams of large layers.

With ``z = [a | u]``, the argument of the activation and the input of the memory, step s of a block
is ``z_s = N [h | x 1] + V Ad^s m + sum_i K_i u_{s-1-i}``, ``K_i = V Ad^i Bd``, where m is the memory
before the block and ``V = [W_m (Ad + Bd e_m); e_m]``. Only N, as large as ``W_h``, is read at every
step. For m the steps of a block share products of several rows, with ``Ad^s m`` by doubling; these
are made one block earlier, from the memory then, a piece at each step, so that all steps take about
as long. Inputs of the block before are added to eight steps at once.
"""

import ctypes

import torch
from torch import Tensor

from lmu.ops import native
from lmu.ops.native.steps import Steps, StepWeights, pad_rows, padded
from lmu.theory.rounding import flush

LENGTH, STRIDE, GROUP = 32, 4, 8  # steps of a block, between powers, and of GROUP in C
_POINTERS = (
    "x", "out", "read", "memory", "start", "powers", "change", "bases", "past", "now", "N", "K",
    "H", "doubling", "reading",
)  # fmt: skip
_SIZES = (
    "streams", "at", "turn", "warm", "length", "stride", "stages", "width", "read_row", "order_row",
    "hidden", "channels", "order", "inputs", "activation",
)  # fmt: skip
# Numbers a second that a thread reads, within 1 MiB and beyond, and products that it adds up.
_NEAR, _FAR, _PRODUCTS = 20e9, 10e9, 45e9
_LARGEST = 2**25  # numbers in the buffers of all streams


class _Arguments(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _SIZES),
    )


def is_worth_blocks(batch: int, hidden: int, order: int, channels: int) -> bool:
    """True if a step in blocks takes less time than a direct one."""
    n, d = hidden, order * channels
    direct = n * (n + d) + channels * (order * order + n + d)
    block = n * (n + LENGTH * channels)
    # For each step of a block.
    reads = (STRIDE * n + 4 * d) * d / LENGTH
    products = n * d + d * d * STRIDE / LENGTH + LENGTH / GROUP * n * channels
    buffers = batch * (2 * LENGTH * (n + channels) + LENGTH // STRIDE * d)
    blocks = _seconds(batch, block) + max(reads / _FAR, batch * products / _PRODUCTS) + 0.4e-6
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
        self._keep_matrices(weights)
        self._make_buffers()
        self._block = self._fill_block(native.ACTIVATION_NUMBERS[weights.activation])
        self._run_block = native.bind("step_blocks", dtype, self._block)
        self._stop(0)

    def _keep_matrices(self, w: StepWeights) -> None:
        c, n = self.channels, self.hidden
        E = torch.block_diag(*w.E.double().expand(c, -1, -1))
        Bd = torch.block_diag(*w.Bd.double().expand(c, -1)).mT
        encoder, read_out = (self._whole(r).double() for r in (w.encoder, w.read_out))
        (e_h, e_m, e_x), (W_h, W_m, W_x) = (
            r.split([n, c * self.order, self.inputs + 1], dim=1) for r in (encoder, read_out)
        )
        N = torch.cat([torch.cat([W_h, W_x], 1), torch.cat([e_h, e_x], 1)])
        V = torch.cat([W_m + W_m @ E, e_m])
        N[:n] += W_m @ Bd @ N[n:]
        V[:n] += W_m @ Bd @ e_m
        reading, H, increments = [V], [Bd], [E]
        for _ in range(1, STRIDE):
            reading.append(reading[-1] + reading[-1] @ E)
        for _ in range(2 * LENGTH - 2):
            H.append(H[-1] + E @ H[-1])
        for _ in range(LENGTH.bit_length() - 1):  # of 1, 2, 4, ... LENGTH steps
            increments.append(increments[-1] @ increments[-1] + 2 * increments[-1])
        powers = [increments[-1], *increments[STRIDE.bit_length() - 1 : -1]]
        rows = torch.stack(H)
        self._N = self._narrow(N.mT)
        self._K = self._narrow((V @ rows).mT)
        self._H = self._narrow(rows[:LENGTH].mT)
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
        self._powers = new(b, LENGTH // STRIDE, padded(d))
        self._bases = new(2, b, LENGTH, width)
        self._past, self._now = new(b, LENGTH + 2 * GROUP, c), new(b, LENGTH, c)

    def _fill_block(self, activation: int) -> _Arguments:
        a = _Arguments()
        for name in _POINTERS[2:]:
            setattr(a, name, getattr(self, "memory" if name == "memory" else f"_{name}").data_ptr())
        a.streams, a.hidden, a.channels, a.inputs = (
            self.batch, self.hidden, self.channels, self.inputs,
        )  # fmt: skip
        a.order, a.length, a.stride, a.stages = (
            self.memory.shape[1],
            LENGTH,
            STRIDE,
            len(self._doubling),
        )
        a.width, a.read_row, a.order_row = (
            self._N.shape[1],
            self._read.shape[1],
            self._start.shape[1],
        )
        a.activation = activation
        return a

    def _stop(self, waiting: int) -> None:
        """Step directly, and prepare a block after some steps."""
        self.blocks, self.at, self.waiting, self._block.warm = False, 0, waiting, 1

    def step(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Advance the streams, or some of them, one step; see :meth:`Steps.step`."""
        if rows is not None:
            self._leave(LENGTH)
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
        if at + 1 == LENGTH:
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
        self._now[:, LENGTH - 1 - at] = self._inputs.squeeze(2)
        self.at = at + 1
        if self.at == LENGTH:
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
        done = self.at or (0 if self._block.warm else LENGTH)
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

    def reset(self, rows: Tensor) -> None:
        """Forget the past of some streams; the others go on in their block."""
        super().reset(rows)
        self._read[rows, : self.hidden] = 0
        self._bases[:, rows] = 0
        for part in (self._start, self._change, self._powers, self._past, self._now):
            part[rows] = 0
