"""Convolutions by Fourier transforms in the compiled core: spectra, products, and gradients."""

import ctypes
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from lmu.ops import native

_LINE = 64  # bytes of the longest vectors
_TOGETHER = 4  # sequences that are multiplied at once
# Relative time of a pass of each radix, of each point.
_PASSES = {2: 1.6, 3: 2.6, 4: 2.4, 5: 3.7, 8: 3.3}


class Arguments(ctypes.Structure):
    """``fft_arguments`` of fft_arguments.h."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            "n sequences length rows width signals channels inputs kind group_parts sequence_parts"
        ).split()
    ] + [
        (name, ctypes.c_void_p) for name in "factors u K U KF x W y dy dU dKF dW dx du dK".split()
    ]


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
    weight, rest = 0.0, n
    for radix in (5, 3, 8, 4, 2):
        while rest % radix == 0 and not (radix == 8 and rest == 16):
            rest //= radix
            weight += _PASSES[radix]
    return n * weight


@lru_cache(maxsize=64)
def _factors(n: int, dtype: torch.dtype) -> ctypes.Array:
    table = ((ctypes.c_float if dtype == torch.float32 else ctypes.c_double) * (4 * n))()
    arguments = Arguments(n=n, factors=ctypes.addressof(table))
    native.run("fft_factors", dtype, arguments, 1)
    return table


def _width(rows: int, dtype: torch.dtype) -> int:
    """Rows filled up to whole vectors of any instruction set."""
    lanes = _LINE // dtype.itemsize
    return -(-rows // lanes) * lanes


def _arguments(s: Sizes, dtype: torch.dtype, **tensors: Tensor | None) -> Arguments:
    n = transform_length(s.length)
    known = {key: t.data_ptr() for key, t in tensors.items() if t is not None}
    return Arguments(
        n=n,
        sequences=s.sequences,
        length=s.length,
        rows=s.rows,
        width=_width(s.rows, dtype),
        signals=s.signals,
        channels=s.channels,
        factors=ctypes.addressof(_factors(n, dtype)),
        **known,
    )


def _share(a: Arguments, s: Sizes, dtype: torch.dtype) -> int:
    """Cut sequences, and where these are too few the rows, into parts for all threads."""
    threads = torch.get_num_threads()
    groups = -(-s.rows * dtype.itemsize // _LINE)
    a.sequence_parts = min(threads, -(-s.sequences // _TOGETHER))
    a.group_parts = min(groups, -(-threads // a.sequence_parts))
    return a.sequence_parts * a.group_parts


def spectra(s: Sizes, u: Tensor, K: Tensor) -> Spectra:
    """Transform the input (batch, time, channels) and kernels (signals, time, rows)."""
    n, width = transform_length(s.length), _width(s.rows, u.dtype)
    u, K = u.contiguous(), K.contiguous()
    U = u.new_empty(s.sequences, n, s.signals, 2)
    KF = u.new_empty(n, s.signals, 2, width)
    a = _arguments(s, u.dtype, u=u, K=K, U=U, KF=KF)
    lanes = _LINE // u.dtype.itemsize
    tasks = s.signals * width // lanes + -(-s.sequences * s.signals // lanes)
    native.run("fft_spectra", u.dtype, a, min(tasks, 4 * torch.get_num_threads()))
    return Spectra(U, KF)


def _with_bias(W_x: Tensor, bias: Tensor, width: int) -> Tensor:
    """``[W_x, bias]`` transposed (input + 1, width)."""
    W = W_x.new_zeros(W_x.shape[1] + 1, width)
    W[:-1, : len(bias)] = W_x.mT
    W[-1, : len(bias)] = bias
    return W


def forward(
    s: Sizes, of: Spectra, y: Tensor, x: Tensor, W_x: Tensor, bias: Tensor, activation: str
) -> None:
    """Write ``f(u * K + x W_x^T + bias)`` to ``y``."""
    x, W = x.contiguous(), _with_bias(W_x, bias, _width(s.rows, y.dtype))
    a = _arguments(s, y.dtype, U=of.U, KF=of.KF, x=x, W=W, y=y)
    a.inputs, a.kind = x.shape[2], native.ACTIVATION_NUMBERS[activation]
    native.run("fft_forward", y.dtype, a, _share(a, s, y.dtype))


class Gradients(NamedTuple):
    """Gradients of a convolution's arguments; None where they are not needed."""

    u: Tensor | None
    K: Tensor | None
    x: Tensor | None
    W_x: Tensor | None
    bias: Tensor | None


def backward(
    s: Sizes, of: Spectra, dy: Tensor, y: Tensor, x: Tensor, W_x: Tensor, activation: str,
    needed: tuple[bool, ...],
) -> Gradients:  # fmt: skip
    """Gradients from those of ``y``: of u, K, x, W_x and bias, in this order, where needed."""
    x, dy = x.contiguous(), dy.contiguous()
    (batch, _, k), n, width = x.shape, transform_length(s.length), _width(s.rows, y.dtype)
    W = _with_bias(W_x, W_x.new_zeros(s.rows), width)
    a = _arguments(s, y.dtype, U=of.U, KF=of.KF, x=x, W=W, y=y, dy=dy)
    a.inputs, a.kind = k, native.ACTIVATION_NUMBERS[activation]
    parts = _share(a, s, y.dtype)
    rows, cols = a.sequence_parts, a.group_parts
    sums = {
        "dU": y.new_empty(cols, *of.U.shape) if needed[0] else None,
        "dKF": y.new_empty(rows, *of.KF.shape) if needed[1] else None,
        "dx": y.new_zeros(cols, *x.shape) if needed[2] else None,
        "dW": y.new_zeros(rows, k + 1, width) if any(needed[2:]) else None,
    }
    for key, t in sums.items():
        if t is not None:
            setattr(a, key, t.data_ptr())
    native.run("fft_backward", y.dtype, a, parts)
    du = y.new_empty(batch, s.length, s.channels) if needed[0] else None
    dK = y.new_empty(s.signals, s.length, s.rows) if needed[1] else None
    a.du = None if du is None else du.data_ptr()
    a.dK = None if dK is None else dK.data_ptr()
    native.run("fft_gradients", y.dtype, a, 4 * torch.get_num_threads())
    dx, dW = sums["dx"], sums["dW"]
    dW = None if dW is None else dW.sum(0)
    return Gradients(
        du,
        dK,
        None if dx is None else dx.sum(0) if cols > 1 else dx[0],
        None if dW is None else dW[:-1, : s.rows].mT,
        None if dW is None else dW[-1, : s.rows],
    )
