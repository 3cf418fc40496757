"""Kernels of :mod:`lmu.ops.lmu.blocks`."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from lmu.ops import native
from lmu.ops.lmu.block_matrices import BlockMatrices
from lmu.ops.lmu.blocks_forward import ForwardResult, Saved

_SIZES = (
    *("batch", "steps", "inputs", "hidden", "channels", "states", "activation", "length"),
    "width",
)


class _Sizes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in _SIZES)


def _structure(*names: str) -> tuple[tuple[str, type], ...]:
    return (("sizes", _Sizes), *((name, ctypes.c_void_p) for name in names))


class _Forward(ctypes.Structure):
    _fields_ = _structure(*("x", "h", "X", "M", "R", "E", "H", "y", "history", "memories", "total"))


class _Backward(ctypes.Structure):
    _fields_ = _structure(
        *("x", "h", "y", "history", "memories", "X", "M", "R", "E", "H", "dy", "dx", "dh", "dm"),
        *("dX", "dM", "dR", "dH", "dE"),
    )


def forward(x: Tensor, h: Tensor, m: Tensor, o: BlockMatrices, activation: str) -> ForwardResult:
    """:func:`lmu.ops.lmu.blocks_forward.forward`, in the compiled core."""
    x, h = x.contiguous(), h.contiguous()
    (batch, length, _), steps = x.shape, len(o.D) - 1
    blocks = -(-length // steps)
    y = x.new_empty(batch, length, h.shape[1])
    # One block more than there are: a compiler would specialize on a single one.
    history = x.new_zeros(blocks + 1, batch, len(o.H))
    memories = x.new_empty(blocks + 1, batch, m.shape[1])
    memories[blocks] = 0
    total = m.to(torch.float64, copy=True, memory_format=torch.contiguous_format)
    W = o.W.expand(steps, -1, -1)
    R = torch.baddbmm(W, W, o.D[:-1])
    tensors = [
        *(x, h, o.X.contiguous(), o.M.contiguous(), R.mT.contiguous()),
        *(_whole(_increments(o, length).mT), _whole(o.H), y, history, memories, total),
    ]
    arguments = _Forward(_sizes(x, h, o, activation), *(t.data_ptr() for t in tensors))
    native.run("lmu_blocks_forward", x.dtype, arguments, _parts(batch))
    return ForwardResult(Saved(y, history, memories, R), total.to(m.dtype))


def backward(
    x: Tensor, h: Tensor, saved: Saved, o: BlockMatrices, dy: Tensor, dm: Tensor,
    needed: Sequence[bool], activation: str,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """:func:`lmu.ops.lmu.blocks_backward.backward`, in the compiled core."""
    x, h, dy = x.contiguous(), h.contiguous(), dy.contiguous()
    dx, dh = torch.empty_like(x), torch.empty_like(h)
    total = dm.to(torch.float64, copy=True, memory_format=torch.contiguous_format)
    parts, learned = _parts(len(x)), needed[6] or needed[7]
    R, E, H = _whole(saved.R), _whole(_increments(o, x.shape[1])), _whole(o.H.mT)
    row = R.shape[2]
    sums = [x.new_zeros(parts, *shape) for shape in (o.X.shape, o.M.shape, R.shape)]
    if learned:
        sums += [x.new_zeros(parts, *shape) for shape in ((len(o.H), row), E.shape)]
    tensors = [
        *(x, h, saved.y, saved.history, saved.memories),
        *(_whole(o.X.mT), o.M.mT.contiguous(), R, E, H, dy, dx, dh, total, *sums),
    ]
    arguments = _Backward(_sizes(x, h, o, activation), *(t.data_ptr() for t in tensors))
    native.run("lmu_blocks_backward", x.dtype, arguments, parts)
    dX, dM, dR, *system = (s[0] if parts == 1 else s.sum(0) for s in sums)
    order = o.W.shape[1]
    grads = _finish(o, dX, dM, dR[..., :order], [t[..., :order] for t in system], x.shape[1])
    return dx if needed[0] else None, dh, total.to(dm.dtype), *grads


def _finish(
    o: BlockMatrices, dX: Tensor, dM: Tensor, dR: Tensor, system: Sequence[Tensor], length: int
) -> tuple[Tensor | None, ...]:
    """Gradients of the matrices, of the dynamics only if they are learned.

    That of ``R_s = W + W D_s`` is added to those of W and D.
    """
    size = min(len(dR), length)
    dW = dR.sum(0)
    for dR_s, D_s in zip(dR[:size], o.D[:size], strict=True):
        dW.addmm_(dR_s, D_s.mT)
    if not system:
        return dX, dM, dW, None, None
    dH, dE = system
    dD = torch.zeros_like(o.D)
    dD[:-1] = o.W.mT @ dR
    dD[-1] += dE[0]
    dD[length % (len(o.D) - 1)] += dE[1]
    return dX, dM, dW, dD, dH


def _increments(o: BlockMatrices, length: int) -> Tensor:
    """Increments of the memory over a block, and over the last one where that is shorter."""
    return torch.stack([o.D[-1], o.D[length % (len(o.D) - 1)]])


def _whole(t: Tensor) -> Tensor:
    """Rows rounded up to 16 numbers, which fill vectors of any instructions."""
    return pad(t, (0, -t.shape[-1] % 16)).contiguous()


def _sizes(x: Tensor, h: Tensor, o: BlockMatrices, activation: str) -> _Sizes:
    number, steps = native.ACTIVATION_NUMBERS[activation], len(o.D) - 1
    states, channels = o.W.shape[1], len(o.H) // steps
    return _Sizes(*x.shape, h.shape[1], channels, states, number, steps, len(o.M))


def _parts(batch: int) -> int:
    return max(1, min(batch, torch.get_num_threads()))
