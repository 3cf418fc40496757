r"""The sequential part of a block of the nonlinear LMU: all its steps in one launch.

In :mod:`lmu.ops.lmu.blocks` a step is a product of a block state and a tanh, two launches that take
longer to start than to run. Rows of the batch are independent in these steps, so a program takes a
tile of rows through all of them without waiting for another.
"""

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

FLOAT64_SINCE = (3, 5)  # before, tl.dot takes no float64
TILE_B, TILE_N, TILE_K = 16, 64, 32  # rows of the batch, columns of M, rows of M; powers of two
# Fused, a product is summed with one rounding and one instruction; triton's default will change.
OPTIONS = {"TILE_B": TILE_B, "TILE_N": TILE_N, "TILE_K": TILE_K, "enable_fp_fusion": True}


def advance(states: Tensor, before: Tensor, M: Tensor, hidden: int) -> None:
    r"""Advance the states of a block in place, from bases to hidden states and past inputs.

        z_0 = f(base_0 + before M[:hidden]),  z_s = f(base_s + z_{s-1} M)

    where f is tanh in the first ``hidden`` columns and the identity in the others.

    Cost: 2 b L width^2 FLOPs in one launch with L steps, and no memory; each of the b / 16 programs
    reads M once a step. Products are sums of float32 products, never of TensorFloat-32.

    Args:
        states: Bases, then states (batch, steps, width), contiguous, float32 or float64; the width
            is a multiple of 16.
        before: Hidden state before the block (batch, hidden), with contiguous rows; no part of
            ``states``.
        M: From a state to the next (width, width), contiguous.
        hidden: Columns that hold hidden units.

    Raises:
        TypeError: Dtypes differ, are neither of these two, or this triton cannot multiply them.
        ValueError: Shapes, strides or devices do not fit.
    """
    batch, steps, width = _check_states(states, hidden)
    _check(before, "before", (batch, hidden), states, rows_only=True)
    _check(M, "M", (width, width), states)
    with torch.cuda.device_of(states):  # triton launches on the current device
        _advance[(triton.cdiv(batch, TILE_B),)](  # pyright: ignore[reportIndexIssue]
            states, before, M, batch, steps, width, hidden, before.stride(0),
            **OPTIONS,
        )  # fmt: skip


def retreat(states: Tensor, slopes: Tensor, MT: Tensor) -> None:
    r"""Backward of :func:`advance` in place, from gradients of outputs to those of bases.

        g_{L-1} = g_{L-1} * slope_{L-1},  g_s = (g_s + g_{s+1} M^T) * slope_s

    where the slope is that of the tanh in the first ``hidden`` columns and 1 in the others.

    Cost: as :func:`advance`.

    Args:
        states: Gradients g of all states (batch, steps, width), contiguous, float32 or float64; the
            width is a multiple of 16.
        slopes: 1 - h^2 (batch, steps, hidden), contiguous.
        MT: M transposed (width, width), contiguous.

    Raises:
        TypeError: Dtypes differ, are neither of these two, or this triton cannot multiply them.
        ValueError: Shapes, strides or devices do not fit.
    """
    hidden = slopes.shape[-1] if slopes.ndim == 3 else 1  # refused below for its shape
    batch, steps, width = _check_states(states, hidden)
    _check(slopes, "slopes", (batch, steps, hidden), states)
    _check(MT, "MT", (width, width), states)
    with torch.cuda.device_of(states):
        _retreat[(triton.cdiv(batch, TILE_B),)](  # pyright: ignore[reportIndexIssue]
            states, slopes, MT, batch, steps, width, hidden,
            **OPTIONS,
        )  # fmt: skip


def _check_states(states: Tensor, hidden: int) -> tuple[int, int, int]:
    """Return the shape of states that the kernels can take; refuse others."""
    if states.ndim != 3 or states.shape[1] < 1 or states.shape[2] < 16 or states.shape[2] % 16:
        raise ValueError(
            "states must be (batch, steps, width) with at least one step and a width that is a "
            f"multiple of 16, got {tuple(states.shape)}; pad the states with zero columns"
        )
    batch, steps, width = states.shape
    if not 1 <= hidden <= width:
        raise ValueError(
            f"hidden must be 1 to {width}, the width of the states, got {hidden}; "
            "a state holds all hidden units"
        )
    if states.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"states must be float32 or float64, got {states.dtype}; convert all arguments, "
            "or run the steps in PyTorch"
        )
    check_product(states.dtype)
    if states.device.type != "cuda" and _compiled():
        raise ValueError(
            f"the kernels need CUDA tensors, got states on {states.device}; move all arguments to "
            "a GPU, or set TRITON_INTERPRET=1 before the import to test them without one"
        )
    _check(states, "states", (batch, steps, width), states)
    return batch, steps, width


def _check(
    t: Tensor, name: str, shape: tuple[int, ...], states: Tensor, rows_only: bool = False
) -> None:
    """Refuse an argument that does not fit the states."""
    if t.shape != shape:
        raise ValueError(
            f"{name} must be {shape} for states of shape {tuple(states.shape)}, "
            f"got {tuple(t.shape)}; build both from the same operators"
        )
    if t.dtype != states.dtype:
        raise TypeError(
            f"{name} must be {states.dtype} as states are, got {t.dtype}; convert one of them"
        )
    if t.device != states.device:
        raise ValueError(
            f"{name} must be on {states.device} as states are, got {t.device}; move one of them"
        )
    if not (t.shape[1] == 1 or t.stride(1) == 1 if rows_only else t.is_contiguous()):
        raise ValueError(
            f"{name} must {'have contiguous rows' if rows_only else 'be contiguous'}, "
            f"got strides {t.stride()}; pass {name}.contiguous() and keep the result"
        )


