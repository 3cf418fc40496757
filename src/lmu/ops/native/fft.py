"""Convolutions by Fourier transforms in the compiled core: spectra, products, and gradients."""

import ctypes
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from lmu.ops import native

_LINE = 64  # bytes of the longest vectors
_TOGETHER = 4  # sequences that are multiplied at once
ACTIVATIONS = native.ACTIVATION_NUMBERS | {"gelu": 4}  # of fft_ends.h
# Relative time of a point in a pass of each radix, and in all that is not a pass; fitted by hand.
_PASSES = {2: 1.5, 3: 2.2, 4: 2.6, 5: 3.1, 8: 3.9}
_REST = 3.0


_NUMBERS = (
    "n", "sequences", "length", "rows", "width", "signals", "channels", "inputs", "kind",
    "group_parts", "sequence_parts",
)  # fmt: skip
_POINTERS = (
    "factors", "u", "K", "U", "KF", "x", "W_x", "bias", "y", "dy", "dU", "dKF", "dW", "dx",
    "du", "dK",
)  # fmt: skip


class Arguments(ctypes.Structure):
    """``fft_arguments`` of fft_arguments.h."""

    _fields_ = [(name, ctypes.c_int64) for name in _NUMBERS] + [
        (name, ctypes.c_void_p) for name in _POINTERS
    ]


def variant() -> str | None:
    """The instructions in use, on which the layout of spectra depends."""
    return native.native_status().variant


class Sizes(NamedTuple):
    """Sizes of a convolution: ``signals`` kernels of ``rows`` rows for each sequence."""

    sequences: int
    length: int
    rows: int
    signals: int
    channels: int  # of u: those of one sequence or, with one signal each, of several


class Spectra(NamedTuple):
    """Spectra of inputs and of kernels, in an order and a layout of the kernels' own."""

    U: Tensor
    KF: Tensor


@lru_cache(maxsize=4096)
def transform_length(length: int) -> int:
    """The length of the fastest transform of ``length`` steps: its prime factors are 2, 3, 5."""
    candidates = []
    fives = 1
    while fives < 2 * length:
        threes = fives
        while threes < 2 * length:
            n = threes
            while n < max(length, 2):
                n *= 2
            candidates.append(n)
            threes *= 3
        fives *= 5
    return min(candidates, key=transform_weight)


def transform_weight(n: int) -> float:
    """Relative time of a transform of n points."""
    weight, rest = _REST, n
    for radix in (5, 3, 8, 4, 2):
        while rest % radix == 0 and not (radix == 8 and rest == 16):
            rest //= radix
            weight += _PASSES[radix]
    return n * weight


@lru_cache(maxsize=64)
def _factors(n: int, dtype: torch.dtype, variant: str | None) -> ctypes.Array:
    """Factors of a transform, whose passes depend on the registers that there are."""
    del variant
    table = ((ctypes.c_float if dtype == torch.float32 else ctypes.c_double) * (4 * n))()
    arguments = Arguments(n=n, factors=ctypes.addressof(table))
    native.run("fft_factors", dtype, arguments, 1)
    return table


