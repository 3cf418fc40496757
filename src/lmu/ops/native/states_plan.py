"""Sizes of calls of the kernels of memory states, and what such calls share; see c/states.h."""

import ctypes
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from lmu.ops._modes import widen
from lmu.ops.system import System
from lmu.theory import impulse_response
from lmu.theory.rounding import narrow

LONGEST = 64  # steps of a chunk: rounding of float32 adds up within it
SHORTEST = 16
SEQUENCES = 8  # that are advanced together: rows of a product
BUFFER = 1 << 17  # numbers of a tile, so that it stays in the cache

_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64
ENCODER = (
    "encoder_features encoder_channels encoder_activation",
    "encoder_weight encoder_bias encoder_x encoder_u encoder_dx encoder_dW encoder_dbias "
    "encoder_sums",
)


def structure(*parts: str) -> list[tuple[str, type]]:
    """Fields: numbers and pointers in turns."""
    kinds = (_NUMBER, _POINTER)
    return [(name, kinds[i % 2]) for i, names in enumerate(parts) for name in names.split()]


class StatesArguments(ctypes.Structure):
    """``states_arguments`` of c/states.h."""

    _fields_ = structure(
        "batch length channels order chunk chunks tile features rows activation "
        "groups inputs width padded own W_m_row W_x_row dW_row finished",
        "E_T E B u x starts W_m W_x bias y last dy ends dlast du dx dstarts "
        "dW_m dW_x dbias sums dE dB H H_T",
        *ENCODER,
    )


class ScanArguments(ctypes.Structure):
    """``scan_arguments`` of c/states_scan.c."""

    _fields_ = structure(
        "batch length channels order chunk chunks own finished",
        "H H_T E_T E u m_0 free starts last dstarts ends du first",
        *ENCODER,
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
    direct: bool  # states may be sums of responses, see c/states_response.h

    def first(self, length: int) -> int:
        """Steps of the first chunk."""
        return length - (self.chunks - 1) * self.chunk


@lru_cache(maxsize=4096)
def layout_of(
    batch: int, length: int, channels: int, order: int, rows: int, size: int, threads: int,
    constant: bool = True,
) -> Layout:  # fmt: skip
    """Choose the layout: chunks long enough to be few, and enough of them for all threads.

    Args:
        batch: Number of sequences.
        length: Time steps.
        channels: Number of memories.
        order: Order of a memory.
        rows: Hidden units; 0 for the memory alone.
        size: Bytes of a number.
        threads: Threads that share the work.
        constant: Whether the system is, so that its response is kept.
    """
    vector = 64 // size
    inputs = max(1, min(channels, vector // order))
    groups, width = -(-channels // inputs), inputs * order
    padded = -(-width // vector) * vector
    if constant and is_direct(length, inputs, order, groups * padded):
        tile = max(1, min(SEQUENCES, -(-batch // threads)))
        while tile > 1 and tile * length * (2 * groups * padded + rows) > BUFFER:
            tile -= 1
        return Layout(length, 1, tile, groups, inputs, width, padded, True)
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
    return Layout(-(-length // chunks), chunks, tile, groups, inputs, width, padded, False)


def is_direct(length: int, inputs: int, order: int, states: int) -> bool:
    """True where sums of responses cost less than steps; ``states`` numbers in all channels."""
    return inputs == 1 and length <= min(LONGEST, order) and length * states <= BUFFER


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
        sizes = *shape, self.order, how.rows, dtype.itemsize
        self.layout = o = layout_of(*sizes, self.threads, self.constant)
        self.matrices = matrices_of(system, channels, o, dtype)
        self.parts = max(1, min(self.threads, -(-batch * o.chunks // o.tile)))
        self.scan_parts = max(1, min(self.threads, batch))
        self.has_encoder = how.encoder_activation >= 0
        self._encoder = {
            "encoder_features": how.encoder_features,
            "encoder_channels": channels,
            "encoder_activation": how.encoder_activation,
        }
        self.states_start = bytes(StatesArguments(
            *shape, self.order, o.chunk, o.chunks, o.tile, how.features, how.rows, how.activation,
            o.groups, o.inputs, o.width, o.padded, self.own,
            **_pointers(self.matrices._asdict()), **self._encoder, **self._response,
        ))  # fmt: skip

    @property
    def _response(self) -> dict[str, int]:
        if not self.layout.direct:
            return {}
        chunk = self.chunk = chunk_matrices_of(self.system, self.layout.chunk, self.dtype)
        return {"H": chunk.H.data_ptr(), "H_T": chunk.H_T.data_ptr()}

    @cached_property
    def scan_start(self) -> bytes:
        """The arguments of the kernels from chunk to chunk that no call changes."""
        o = self.layout
        chunk = self.chunk = chunk_matrices_of(self.system, o.chunk, self.dtype)
        numbers = *self.shape, self.order, o.chunk, o.chunks, self.own
        return bytes(ScanArguments(*numbers, **_pointers(chunk._asdict()), **self._encoder))

    @cached_property
    def sums(self) -> int:
        """Numbers in which each part adds up the gradients of the weights."""
        o, line = self.layout, 64 // self.dtype.itemsize
        if not self.how.rows:
            return 0
        row = apart(o.groups * o.padded + self.how.features + 1, line)
        return row * apart(self.how.rows, line)

    @cached_property
    def encoder_sums(self) -> int:
        """Likewise of the encoder's."""
        line = 64 // self.dtype.itemsize
        return (self.how.encoder_features + 1) * whole_lines(self.shape[2], line)


MOST_PLANS = 256  # of a system, for as many lengths


def plan_of(shape: tuple[int, int, int], system: System, how: How, dtype: torch.dtype) -> Plan:
    """Return the plan of these sizes, kept while a constant system stays the same."""
    if not system.keeps:
        return Plan(shape, system, how, dtype)
    key = shape, how, dtype, torch.get_num_threads(), system.Ad._version, system.Bd._version
    plan = system.plans.get(key)
    if plan is None:
        if len(system.plans) >= MOST_PLANS:
            system.plans.clear()
        plan = system.plans[key] = Plan(shape, system, how, dtype)
    return plan


def _pointers(tensors: dict[str, Tensor]) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in tensors.items()}


def whole_lines(n: int, line: int) -> int:
    """``n`` in whole vectors of any variant, of ``line`` numbers."""
    return -(-n // line) * line


def apart(n: int, line: int) -> int:
    """The length of rows, as ``apart`` of c/states.h."""
    n = whole_lines(n, line)
    return n if n // line % 4 else n + line
