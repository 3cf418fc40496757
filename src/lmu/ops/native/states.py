"""Kernels of memory states and of hidden units that read them; see c/states.h."""

import ctypes
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from lmu.ops import native
from lmu.ops._modes import widen
from lmu.ops.system import System
from lmu.theory import impulse_response
from lmu.theory.rounding import narrow

LONGEST = 64  # steps of a chunk: rounding of float32 adds up within it
SHORTEST = 16
SEQUENCES = 8  # that are advanced together: rows of a product
BUFFER = 1 << 17  # numbers of a tile, so that it stays in the cache

_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64


def _structure(numbers: str, pointers: str) -> list[tuple[str, type]]:
    fields: list[tuple[str, type]] = [(name, _NUMBER) for name in numbers.split()]
    return fields + [(name, _POINTER) for name in pointers.split()]


class _States(ctypes.Structure):
    _fields_ = _structure(
        "batch length channels order chunk chunks tile features rows activation "
        "groups inputs width padded own W_m_row W_x_row",
        "E_T E B u x starts W_m W_x bias y last dy ends dlast du dx dstarts dW dE dB",
    )


class _Scan(ctypes.Structure):
    _fields_ = _structure(
        "batch length channels order chunk chunks own",
        "H H_T E_T E u m_0 free starts last dstarts ends du first",
    )


class Layout(NamedTuple):
    """How time is cut into chunks, and how channels lie in groups."""

    chunk: int  # steps; the first chunk may be shorter
    chunks: int
    tile: int  # sequences that are advanced together
    groups: int
    inputs: int  # channels of a group
    width: int  # states of a group
    padded: int  # in whole vectors

    def first(self, length: int) -> int:
        """Steps of the first chunk."""
        return length - (self.chunks - 1) * self.chunk


