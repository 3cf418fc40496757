"""Kernel of one step of a layer, from its weights as they are and from a state to a new one."""

import ctypes

import torch
from torch import Tensor

from lmu.ops import native
from lmu.ops.native.steps import Reader, StepWeights, parts_of


class _Matrix(ctypes.Structure):
    _fields_ = (("p", ctypes.c_void_p), ("row", ctypes.c_int64))


class _Arguments(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "h", "m", "h_n", "m_n")),
        *((name, _Matrix) for name in ("e_x", "e_h", "e_m", "W_x", "W_h", "W_m")),
        *((name, ctypes.c_void_p) for name in ("b_u", "b_h", "E", "Bd")),
        *((name, ctypes.c_int64) for name in ("batch", "inputs", "hidden", "channels", "order")),
        *((name, ctypes.c_int64) for name in ("encoded", "wide", "own")),
        *((name, ctypes.c_int64) for name in ("encoder_activation", "activation")),
    )


_NOTHING = Reader(None, None, None, None)


def step(
    x: Tensor, h: Tensor | None, m: Tensor, weights: StepWeights, hidden: int = 0
) -> tuple[Tensor, Tensor]:
    """Advance one step, without gradients: the new hidden units and memory.

    Shapes: ``x`` (batch, inputs), ``h`` (batch, hidden), None where no weights read it; ``m``
    (batch, channels, order), which may be float64. Everything else has the dtype of ``x``.
    """
    w, (batch, channels, order) = weights, m.shape
    encoder, read_out = w.encoder or _NOTHING, w.read_out or _NOTHING
    x, m = x.contiguous(), m.contiguous()
    h = None if h is None else h.contiguous()
    E, Bd = w.E.contiguous(), w.Bd.contiguous()
    h_n, m_n = x.new_empty(batch, hidden), torch.empty_like(m)
    # Copies must live until the kernel has read them.
    readers = [_dense(r) for r in (encoder, read_out)]
    matrices = [_matrix(weight) for reader in readers for weight in reader[:3]]
    biases = [_address(reader.bias) for reader in readers]
    arguments = _Arguments(
        *(_address(t) for t in (x, h, m, h_n, m_n)), *matrices, *biases, *map(_address, (E, Bd)),
        batch, x.shape[1], hidden, channels, order,
        w.encoder is not None, m.dtype != x.dtype, E.ndim == 3 and len(E) > 1,
        native.ACTIVATION_NUMBERS[w.encoder_activation], native.ACTIVATION_NUMBERS[w.activation],
    )  # fmt: skip
    products = channels * order * (order + hidden) + hidden * hidden
    native.run("cell", x.dtype, arguments, parts_of(batch, 2 * products))
    return h_n, m_n


def _dense(reader: Reader) -> Reader:
    """Weights whose rows are dense."""
    return Reader(*(t if t is None or t.stride(-1) == 1 else t.contiguous() for t in reader))


def _matrix(weight: Tensor | None) -> _Matrix:
    return _Matrix() if weight is None else _Matrix(weight.data_ptr(), weight.stride(0))


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
