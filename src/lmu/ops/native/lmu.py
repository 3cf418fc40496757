"""Kernels of :mod:`lmu.ops.lmu.native`."""

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmu.ops import native
from lmu.ops.lmu.naive import LMUWeights

VECTOR = 64  # bytes, of the widest
# A single sequence is shared by threads, which meet at each step, where a step reads so much.
SHARED_BYTES = 1 << 17
CHUNKS = 4  # at most, see parallel.h


class _Sizes(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            *("batch", "steps", "inputs", "hidden", "channels", "blocks", "order", "activation"),
        )
    )


class _Weights(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_void_p) for name in ("e_x", "e_h", "e_m", "W_x", "W_h", "W_m", "E", "B")
    )


def _pointers(*names: str) -> tuple[tuple[str, type], ...]:
    return tuple((name, ctypes.c_void_p) for name in names)


class _Forward(ctypes.Structure):
    _fields_ = (
        ("sizes", _Sizes),
        ("weights", _Weights),
        *_pointers("x", "h", "y", "m", "total"),
    )


class _Backward(ctypes.Structure):
    _fields_ = (
        ("sizes", _Sizes),
        ("weights", _Weights),
        *_pointers("x", "h", "y", "m", "m_0", "dy", "dx", "dh", "dm"),
        *_pointers("sums"),
        ("size", ctypes.c_int64),
        ("learned", ctypes.c_int64),
    )


class _Shared(ctypes.Structure):
    _fields_ = (
        ("sizes", _Sizes),
        ("weights", _Weights),
        ("chunks", ctypes.c_int64),
        *_pointers("room"),
    )


class _SharedForward(ctypes.Structure):
    _fields_ = (("head", _Shared), *_pointers("x", "h", "y", "m", "total"))


class _SharedBackward(ctypes.Structure):
    _fields_ = (
        ("head", _Shared),
        *_pointers("x", "h", "y", "m", "m_0", "dy", "dx", "dh", "dm", "sums"),
    )


class Blocks(NamedTuple):
    """The memory's system in blocks of the diagonal, as kernels take it."""

    number: int
    order: int
    E: Tensor  # (number, order, order)
    B: Tensor  # (channels, order)

    @staticmethod
    def of(w: LMUWeights, dense: bool = False) -> "Blocks":
        """Split a joined system into its channels, unless vectors are longer than their order.

        With ``dense`` it is not split: its gradient is wanted also where there are zeros.
        """
        states, channels = w.Bd.shape
        order = states // channels
        if dense or channels == 1 or order * w.E.element_size() < VECTOR:
            return Blocks(1, states, w.E.contiguous()[None], w.Bd.mT.contiguous())
        c = torch.arange(channels)
        E = w.E.unflatten(1, (channels, order)).unflatten(0, (channels, order))[c, :, c]
        return Blocks(
            channels, order, E.contiguous(), w.Bd.unflatten(0, (channels, order))[c, :, c]
        )