@lru_cache(maxsize=4096)
def layout_of(
    batch: int, length: int, channels: int, order: int, rows: int, size: int, threads: int
) -> Layout:
    """Choose the layout: chunks long enough to be few, and enough of them for all threads.

    Args:
        batch: Number of sequences.
        length: Time steps.
        channels: Number of memories.
        order: Order of a memory.
        rows: Hidden units; 0 for the memory alone.
        size: Bytes of a number.
        threads: Threads that share the work.
    """
    vector = 64 // size
    inputs = max(1, min(channels, vector // order))
    groups, width = -(-channels // inputs), inputs * order
    padded = -(-width // vector) * vector
    wanted = threads * (SEQUENCES if groups < SEQUENCES else 1)
    chunk = min(length, LONGEST)
    if batch * -(-length // chunk) < wanted:
        chunk = min(chunk, max(SHORTEST, -(-length * batch // wanted)))
    sequences = batch * -(-length // chunk)
    tile = max(1, min(SEQUENCES, -(-sequences // threads)))
    numbers = 2 * groups * padded + rows
    while tile * chunk * numbers > BUFFER and chunk > SHORTEST:
        chunk = max(SHORTEST, chunk // 2)
    chunks = -(-length // chunk)
    return Layout(-(-length // chunks), chunks, tile, groups, inputs, width, padded)


class Matrices(NamedTuple):
    """Matrices of a group of channels; shapes as in c/memory.h."""

    E_T: Tensor
    E: Tensor
    B: Tensor


def matrices_of(system: System, channels: int, o: Layout, dtype: torch.dtype) -> Matrices:
    """The increments of a step, of all channels of a group at once."""

    def make() -> Matrices:
        E, Bd, d = system.increment(dtype), narrow(widen(system.Bd), dtype), system.Bd.shape[-1]
        own = E.ndim == 3
        number = o.groups * o.inputs if own else o.inputs
        Es, Bs = E.new_zeros(number, d, d), E.new_zeros(number, d)
        Es[: channels if own else None], Bs[: channels if own else None] = E, Bd
        Es, Bs = Es.unflatten(0, (-1, o.inputs)), Bs.unflatten(0, (-1, o.inputs))
        forward = E.new_zeros(len(Es), o.width, o.padded)
        adjoint, B = torch.zeros_like(forward), E.new_zeros(len(Es), o.inputs, o.padded)
        for k in range(o.inputs):
            block = slice(k * d, (k + 1) * d)
            forward[:, block, block], adjoint[:, block, block] = Es[:, k].mT, Es[:, k]
            B[:, k, block] = Bs[:, k]
        return Matrices(forward, adjoint, B)

    return system.derived(("native matrices", channels, o.inputs, dtype), make)


class ChunkMatrices(NamedTuple):
    """What leads from one chunk to the next; shapes as in c/states_scan.c."""

    H: Tensor
    H_T: Tensor
    E_T: Tensor
    E: Tensor


def chunk_matrices_of(system: System, steps: int, dtype: torch.dtype) -> ChunkMatrices:
    """The response to the inputs of a chunk, and the increment ``Ad^steps - I``."""

    def make() -> ChunkMatrices:
        Ad, Bd = widen(system.Ad), widen(system.Bd)
        H = narrow(impulse_response(Ad, Bd, steps), dtype).flip(-1)
        power = torch.linalg.matrix_power(Ad, steps)
        E = (power - torch.eye(Ad.shape[-1], dtype=Ad.dtype)).double()
        return ChunkMatrices(*(_padded(t, 64 // dtype.itemsize) for t in (H.mT, H, E.mT, E)))

    return system.derived(("native chunk", steps, dtype), make)


def _padded(matrix: Tensor, vector: int) -> Tensor:
    return torch.nn.functional.pad(matrix, (0, -matrix.shape[-1] % vector)).contiguous()


class Weights(NamedTuple):
    """Of hidden units (rows, channels * order), (rows, features), (rows,); or None."""

    W_m: Tensor
    W_x: Tensor
    bias: Tensor


class Plan:
    """What calls of the same sizes share, forward and backward.

    Args:
        u: Input (batch, time, channels).
        system: The memory's.
        rows: Hidden units; 0 for the memory alone.
    """

    def __init__(self, u: Tensor, system: System, rows: int) -> None:
        (batch, length, channels), self.order = u.shape, system.Bd.shape[-1]
        self.system, self.dtype, self.rows = system, u.dtype, rows
        self.own = system.Ad.ndim == 3
        self.threads = torch.get_num_threads()
        self.layout = o = layout_of(
            batch, length, channels, self.order, rows, u.element_size(), self.threads
        )
        self.matrices = matrices_of(system, channels, o, u.dtype)
        self.parts = max(1, min(self.threads, -(-batch * o.chunks // o.tile)))

    @cached_property
    def chunk(self) -> ChunkMatrices:
        """What leads from one chunk to the next."""
        return chunk_matrices_of(self.system, self.layout.chunk, self.dtype)


class Run:
    """Calls of the kernels on tensors, which become contiguous and live as long as it."""

    def __init__(
        self, plan: Plan, u: Tensor, x: Tensor | None = None, weights: Weights | None = None,
        activation: str = "identity",
    ) -> None:  # fmt: skip
        self.plan, self.u = plan, u.contiguous()
        self.x = None if x is None else x.contiguous()
        self.weights = None if weights is None else Weights(*map(_rows_contiguous, weights))
        self.activation = native.ACTIVATION_NUMBERS[activation]

    def states(self, kernel: str, **tensors: Tensor | None) -> None:
        """Run a kernel of tiles."""
        plan, o = self.plan, self.plan.layout
        arguments = _States(
            *self.u.shape, plan.order, o.chunk, o.chunks, o.tile,
            0 if self.x is None else self.x.shape[2], plan.rows, self.activation,
            o.groups, o.inputs, o.width, o.padded, plan.own,
        )  # fmt: skip
        tensors |= plan.matrices._asdict() | {"u": self.u, "x": self.x}
        if self.weights is not None:
            tensors |= self.weights._asdict()
            arguments.W_m_row, arguments.W_x_row = (w.stride(0) for w in self.weights[:2])
        self._run(kernel, arguments, tensors, plan.parts)

    def scan(self, kernel: str, **tensors: Tensor | None) -> None:
        """Run a kernel from chunk to chunk."""
        plan, o = self.plan, self.plan.layout
        arguments = _Scan(*self.u.shape, plan.order, o.chunk, o.chunks, plan.own)
        tensors |= plan.chunk._asdict() | {"u": self.u}
        self._run(kernel, arguments, tensors, min(plan.threads, len(self.u)))

    def _run(
        self, kernel: str, arguments: ctypes.Structure, tensors: dict[str, Tensor | None],
        parts: int,
    ) -> None:  # fmt: skip
        for name, tensor in tensors.items():
            if tensor is not None:
                setattr(arguments, name, tensor.data_ptr())
        native.run(kernel, self.u.dtype, arguments, parts)


def _rows_contiguous(w: Tensor) -> Tensor:
    return w if w.stride(-1) == 1 else w.contiguous()


def forward(run: Run, m_0: Tensor | None, *, last: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """All outputs, the last state if asked for, and the states before the chunks.

    Shapes: ``m_0`` (batch, channels, order); returns (batch, time, rows), or all states (batch,
    time, channels, order); (batch, channels, order) of the dtype of ``m_0``; and (batch, chunks,
    channels, order), or None for zeros.
    """
    u, plan, o = run.u, run.plan, run.plan.layout
    batch, length, channels = u.shape
    shape = batch, channels, plan.order
    y = u.new_empty(batch, length, *((plan.rows,) if plan.rows else shape[1:]))
    wide = m_0 is not None and m_0.dtype != u.dtype
    starts = None if m_0 is None else m_0.to(u.dtype).contiguous()
    m_n = u.new_empty(shape if last else 0)
    if o.chunks > 1 or (last and wide):
        free = None if m_0 is None else plan.system.advance(widen(m_0), o.first(length))
        first, starts = starts, u.new_empty(batch, o.chunks, *shape[1:])
        end = u.new_empty(shape, dtype=torch.float64) if last else None
        run.scan("states_scan", m_0=first, free=free, starts=starts, last=end)
        m_n = m_n if end is None else end.to(u.dtype if m_0 is None else m_0.dtype)
        run.states("states", starts=starts, y=y)
    else:
        run.states("states", starts=starts, y=y, last=m_n if last else None)
    return y, m_n, starts


class Gradients(NamedTuple):
    """Gradients of all arguments; None where they are not needed."""

    u: Tensor | None = None
    x: Tensor | None = None
    Ad: Tensor | None = None
    Bd: Tensor | None = None
    W_m: Tensor | None = None
    W_x: Tensor | None = None
    bias: Tensor | None = None
    m_0: Tensor | None = None


def backward(
    run: Run, dy: Tensor, y: Tensor | None, dlast: Tensor | None, starts: Tensor | None,
    *, learned: bool, needs_x: bool, needs_start: bool,
) -> Gradients:  # fmt: skip
    """Gradients from those of the outputs and of the last state.

    Those of ``Ad`` and ``Bd``, if ``learned``, take a second pass, as adjoint states must be known
    to the chunk's end.
    """
    u, plan, o = run.u, run.plan, run.plan.layout
    (batch, length, channels), d = u.shape, plan.order
    known = {
        "dy": dy.contiguous(),
        "y": y,
        "starts": starts,
        "dlast": None if dlast is None else dlast.to(u.dtype).contiguous(),
    }
    du, dx = torch.empty_like(u), torch.empty_like(run.x) if needs_x and run.x is not None else None
    dstarts = u.new_empty(batch, o.chunks, channels, d)
    dW = u.new_zeros(plan.parts, _row_length(run), _whole(plan.rows, u)) if plan.rows else None
    several = o.chunks > 1
    ends = torch.empty_like(dstarts) if several and learned else None
    if ends is not None:
        run.states("states_backward", **known, dstarts=dstarts)
        run.scan("states_scan_backward", dstarts=dstarts, ends=ends)
    dE = dB = None
    if learned:
        number = channels if plan.own else 1
        dE = u.new_zeros(plan.parts, number, d, d, dtype=torch.float64)
        dB = u.new_zeros(plan.parts, number, d, dtype=torch.float64)
    out = {"du": du, "dx": dx, "dW": dW, "dE": dE, "dB": dB}
    wanted = dstarts if needs_start or (several and not learned) else None
    run.states("states_backward", **known, **out, ends=ends, dstarts=wanted)
    dm_0 = dstarts[:, 0] if needs_start else None
    if several and not learned:
        first = u.new_empty(batch, channels, d, dtype=torch.float64) if needs_start else None
        run.scan("states_scan_backward", dstarts=dstarts, du=du, first=first)
        if first is not None:
            dm_0 = dstarts[:, 0] + plan.system.advance(first, o.first(length), adjoint=True)
    dynamics = [None if t is None else t.sum(0).view(s.shape) for t, s in (
        (dE, plan.system.Ad), (dB, plan.system.Bd))]  # fmt: skip
    return Gradients(du, dx, *dynamics, *_weight_gradients(run, dW), dm_0)


def _whole(n: int, like: Tensor) -> int:
    """``n`` in whole vectors of any variant."""
    vector = 64 // like.element_size()
    return -(-n // vector) * vector


def _row_length(run: Run) -> int:
    o = run.plan.layout
    assert run.x is not None
    return _whole(o.groups * o.padded + run.x.shape[2] + 1, run.u)


def _weight_gradients(run: Run, dW: Tensor | None) -> tuple[Tensor | None, ...]:
    if dW is None or run.x is None:
        return None, None, None
    o, rows, states = run.plan.layout, run.plan.rows, run.u.shape[2] * run.plan.order
    total = dW[0] if len(dW) == 1 else dW.sum(0)
    padded, features = o.groups * o.padded, run.x.shape[2]
    W_m = total[:padded].unflatten(0, (o.groups, o.padded))[:, : o.width].flatten(0, 1)
    W_m = W_m[:states, :rows].mT
    return W_m, total[padded : padded + features, :rows].mT, total[padded + features, :rows]