def in_vectors(rows: int, dtype: torch.dtype) -> int:
    """Rows filled up to whole vectors of any instruction set."""
    lanes = _LINE // dtype.itemsize
    return -(-rows // lanes) * lanes


def _arguments(s: Sizes, dtype: torch.dtype, **tensors: Tensor | None) -> Arguments:
    n = transform_length(s.length)
    arguments = Arguments(
        n=n,
        sequences=s.sequences,
        length=s.length,
        rows=s.rows,
        width=in_vectors(s.rows, dtype),
        signals=s.signals,
        channels=s.channels,
        factors=ctypes.addressof(_factors(n, dtype, variant())),
    )
    _point(arguments, **tensors)
    return arguments


def _share(a: Arguments, s: Sizes, dtype: torch.dtype) -> int:
    """Cut sequences, and where these are too few the rows, into parts for all threads."""
    threads = torch.get_num_threads()
    groups = -(-s.rows * dtype.itemsize // _LINE)
    a.sequence_parts = min(threads, -(-s.sequences // _TOGETHER))
    a.group_parts = min(groups, -(-threads // a.sequence_parts))
    return a.sequence_parts * a.group_parts


def spectra(s: Sizes, u: Tensor, K: Tensor) -> Spectra:
    """Transform the input (batch, time, channels) and kernels (signals, time, rows)."""
    n, width = transform_length(s.length), in_vectors(s.rows, u.dtype)
    u, K = u.contiguous(), K.contiguous()
    U = u.new_empty(s.sequences, n, s.signals, 2)
    KF = u.new_empty(n, s.signals, 2, width)
    a = _arguments(s, u.dtype, u=u, K=K, U=U, KF=KF)
    native.run("fft_spectra", u.dtype, a, _tasks(s, u.dtype))
    return Spectra(U, KF)


def _tasks(s: Sizes, dtype: torch.dtype) -> int:
    """Parts for the transforms of inputs and kernels."""
    lanes = _LINE // dtype.itemsize
    tasks = s.signals * in_vectors(s.rows, dtype) // lanes + -(-s.sequences * s.signals // lanes)
    return min(tasks, 4 * torch.get_num_threads())


class Linear(NamedTuple):
    """What a read-out adds to the convolution: ``x W_x^T + bias``."""

    x: Tensor
    W_x: Tensor
    bias: Tensor | None = None

    def arguments(self) -> dict[str, Tensor | None]:
        """Its tensors, contiguous."""
        bias = None if self.bias is None else self.bias.contiguous()
        return {"x": self.x.contiguous(), "W_x": self.W_x.contiguous(), "bias": bias}


def forward(
    s: Sizes, of: Spectra, y: Tensor, more: Linear | None = None, activation: str = "identity"
) -> None:
    """Write ``f(u * K + x W_x^T + bias)`` to ``y``."""
    rest = {} if more is None else more.arguments()
    a = _arguments(s, y.dtype, **of._asdict(), **rest, y=y)
    a.inputs = 0 if more is None else more.x.shape[2]
    a.kind = ACTIVATIONS[activation]
    native.run("fft_forward", y.dtype, a, _share(a, s, y.dtype))


class Gradients(NamedTuple):
    """Gradients of a convolution's arguments; None where they are not needed."""

    u: Tensor | None
    K: Tensor | None
    x: Tensor | None = None
    W_x: Tensor | None = None
    bias: Tensor | None = None


def backward(
    s: Sizes,
    of: Spectra,
    dy: Tensor,
    needed: tuple[bool, ...],
    y: Tensor | None = None,
    more: Linear | None = None,
    activation: str = "identity",
) -> Gradients:
    """Gradients of u, K, x, W_x and bias, where needed, from that of ``y``.

    Gelu needs the bias of ``more`` and not ``y``, the others ``y`` and not the bias.
    """
    width, rest = in_vectors(s.rows, dy.dtype), {}
    dy = dy.contiguous()
    if more is not None:
        rest = more.arguments() | {"y": y}
    a = _arguments(s, dy.dtype, **of._asdict(), **rest, dy=dy)
    a.inputs = 0 if more is None else more.x.shape[2]
    a.kind = ACTIVATIONS[activation]
    parts = _share(a, s, dy.dtype)
    rows, cols = a.sequence_parts, a.group_parts
    dU = dy.new_empty(cols, *of.U.shape) if needed[0] else None
    dKF = dy.new_empty(rows, *of.KF.shape) if needed[1] else None
    dx = dy.new_zeros(cols, *more.x.shape) if more and needed[2] else None
    dW = dy.new_zeros(rows, a.inputs + 1, width) if more and any(needed[2:]) else None
    _point(a, dU=dU, dKF=dKF, dx=dx, dW=dW)
    native.run("fft_backward", dy.dtype, a, parts)
    batch = s.sequences * s.signals // s.channels
    du = dy.new_empty(batch, s.length, s.channels) if needed[0] else None
    dK = dy.new_empty(s.signals, s.length, s.rows) if needed[1] else None
    _point(a, du=du, dK=dK)
    native.run("fft_gradients", dy.dtype, a, _tasks(s, dy.dtype))
    if dW is None:
        return Gradients(du, dK)
    dW = _sum(dW)[:, : s.rows]
    return Gradients(du, dK, None if dx is None else _sum(dx), dW[:-1].mT, dW[-1])


def _sum(of_parts: Tensor) -> Tensor:
    return of_parts[0] if len(of_parts) == 1 else of_parts.sum(0)


def _point(a: Arguments, **tensors: Tensor | None) -> None:
    """Let the arguments point to tensors, but for those that are None."""
    for name, tensor in tensors.items():
        if tensor is not None:
            setattr(a, name, tensor.data_ptr())
