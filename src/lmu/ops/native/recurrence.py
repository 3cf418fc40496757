"""Kernels of :mod:`lmu.ops.recurrence`."""

import ctypes

import torch
from torch import Tensor

from lmu.ops import native

ROWS = 64  # of the batch that a part has at most, so that their states stay in the cache


class _Forward(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("a", "h", "W", "y")),
        *((name, ctypes.c_int64) for name in ("batch", "steps", "size", "activation")),
    )


class _Backward(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("dy", "y", "h", "W", "da", "dh", "dW")),
        *((name, ctypes.c_int64) for name in ("batch", "steps", "size", "activation")),
    )


def forward(a: Tensor, h: Tensor, W: Tensor, activation: str) -> Tensor:
    """``y_t = f(a_t + W y_{t-1})`` from ``y_{-1} = h``, all of one dtype.

    Shapes: ``a`` (batch, time, size), ``h`` (batch, size), ``W`` (size, size).
    """
    a, h, W = a.contiguous(), h.contiguous(), W.contiguous()
    y = torch.empty_like(a)
    _run("recurrence", _Forward, (a, h, W, y), activation, _parts(len(a)))
    return y


def backward(
    dy: Tensor, y: Tensor, h: Tensor, W: Tensor, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``a``, ``h`` and ``W`` from that of ``y``."""
    dy, y, h, W = dy.contiguous(), y.contiguous(), h.contiguous(), W.contiguous()
    parts = _parts(len(y))
    da, dh, dW = torch.empty_like(y), torch.empty_like(h), W.new_empty(parts, *W.shape)
    _run("recurrence_backward", _Backward, (dy, y, h, W, da, dh, dW), activation, parts)
    return da, dh, dW[0] if parts == 1 else dW.sum(0)


def _parts(batch: int) -> int:
    threads = torch.get_num_threads()
    return max(1, min(batch, -(-batch // (threads * ROWS)) * threads))


def _run(
    name: str,
    kind: type[ctypes.Structure],
    tensors: tuple[Tensor, ...],
    activation: str,
    parts: int,
) -> None:
    batch, steps, size = tensors[0].shape
    number = native.ACTIVATION_NUMBERS[activation]
    arguments = kind(*(t.data_ptr() for t in tensors), batch, steps, size, number)
    native.run(name, tensors[0].dtype, arguments, parts)
