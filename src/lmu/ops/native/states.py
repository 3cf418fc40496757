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
    "encoder_W encoder_bias encoder_x encoder_u encoder_dx encoder_dW encoder_dbias encoder_sums",
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


class Plan:
    """What calls of the same sizes share, forward and backward.

    Args:
        u: Input (batch, time, channels), or its sizes.
        system: The memory's.
        rows: Hidden units; 0 for the memory alone.
        dtype: Of the computation.
    """

    def __init__(
        self, u: tuple[int, int, int], system: System, rows: int, dtype: torch.dtype
    ) -> None:
        self.shape, self.system, self.rows, self.dtype = u, system, rows, dtype
        self.order, self.own = system.Bd.shape[-1], system.Ad.ndim == 3
        self.threads = torch.get_num_threads()
        self.layout = o = layout_of(*u, self.order, rows, dtype.itemsize, self.threads)
        self.matrices = matrices_of(system, u[2], o, dtype)
        self.parts = max(1, min(self.threads, -(-u[0] * o.chunks // o.tile)))
        self.scan_parts = max(1, min(self.threads, u[0]))

    @cached_property
    def chunk(self) -> ChunkMatrices:
        """What leads from one chunk to the next."""
        return chunk_matrices_of(self.system, self.layout.chunk, self.dtype)


class Encoder(NamedTuple):
    """``u = f(W x + bias)``; (channels, features) and (channels,)."""

    W: Tensor
    bias: Tensor
    activation: str
    x: Tensor  # (batch, time, features)


class Weights(NamedTuple):
    """Of hidden units (rows, channels * order), (rows, features), (rows,), and their activation."""

    W_m: Tensor
    W_x: Tensor
    bias: Tensor
    activation: str
    x: Tensor  # (batch, time, features)


class Run:
    """Calls of the kernels on tensors, which become contiguous and live as long as it."""

    def __init__(
        self, plan: Plan, u: Tensor, weights: Weights | None = None, encoder: Encoder | None = None
    ) -> None:
        self.plan, self.u = plan, u.contiguous()
        self.features, self.activation, self.W_rows = 0, 0, (0, 0)
        self.known: dict[str, Tensor | None] = {"u": self.u}
        self.encoder = encoder
        self.encoder_numbers = 0, 0, 0
        if weights is not None:
            W_m, W_x = _unit_stride(weights.W_m), _unit_stride(weights.W_x)
            self.features, self.W_rows = W_x.shape[1], (W_m.stride(0), W_x.stride(0))
            self.activation = native.ACTIVATION_NUMBERS[weights.activation]
            self.known |= {"W_m": W_m, "W_x": W_x, "bias": weights.bias.contiguous()}
            self.known["x"] = weights.x.contiguous()
        if encoder is not None:
            number = native.ACTIVATION_NUMBERS[encoder.activation]
            self.encoder_numbers = encoder.W.shape[1], encoder.W.shape[0], number
            self.known |= {
                "encoder_W": encoder.W.contiguous(),
                "encoder_bias": encoder.bias.contiguous(),
                "encoder_x": encoder.x.contiguous(),
                "encoder_u": self.u,
            }

    def states(self, kernel: str, dW_row: int = 0, **tensors: Tensor | None) -> None:
        """Run a kernel of tiles."""
        plan, o = self.plan, self.plan.layout
        arguments = _States(
            *plan.shape, plan.order, o.chunk, o.chunks, o.tile, self.features, plan.rows,
            self.activation, o.groups, o.inputs, o.width, o.padded, plan.own, *self.W_rows, dW_row,
        )  # fmt: skip
        self._run(kernel, arguments, plan.matrices._asdict() | tensors, plan.parts)

    def scan(self, kernel: str, **tensors: Tensor | None) -> None:
        """Run a kernel from chunk to chunk."""
        plan, o = self.plan, self.plan.layout
        arguments = _Scan(*plan.shape, plan.order, o.chunk, o.chunks, plan.own)
        self._run(kernel, arguments, plan.chunk._asdict() | tensors, plan.scan_parts)

    def _run(
        self, kernel: str, arguments: Any, tensors: dict[str, Tensor | None], parts: int
    ) -> None:
        arguments.encoder_features, arguments.encoder_channels, arguments.encoder_activation = (
            self.encoder_numbers
        )
        for name, tensor in (self.known | tensors).items():
            if tensor is not None:
                setattr(arguments, name, tensor.data_ptr())
        native.run(kernel, self.plan.dtype, arguments, parts)


def _unit_stride(w: Tensor) -> Tensor:
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
    if o.chunks > 1 or (last and wide):
        free = None if m_0 is None else plan.system.advance(widen(m_0), o.first(length))
        first, starts = starts, u.new_empty(batch, o.chunks, *shape[1:])
        end = u.new_empty(shape, dtype=torch.float64) if last else None
        run.scan("states_scan", m_0=first, free=free, starts=starts, last=end)
        m_n = u.new_empty(0) if end is None else end.to(u.dtype if m_0 is None else m_0.dtype)
        run.states("states", starts=starts, y=y)
    else:
        m_n = u.new_empty(shape if last else 0)
        run.states("states", starts=starts, y=y, last=m_n if last else None)
    return y, m_n, starts


class Gradients(NamedTuple):
    """Gradients of all arguments; None where they are not needed."""

    u: Tensor
    x: Tensor | None = None  # of the read-out, and of the encoder
    Ad: Tensor | None = None
    Bd: Tensor | None = None
    W: Tensor | None = None  # of both weights (rows, channels * order + features)
    bias: Tensor | None = None
    m_0: Tensor | None = None
    encoder_W: Tensor | None = None
    encoder_bias: Tensor | None = None


class Needs(NamedTuple):
    """Gradients that are needed beside those of the weights and ``u``."""

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
    u, plan, o = run.u, run.plan, run.plan.layout
    (batch, length, channels), d, several = u.shape, plan.order, o.chunks > 1
    dlast = None if dlast is None else dlast.to(u.dtype).contiguous()
    run.known |= {"dy": dy.contiguous(), "y": y, "starts": starts, "dlast": dlast}
    dstarts = u.new_empty(batch, o.chunks, channels, d)
    ends = None
    if several and needs.dynamics:
        ends = torch.empty_like(dstarts)
        run.states("states_backward", dstarts=dstarts)
        run.scan("states_scan_backward", dstarts=dstarts, ends=ends)
    du, dx, dE, dB = torch.empty_like(u), None, None, None
    if needs.x and plan.rows:
        dx = torch.empty_like(run.known["x"])  # pyright: ignore[reportArgumentType]
        if run.encoder is not None and not run.features:
            dx = torch.zeros_like(run.encoder.x, memory_format=torch.contiguous_format)
    if needs.dynamics:
        number = channels if plan.own else 1
        dE = u.new_zeros(plan.parts, number, d, d, dtype=torch.float64)
        dB = u.new_zeros(plan.parts, number, d, dtype=torch.float64)
    W, bias, weights = _weights_to_fill(run)
    from_encoder = _encoder_to_fill(run, plan.scan_parts if several else plan.parts, dx)
    passes_on = needs.start or (several and not needs.dynamics)
    run.states(
        "states_backward", 0 if W is None else W.shape[1], du=du, dx=dx if run.features else None,
        ends=ends, dE=dE, dB=dB, dstarts=dstarts if passes_on else None, **weights, **from_encoder,
    )  # fmt: skip
    dm_0 = dstarts[:, 0] if needs.start else None
    if several and not needs.dynamics:
        first = u.new_empty(batch, channels, d, dtype=torch.float64) if needs.start else None
        run.scan("states_scan_backward", dstarts=dstarts, du=du, first=first, **from_encoder)
        if first is not None:
            dm_0 = dstarts[:, 0] + plan.system.advance(first, o.first(length), adjoint=True)
    dynamics = (
        None if t is None else t.sum(0).view(s.shape)
        for t, s in ((dE, plan.system.Ad), (dB, plan.system.Bd))
    )  # fmt: skip
    of_encoder = from_encoder.get("encoder_dW"), from_encoder.get("encoder_dbias")
    return Gradients(du, dx, *dynamics, W, bias, dm_0, *of_encoder)


def _weights_to_fill(run: Run) -> tuple[Tensor | None, Tensor | None, dict[str, Tensor]]:
    plan, o, u = run.plan, run.plan.layout, run.u
    if not plan.rows:
        return None, None, {}
    states = u.shape[2] * plan.order
    W, bias = u.new_empty(plan.rows, states + run.features), u.new_empty(plan.rows)
    row = _apart(o.groups * o.padded + run.features + 1, u)
    sums = u.new_zeros(plan.parts, row, _apart(plan.rows, u))
    return W, bias, {"dW_m": W, "dW_x": W[:, states:], "dbias": bias, "sums": sums}


def _encoder_to_fill(run: Run, parts: int, dx: Tensor | None) -> dict[str, Any]:
    if run.encoder is None:
        return {}
    W, bias = run.encoder.W, run.encoder.bias
    return {
        "encoder_dx": dx,
        "encoder_dW": torch.empty_like(W, memory_format=torch.contiguous_format),
        "encoder_dbias": torch.empty_like(bias),
        "encoder_sums": W.new_zeros(parts, W.shape[1] + 1, _whole(len(W), W)),
    }


def _whole(n: int, like: Tensor) -> int:
    """``n`` in whole vectors of any variant."""
    vector = 64 // like.element_size()
    return -(-n // vector) * vector


def _apart(n: int, like: Tensor) -> int:
    """The length of rows, as ``apart`` of c/states.h."""
    line, n = 64 // like.element_size(), _whole(n, like)
    return n if n // line % 4 else n + line