def forward(
    x: Tensor, h: Tensor, m: Tensor, w: LMUWeights, activation: str, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """All hidden states, the last memory in float64, and with ``keep`` all memories.

    Shapes as in :func:`lmu.ops.lmu.native.native`; memories (batch, time, order), else (0,).
    """
    w, blocks = LMUWeights(*(t.contiguous() for t in w)), Blocks.of(w)
    x, h = x.contiguous(), h.contiguous()
    y = x.new_empty(*x.shape[:2], h.shape[1])
    total = m.to(torch.float64, copy=True, memory_format=torch.contiguous_format)
    memories = x.new_empty(*x.shape[:2], m.shape[1]) if keep else x.new_empty(0)
    head = _sizes(x, h, w, blocks, activation), _weights(w, blocks)
    kept = memories.data_ptr() if keep else None
    pointers = x.data_ptr(), h.data_ptr(), y.data_ptr(), kept, total.data_ptr()
    if chunks := chunks_of(x, w):
        _run_shared(
            "lmu_shared_forward", x.dtype, _SharedForward(_Shared(*head, chunks), *pointers)
        )
    else:
        native.run("lmu_forward", x.dtype, _Forward(*head, *pointers), _parts(len(x)))
    return y, total, memories


def chunks_of(x: Tensor, w: LMUWeights) -> int:
    """The number of threads that share the units of a single sequence; 0 if they do not."""
    if len(x) != 1 or not x.shape[1]:
        return 0
    order = w.E.shape[0] // len(w.e_x)
    hidden, states = w.W_m.shape
    size, threads = x.element_size(), torch.get_num_threads()
    return sharing(x.shape[1], hidden, states, order, size, threads)


def sharing(length: int, hidden: int, states: int, order: int, size: int, threads: int) -> int:
    """:func:`chunks_of` by sizes, the last those of a number and of PyTorch's threads.

    Each chunk has a vector of units and states, and what all steps read is more than the products
    that are made for it.
    """
    chunks = min(CHUNKS, threads, min(hidden, states) * size // VECTOR)
    numbers = hidden * (hidden + states) + states * order
    worth = numbers * size >= SHARED_BYTES and length * numbers >= hidden * states * order
    return chunks if chunks > 1 and worth else 0


def _run_shared(name: str, dtype: torch.dtype, arguments: Any) -> None:
    """Run a kernel whose threads meet, with the room that they share."""
    try:
        native.run(f"{name}_begin", dtype, arguments, 1)
        native.run(name, dtype, arguments, arguments.head.chunks)
    finally:
        native.run(f"{name}_end", dtype, arguments, 1)


class Gradients(NamedTuple):
    """Gradients of all arguments; those of E and Bd None where they are constant."""

    x: Tensor
    h: Tensor
    m: Tensor  # float64
    e_x: Tensor
    e_h: Tensor
    e_m: Tensor
    W_x: Tensor
    W_h: Tensor
    W_m: Tensor
    E: Tensor | None
    Bd: Tensor | None


def backward(
    x: Tensor, h: Tensor, m: Tensor, w: LMUWeights, y: Tensor, memories: Tensor,
    dy: Tensor, dm: Tensor, activation: str, learned: bool,
) -> Gradients:  # fmt: skip
    """Gradients of :func:`forward`, from those of all hidden states and of the last memory."""
    w, blocks = LMUWeights(*(t.contiguous() for t in w)), Blocks.of(w, dense=learned)
    x, h, dy = x.contiguous(), h.contiguous(), dy.contiguous()
    m_0 = m.to(x.dtype).contiguous()
    dx, dh = torch.empty_like(x), torch.empty_like(h)
    total = dm.to(torch.float64, copy=True, memory_format=torch.contiguous_format)
    chunks = 0 if learned else chunks_of(x, w)
    parts = 1 if chunks else _parts(len(x))
    shapes = [t.shape for t in w[:6]]
    if learned:
        shapes += [blocks.E.shape, blocks.B.shape]
    sizes = [shape.numel() for shape in shapes]
    sums = x.new_empty(parts, sum(sizes))
    head = _sizes(x, h, w, blocks, activation), _weights(w, blocks)
    pointers = [t.data_ptr() for t in (x, h, y, memories, m_0, dy, dx, dh, total, sums)]
    if chunks:
        shared = _SharedBackward(_Shared(*head, chunks), *pointers)
        _run_shared("lmu_shared_backward", x.dtype, shared)
    else:
        arguments = _Backward(*head, *pointers, sums.shape[1], learned)
        native.run("lmu_backward", x.dtype, arguments, parts)
    each = (sums[0] if parts == 1 else sums.sum(0)).split(sizes)
    grads = [t.view(shape) for t, shape in zip(each, shapes, strict=True)]
    e_x, e_h, e_m, W_x, W_h, W_m, *system = grads
    dE, dB = (system[0][0], system[1].mT) if learned else (None, None)
    return Gradients(dx, dh, total, e_x, e_h, e_m, W_x, W_h, W_m, dE, dB)


def _sizes(x: Tensor, h: Tensor, w: LMUWeights, blocks: Blocks, activation: str) -> _Sizes:
    number = native.ACTIVATION_NUMBERS[activation]
    return _Sizes(*x.shape, h.shape[1], len(w.e_x), blocks.number, blocks.order, number)


def _weights(w: LMUWeights, blocks: Blocks) -> _Weights:
    return _Weights(*(t.data_ptr() for t in (*w[:6], blocks.E, blocks.B)))


def _parts(batch: int) -> int:
    return max(1, min(batch, torch.get_num_threads()))