def check_product(dtype: torch.dtype) -> None:
    """Refuse a dtype that this triton cannot multiply."""
    if dtype == torch.float64 and _triton_version() < FLOAT64_SINCE:
        raise TypeError(
            f"triton {triton.__version__} cannot multiply float64; upgrade to triton "
            f"{'.'.join(map(str, FLOAT64_SINCE))} or later, use float32, or choose another method"
        )


def _triton_version() -> tuple[int, ...]:
    return tuple(int(number) for number in triton.__version__.split(".")[:2])


def _compiled() -> bool:
    """True if kernels are compiled, False if TRITON_INTERPRET=1 was set at the import."""
    return isinstance(_advance, triton.runtime.JITFunction)


# Kernels call no function of triton.language that is itself a kernel (cdiv, zeros, sum), so that
# they can be interpreted even if triton was imported before TRITON_INTERPRET was set.


@triton.jit
def _advance(
    states, before, M, batch, steps, width, hidden, before_stride,
    TILE_B: tl.constexpr, TILE_N: tl.constexpr, TILE_K: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * TILE_B + tl.arange(0, TILE_B)
    row_mask = (rows < batch)[:, None]
    rows = rows.to(tl.int64)[:, None]  # offsets of a large batch pass 2^31
    state = states + rows * (steps * width)
    before = before + rows * before_stride
    for start in range(0, width, TILE_N):
        cols = start + tl.arange(0, TILE_N)[None, :]
        _advance_tile(state, before, hidden, M, row_mask, cols, width, hidden, TILE_K)
    for s in range(1, steps):
        # A step's columns are stored by other threads than those that load them in the next step.
        tl.debug_barrier()
        following = state + s * width
        for start in range(0, width, TILE_N):
            cols = start + tl.arange(0, TILE_N)[None, :]
            _advance_tile(
                following, following - width, width, M, row_mask, cols, width, hidden, TILE_K
            )


@triton.jit
def _advance_tile(state, last, size, M, row_mask, cols, width, hidden, TILE_K: tl.constexpr):
    mask = row_mask & (cols < width)
    total = tl.load(state + cols, mask=mask, other=0.0)
    total = _add_product(total, last, size, M, row_mask, cols, width, TILE_K)
    tl.store(state + cols, tl.where(cols < hidden, _tanh(total), total), mask=mask)


@triton.jit
def _retreat(
    states, slopes, MT, batch, steps, width, hidden,
    TILE_B: tl.constexpr, TILE_N: tl.constexpr, TILE_K: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * TILE_B + tl.arange(0, TILE_B)
    row_mask = (rows < batch)[:, None]
    rows = rows.to(tl.int64)[:, None]
    state = states + rows * (steps * width) + (steps - 1) * width
    slope = slopes + rows * (steps * hidden) + (steps - 1) * hidden
    for start in range(0, hidden, TILE_N):
        cols = start + tl.arange(0, TILE_N)[None, :]
        mask = row_mask & (cols < hidden)
        g = tl.load(state + cols, mask=mask, other=0.0)
        tl.store(state + cols, g * tl.load(slope + cols, mask=mask, other=0.0), mask=mask)
    for s in range(1, steps):
        tl.debug_barrier()  # as above
        earlier = state - s * width
        for start in range(0, width, TILE_N):
            cols = start + tl.arange(0, TILE_N)[None, :]
            mask = row_mask & (cols < width)
            g = tl.load(earlier + cols, mask=mask, other=0.0)
            g = _add_product(g, earlier + width, width, MT, row_mask, cols, width, TILE_K)
            hidden_mask = row_mask & (cols < hidden)
            g *= tl.load(slope - s * hidden + cols, mask=hidden_mask, other=1.0)
            tl.store(earlier + cols, g, mask=mask)


@triton.jit
def _add_product(total, left, size, M, row_mask, cols, width, TILE_K: tl.constexpr):
    """``total + left[:, :size] @ M[:size, cols]``; ``left`` points to rows."""
    for start in range(0, size, TILE_K):
        across = start + tl.arange(0, TILE_K)[None, :]
        down = start + tl.arange(0, TILE_K)[:, None]
        a = tl.load(left + across, mask=row_mask & (across < size), other=0.0)
        b = tl.load(M + down * width + cols, mask=(down < size) & (cols < width), other=0.0)
        # Not TensorFloat-32, which is the default: float32 results are good to float32.
        total = tl.dot(a, b, total, input_precision="ieee", out_dtype=total.dtype)
    return total


@triton.jit
def _tanh(x):
    """Tanh to a few units in the last place; libdevice's cannot be interpreted."""
    size = tl.abs(x)
    # Lambert's continued fraction to 17, where the quotient of exponentials loses digits; its error
    # is far below float64's rounding there.
    z = tl.minimum(size * size, 1.0)
    above = 34459425.0 + z * (4729725.0 + z * (135135.0 + z * (990.0 + z)))
    below = 34459425.0 + z * (16216200.0 + z * (945945.0 + z * (13860.0 + z * 45.0)))
    e = tl.exp(-2.0 * size)
    large = (1.0 - e) / (1.0 + e)
    return tl.where(size < 0.625, x * (above / below), tl.where(x < 0, -large, large))
