"""Kernels of memory states and of hidden units that read them; see c/states.h."""

import ctypes
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

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
_ENCODER = (
    "encoder_features encoder_channels encoder_activation",
    "encoder_weight encoder_bias encoder_x encoder_u encoder_dx encoder_dW encoder_dbias encoder_sums",
)


def _structure(*parts: str) -> list[tuple[str, type]]:
    """Fields: numbers and pointers in turns."""
    kinds = (_NUMBER, _POINTER)
    return [(name, kinds[i % 2]) for i, names in enumerate(parts) for name in names.split()]


class _States(ctypes.Structure):
    _fields_ = _structure(
        "batch length channels order chunk chunks tile features rows activation "
        "groups inputs width padded own W_m_row W_x_row dW_row finished",
        "E_T E B u x starts W_m W_x bias y last dy ends dlast du dx dstarts "
        "dW_m dW_x dbias sums dE dB",
        *_ENCODER,
    )


class _Scan(ctypes.Structure):
    _fields_ = _structure(
        "batch length channels order chunk chunks own finished",
        "H H_T E_T E u m_0 free starts last dstarts ends du first",
        *_ENCODER,
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


class How(NamedTuple):
    """Sizes and activations beside those of the memory, as numbers."""

    rows: int = 0  # hidden units; 0 for the memory alone
    features: int = 0  # of the input that they read
    activation: int = 0
    encoder_features: int = 0
    encoder_activation: int = -1  # no encoder


class Plan:
    """What calls of the same sizes share, forward and backward.

    Args:
        shape: Of the memory's input: batch, time, channels.
        system: The memory's.
        how: The rest of the sizes.
        dtype: Of the computation.
    """

    def __init__(
        self, shape: tuple[int, int, int], system: System, how: How, dtype: torch.dtype
    ) -> None:
        self.shape, self.system, self.how, self.dtype = shape, system, how, dtype
        self.order, self.own = system.Bd.shape[-1], system.Ad.ndim == 3
        self.constant, self.threads = system.constant, torch.get_num_threads()
        batch, _, channels = shape
        self.layout = o = layout_of(*shape, self.order, how.rows, dtype.itemsize, self.threads)
        self.matrices = matrices_of(system, channels, o, dtype)
        self.parts = max(1, min(self.threads, -(-batch * o.chunks // o.tile)))
        self.scan_parts = max(1, min(self.threads, batch))
        self.has_encoder = how.encoder_activation >= 0
        self._encoder = {
            "encoder_features": how.encoder_features,
            "encoder_channels": channels,
            "encoder_activation": how.encoder_activation,
        }
        self.states_start = bytes(_States(
            *shape, self.order, o.chunk, o.chunks, o.tile, how.features, how.rows, how.activation,
            o.groups, o.inputs, o.width, o.padded, self.own,
            **_pointers(self.matrices._asdict()), **self._encoder,
        ))  # fmt: skip

    @cached_property
    def scan_start(self) -> bytes:
        """The arguments of the kernels from chunk to chunk that no call changes."""
        o = self.layout
        chunk = self._chunk = chunk_matrices_of(self.system, o.chunk, self.dtype)
        numbers = *self.shape, self.order, o.chunk, o.chunks, self.own
        return bytes(_Scan(*numbers, **_pointers(chunk._asdict()), **self._encoder))

    @cached_property
    def sums(self) -> int:
        """Numbers in which each part adds up the gradients of the weights."""
        o, line = self.layout, 64 // self.dtype.itemsize
        if not self.how.rows:
            return 0
        row = _apart(o.groups * o.padded + self.how.features + 1, line)
        return row * _apart(self.how.rows, line)

    @cached_property
    def encoder_sums(self) -> int:
        """Likewise of the encoder's."""
        line = 64 // self.dtype.itemsize
        return (self.how.encoder_features + 1) * _whole(self.shape[2], line)


MOST_PLANS = 256  # of a system, for as many lengths


def plan_of(shape: tuple[int, int, int], system: System, how: How, dtype: torch.dtype) -> Plan:
    """Return the plan of these sizes, which is kept while the system stays the same."""
    if not system.constant:
        return Plan(shape, system, how, dtype)
    key = shape, how, dtype, torch.get_num_threads(), system.Ad._version, system.Bd._version
    plan = system.plans.get(key)
    if plan is None:
        if len(system.plans) >= MOST_PLANS:
            system.plans.clear()
        plan = system.plans[key] = Plan(shape, system, how, dtype)
    return plan


class Run:
    """Calls of the kernels on tensors, which live as long as it.

    They come by the names of the kernels' arguments, are contiguous, and may be addresses within
    others. ``x`` is read by the hidden units, ``encoder_x`` by the encoder.
    """

    def __init__(self, plan: Plan, W_row: int = 0, **tensors: Any) -> None:
        self.plan, self.W_row, self.tensors = plan, W_row, tensors

    def states(self, kernel: str, **tensors: Any) -> None:
        """Run a kernel of tiles."""
        arguments = _States.from_buffer_copy(self.plan.states_start)
        arguments.W_m_row = arguments.W_x_row = self.W_row
        self._run(kernel, arguments, tensors, self.plan.parts)

    def scan(self, kernel: str, **tensors: Any) -> None:
        """Run a kernel from chunk to chunk."""
        arguments = _Scan.from_buffer_copy(self.plan.scan_start)
        self._run(kernel, arguments, tensors, self.plan.scan_parts)

    def _run(self, kernel: str, arguments: Any, tensors: dict[str, Any], parts: int) -> None:
        for known in (self.tensors, tensors):
            for name, value in known.items():
                if value is not None:
                    setattr(arguments, name, value if type(value) is int else value.data_ptr())
        native.run(kernel, self.plan.dtype, arguments, parts)


def _pointers(tensors: dict[str, Tensor]) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in tensors.items()}


def forward(
    run: Run, m_0: Tensor | None, like: Tensor, *, last: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """All outputs, the last state if asked for, and the states before the chunks.

    Shapes: ``m_0`` (batch, channels, order); returns (batch, time, rows), or all states (batch,
    time, channels, order); (batch, channels, order) of the dtype of ``m_0``; and (batch, chunks,
    channels, order), or None for zeros. Results are on the device and of the dtype of ``like``.
    """
    plan, o = run.plan, run.plan.layout
    batch, length, channels = plan.shape
    shape = batch, channels, plan.order
    y = like.new_empty((batch, length, plan.how.rows) if plan.how.rows else
                       (batch, length, channels, plan.order))  # fmt: skip
    wide = m_0 is not None and m_0.dtype != plan.dtype
    starts = None if m_0 is None else m_0.to(plan.dtype).contiguous()
    if o.chunks > 1 or (last and wide):
        free = None if m_0 is None else plan.system.advance(widen(m_0), o.first(length))
        first, starts = starts, like.new_empty((batch, o.chunks, channels, plan.order))
        end = like.new_empty(shape, dtype=torch.float64) if last else None
        run.scan("states_scan", m_0=first, free=free, starts=starts, last=end)
        m_n = starts if end is None else end.to(plan.dtype if m_0 is None else m_0.dtype)
        run.states("states", starts=starts, y=y)
    else:
        m_n = like.new_empty(shape) if last else y
        run.states("states", starts=starts, y=y, last=m_n if last else None)
    return y, m_n, starts


class Gradients(NamedTuple):
    """Gradients of all arguments; None where they are not needed."""

    u: Tensor | None
    x: Tensor | None = None  # of the read-out, and of the encoder
    Ad: Tensor | None = None
    Bd: Tensor | None = None
    W: Tensor | None = None  # of both weights (rows, channels * order + features)
    bias: Tensor | None = None
    m_0: Tensor | None = None
    encoder_weight: Tensor | None = None
    encoder_bias: Tensor | None = None


class Needs(NamedTuple):
    """Gradients that are needed beside those of the weights and of the memory's input."""

    x: bool
    dynamics: bool
    start: bool


def backward(
    run: Run, dy: Tensor, y: Tensor | None, dlast: Tensor | None, starts: Tensor | None,
    needs: Needs,
) -> Gradients:  # fmt: skip
    """Gradients from those of the outputs and of the last state.

    Those of the dynamics take a second pass, as adjoint states must be known to the chunk's end;
    there must be no encoder then.
    """
    plan, several = run.plan, run.plan.layout.chunks > 1
    dlast = None if dlast is None else dlast.to(plan.dtype).contiguous()
    dy = dy.contiguous()
    run.tensors |= {"dy": dy, "y": y, "starts": starts, "dlast": dlast}
    work = _Work(run, dy, several)
    states = {"dstarts": work.dstarts} if needs.start or several else {}
    if several and needs.dynamics:
        ends = dy.new_empty(starts.shape)  # pyright: ignore[reportOptionalMemberAccess]
        run.states("states_backward", **states)
        run.scan("states_scan_backward", ends=ends, **states)
        states["ends"] = ends
    dx, in_readout = _input_to_fill(run, needs.x)
    dE, dB = _dynamics_to_fill(plan, dy) if needs.dynamics else (None, None)
    weights, W, bias = _weights_to_fill(run, dy, work)
    encoder, encoder_weight, encoder_bias = _encoder_to_fill(run, work, dx)
    run.states(
        "states_backward", du=work.du, dx=in_readout, dE=dE, dB=dB, **states, **weights, **encoder
    )
    first = None
    if several and not needs.dynamics:
        if needs.start:
            first = dy.new_empty((*starts.shape[:1], *starts.shape[2:]), dtype=torch.float64)  # pyright: ignore[reportOptionalMemberAccess]
        run.scan("states_scan_backward", du=work.du, first=first, **states, **encoder)
    dynamics = (
        None if t is None else t.sum(0).view(s.shape)
        for t, s in ((dE, plan.system.Ad), (dB, plan.system.Bd))
    )  # fmt: skip
    dm_0 = work.first_state(first) if needs.start else None
    return Gradients(work.of_u, dx, *dynamics, W, bias, dm_0, encoder_weight, encoder_bias)


class _Work:
    """One allocation for all that backward needs beside its results; its parts as addresses."""

    def __init__(self, run: Run, like: Tensor, several: bool) -> None:
        plan = self.plan = run.plan
        batch, length, channels = plan.shape
        values = batch * length * channels
        starts = batch * plan.layout.chunks * channels * plan.order
        parts = plan.scan_parts if several else plan.parts
        sizes = (
            values if plan.has_encoder else 0,
            starts,
            plan.parts * plan.sums,
            parts * plan.encoder_sums if plan.has_encoder else 0,
        )
        line = 64 // plan.dtype.itemsize
        self.memory = like.new_empty(sum(_whole(size, line) for size in sizes))
        at, addresses = self.memory.data_ptr(), []
        for size in sizes:
            addresses.append(at)
            at += _whole(size, line) * plan.dtype.itemsize
        self.of_u = None if plan.has_encoder else like.new_empty(plan.shape)
        self.du = addresses[0] if self.of_u is None else self.of_u
        _, self.dstarts, self.sums, self.encoder_sums = addresses
        self._starts = (self.dstarts - self.memory.data_ptr()) // plan.dtype.itemsize, starts

    def first_state(self, later: Tensor | None) -> Tensor:
        """The gradient of the state before the first chunk, with that by way of later ones."""
        plan, (begin, size) = self.plan, self._starts
        batch, length, channels = plan.shape
        all_starts = self.memory[begin : begin + size]
        own = all_starts.view(batch, -1, channels, plan.order)[:, 0]
        if later is None:
            return own.clone()
        return own + plan.system.advance(later, plan.layout.first(length), adjoint=True)


def _input_to_fill(run: Run, needed: bool) -> tuple[Tensor | None, Tensor | None]:
    """The gradient of the input, and again if the hidden units read it."""
    x = run.tensors.get("encoder_x" if run.plan.has_encoder else "x")
    if not needed or x is None:
        return None, None
    if run.plan.how.features or not run.plan.has_encoder:
        dx = torch.empty_like(x)
        return dx, dx
    return torch.zeros_like(x), None


def _dynamics_to_fill(plan: Plan, like: Tensor) -> tuple[Tensor, Tensor]:
    shape = plan.parts, plan.shape[2] if plan.own else 1, plan.order
    dE = like.new_zeros((*shape, plan.order), dtype=torch.float64)
    return dE, like.new_zeros(shape, dtype=torch.float64)


def _weights_to_fill(
    run: Run, like: Tensor, work: _Work
) -> tuple[dict[str, Any], Tensor | None, Tensor | None]:
    plan, how = run.plan, run.plan.how
    if not how.rows:
        return {}, None, None
    states = plan.shape[2] * plan.order
    W, bias = like.new_empty((how.rows, states + how.features)), like.new_empty((how.rows,))
    start = W.data_ptr()
    weights = {
        "dW_row": states + how.features,
        "dW_m": start,
        "dW_x": start + states * plan.dtype.itemsize,
        "dbias": bias,
        "sums": work.sums,
    }
    return weights, W, bias


def _encoder_to_fill(
    run: Run, work: _Work, dx: Tensor | None
) -> tuple[dict[str, Any], Tensor | None, Tensor | None]:
    if not run.plan.has_encoder:
        return {}, None, None
    W, bias = run.tensors["encoder_weight"], run.tensors["encoder_bias"]
    assert W is not None
    assert bias is not None
    dW, dbias = torch.empty_like(W), torch.empty_like(bias)
    fill = {"encoder_dx": dx, "encoder_dW": dW, "encoder_dbias": dbias}
    return fill | {"encoder_sums": work.encoder_sums}, dW, dbias


def _whole(n: int, line: int) -> int:
    """``n`` in whole vectors of any variant, of ``line`` numbers."""
    return -(-n // line) * line


def _apart(n: int, line: int) -> int:
    """The length of rows, as ``apart`` of c/states.h."""
    n = _whole(n, line)
    return n if n // line % 4 else n + line
