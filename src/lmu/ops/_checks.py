"""Argument checks of linear memories and their read-outs."""

import torch
from torch import Tensor

from lmu.ops._modes import compute_dtype, widen


def check_memory(u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None, H: Tensor | None) -> None:
    """Refuse arguments of a memory; see :func:`lmu.ops.memory`."""
    if not isinstance(u, Tensor):
        raise TypeError(f"u must be a torch.Tensor, got {type(u).__name__}")
    if u.ndim != 3 or u.shape[1] == 0 or u.shape[2] == 0:
        raise ValueError(
            f"u must have the shape (batch, time >= 1, channels), got {tuple(u.shape)}"
        )
    batch, length, number = u.shape
    order = Bd.shape[-1] if Bd.ndim else 0
    if order < 1 or Ad.shape != (*Bd.shape, order) or Bd.shape[:-1] not in {(), (number,)}:
        raise ValueError(
            "Ad must have the shape (order, order) and Bd (order,), or with dynamics for each of "
            f"the {number} channels a first axis more, got {tuple(Ad.shape)} and {tuple(Bd.shape)}"
        )
    if m_0 is not None and m_0.shape != (batch, number, order):
        raise ValueError(
            f"m_0 must have the shape (batch, channels, order) = {(batch, number, order)}, "
            f"got {tuple(m_0.shape)}"
        )
    if H is not None and (H.shape[:-1] != Bd.shape or H.shape[-1] < length):
        raise ValueError(
            f"H must have the shape ({', '.join(map(str, Bd.shape))}, at least {length}), "
            f"got {tuple(H.shape)}"
        )
    if H is not None and (Ad.requires_grad or Bd.requires_grad):
        raise ValueError("H is a constant: leave it out where Ad or Bd needs a gradient")
    _check_types(u, Ad, Bd, m_0, H)


def _check_types(u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None, H: Tensor | None) -> None:
    needed = compute_dtype(u.dtype)
    if not u.is_floating_point() or Ad.dtype != Bd.dtype:
        raise TypeError(
            "u must be floating and Ad and Bd of one dtype, "
            f"got u {u.dtype}, Ad {Ad.dtype}, Bd {Bd.dtype}"
        )
    if torch.promote_types(Ad.dtype, needed) != Ad.dtype:
        raise TypeError(f"Ad and Bd must be at least {needed} for u of {u.dtype}, got {Ad.dtype}")
    if H is not None and H.dtype != needed:
        raise TypeError(f"H must be {needed} for u of {u.dtype}, got {H.dtype}")
    if m_0 is not None and m_0.dtype not in {needed, widen(m_0[:0]).dtype}:
        raise TypeError(f"m_0 must be {needed} or float64 for u of {u.dtype}, got {m_0.dtype}")
    for name, tensor in (("Ad", Ad), ("Bd", Bd), ("m_0", m_0), ("H", H)):
        if tensor is not None and tensor.device != u.device:
            raise ValueError(f"u is on {u.device} but {name} on {tensor.device}: move one of them")


def check_readout(u: Tensor, x: Tensor, Bd: Tensor, W_m: Tensor, W_x: Tensor, bias: Tensor) -> None:
    """Refuse arguments of a read-out; those of its memory are :func:`check_memory`'s."""
    rows = W_m.shape[0] if W_m.ndim else -1
    expected = {
        "x": (x, (*u.shape[:2], x.shape[-1] if x.ndim else -1)),
        "W_m": (W_m, (rows, u.shape[2] * Bd.shape[-1])),
        "W_x": (W_x, (rows, x.shape[-1] if x.ndim else -1)),
        "bias": (bias, (rows,)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor.shape != shape:
            raise ValueError(f"{name} must have the shape {shape}, got {tuple(tensor.shape)}")
        if tensor.device != u.device:
            raise ValueError(f"u is on {u.device} but {name} on {tensor.device}: move one of them")
        if torch.promote_types(tensor.dtype, compute_dtype(u.dtype)) != compute_dtype(u.dtype):
            raise TypeError(f"{name} is {tensor.dtype}, wider than u of {u.dtype}: convert one")
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating, got {tensor.dtype}")
