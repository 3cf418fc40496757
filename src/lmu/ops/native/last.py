"""Kernels of the last output alone; see c/last.c."""

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from lmu.ops import native
from lmu.ops.native.states_plan import ENCODER, apart, structure, whole_lines
from lmu.ops.system import System

LONGEST = 8192  # products of a sum in float32; see lmu.ops.memory.final


class _Last(ctypes.Structure):
    _fields_ = structure(
        "batch length channels order inputs features rows activation "
        "H_channel H_T_channel H_T_row finished",
        "H H_T W bias x u m y dy dm dx dW dbias sums",
        *ENCODER,
    )


class Responses(NamedTuple):
    """The impulse response backward in time, in whole vectors, and its transpose."""

    H: Tensor  # (channels or 1, steps, order)
    H_T: Tensor  # (channels or 1, order, steps)


def responses_of(system: System, length: int, dtype: torch.dtype, likely: int | None) -> Responses:
    """Return responses to at least ``length`` steps, kept with the system."""
    H = system.kept_response(length, dtype, likely)
    assert H is not None
    steps, line = H.shape[-1], 64 // dtype.itemsize

    def make() -> Responses:
        backward = (H if H.ndim == 3 else H[None]).flip(2)
        by_time = pad(backward.mT, (0, -H.shape[-2] % line))
        # Rows begin late for shorter sequences, and whole vectors of them then end late.
        return Responses(by_time.contiguous(), pad(backward, (0, line + -steps % line)))

    return system.derived(("native last", steps, dtype), make)


class Sizes(NamedTuple):
    """What a call is made of, beside its tensors."""

    system: System
    likely: int | None  # a length that is likely to come again
    encoder_activation: str
    activation: str


def can_run(length: int, system: System, batch: int) -> bool:
    """True where the impulse response is kept, and sums are short enough for float32."""
    return batch > 0 and length <= LONGEST and system.constant


def forward(
    sizes: Sizes, x: Tensor, W_u: Tensor, b_u: Tensor, W_h: Tensor, b_h: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The last output (batch, rows), the last state (batch, channels * order), and the input u.

    Shapes: ``x`` (batch, time, input), ``W_u`` (channels, input), ``W_h`` (rows, channels * order +
    input, or without the latter).
    """
    (batch, length, _), channels = x.shape, W_u.shape[0]
    order = sizes.system.Bd.shape[-1]
    u = x.new_empty((batch, length, channels))
    m, y = x.new_empty((batch, channels * order)), x.new_empty((batch, W_h.shape[0]))
    arguments = _arguments(sizes, x, u, W_u, b_u, W_h, b_h)
    arguments.m, arguments.y = m.data_ptr(), y.data_ptr()
    native.run("last", x.dtype, arguments, min(batch, torch.get_num_threads()))
    return y, m, u


def backward(
    sizes: Sizes, dy: Tensor, dm: Tensor | None, y: Tensor, m: Tensor, u: Tensor,
    inputs: tuple[Tensor, ...], needs_x: bool,
) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of the tensors that :func:`forward` takes."""
    x, W_u, b_u, W_h, b_h = inputs
    parts, line = min(x.shape[0], torch.get_num_threads()), 64 // x.element_size()
    (rows, columns), (channels, features) = W_h.shape, W_u.shape
    dy, dm = dy.contiguous(), None if dm is None else dm.to(x.dtype).contiguous()
    dx = torch.empty_like(x) if needs_x else None
    dW_u, db_u, dW, dbias = (torch.empty_like(t) for t in (W_u, b_u, W_h, b_h))
    each = rows * apart(whole_lines(columns + 1, line) + line, line)
    of_encoder = (features + 1) * whole_lines(channels, line)
    sums, encoder_sums = x.new_empty(parts * each), x.new_empty(parts * of_encoder)
    arguments = _arguments(sizes, x, u, W_u, b_u, W_h, b_h)
    tensors = {
        "m": m, "y": y, "dy": dy, "dm": dm, "dx": dx, "dW": dW, "dbias": dbias, "sums": sums,
        "encoder_dx": dx, "encoder_dW": dW_u, "encoder_dbias": db_u, "encoder_sums": encoder_sums,
    }  # fmt: skip
    for name, tensor in tensors.items():
        if tensor is not None:
            setattr(arguments, name, tensor.data_ptr())
    native.run("last_backward", x.dtype, arguments, parts)
    return dx, dW_u, db_u, dW, dbias


def _arguments(
    sizes: Sizes, x: Tensor, u: Tensor, W_u: Tensor, b_u: Tensor, W_h: Tensor, b_h: Tensor
) -> Any:
    """The arguments of both passes; all tensors are contiguous."""
    (batch, length, inputs), (rows, columns), channels = x.shape, W_h.shape, u.shape[2]
    order = sizes.system.Bd.shape[-1]
    H, H_T = responses_of(sizes.system, length, x.dtype, sizes.likely)
    steps, row, size = H.shape[1], H_T.shape[2], x.element_size()
    own = len(H) > 1
    numbers = native.ACTIVATION_NUMBERS
    arguments = _Last(
        batch, length, channels, order, inputs, columns - channels * order, rows,
        numbers[sizes.activation], own * H[0].numel(), own * H_T[0].numel(), row, 0,
        H.data_ptr() + (steps - length) * H.shape[2] * size,
        H_T.data_ptr() + (steps - length) * size,
        W_h.data_ptr(), b_h.data_ptr(), x.data_ptr(), u.data_ptr(),
    )  # fmt: skip
    arguments.encoder_features, arguments.encoder_channels = inputs, channels
    arguments.encoder_activation = numbers[sizes.encoder_activation]
    arguments.encoder_weight, arguments.encoder_bias = W_u.data_ptr(), b_u.data_ptr()
    arguments.encoder_x, arguments.encoder_u = x.data_ptr(), u.data_ptr()
    return arguments
