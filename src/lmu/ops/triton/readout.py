r"""The chunked read-out in one pass: product, input, bias and relu, forward and backward.

Within a chunk, with ``sources`` the inputs of its steps and the state before it, ``z`` at step t is

    z_t = sum_{s<=t} K_{t-s} source_s + sum_i F_{i,t} source_{L+i} + W_1 [x_t; 1]

As library matrix products this takes an operator that holds K once for each step, and three passes
over z. Here rows of K are taken by index, tiles above the diagonal are skipped, and only
y = relu(z) is written, not z. Backward reads the gradient and y, and masks while reading.

``R`` stacks, for each channel, L - 1 rows of zeros, the L rows of K, and the rows of F, state after
state. All sums are in one order: the same input gives the same bits.
"""

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

TILE_M, TILE_R, TILE_K = 64, 64, 32  # chunks, hidden units, sources; powers of two
PARTS = 32  # groups of chunks whose gradients of weights are summed separately, to fill a GPU
# Two stages of loads ahead, not three: float64 then fits the shared memory of small GPUs too.
OPTIONS: dict[str, Any] = {"TILE_M": TILE_M, "TILE_R": TILE_R, "TILE_K": TILE_K}
OPTIONS |= {"num_stages": 2, "enable_fp_fusion": True}


def forward(sources: Tensor, R: Tensor, x1: Tensor, W1: Tensor, relu: bool) -> Tensor:
    r"""Hidden units of all chunks.

    Cost: 2 M L r (c (L / 2 + d) + k) FLOPs, and no memory but the result's.

    Args:
        sources: Inputs and states (M, channels, L + order), one row for each chunk.
        R: Responses (channels, 2 L - 1 + order L, r).
        x1: Input with a one behind it (M, L, k).
        W1: Weights of the input with the bias behind them (k, r).
        relu: Apply a relu.

    Returns:
        y (M, L, r).
    """
    M, C, size = sources.shape
    L, width = x1.shape[1], W1.shape[1]
    y = x1.new_empty(M, L, width)
    options: dict[str, Any] = OPTIONS | {"RELU": relu}
    grid = (triton.cdiv(M, TILE_M), triton.cdiv(width, TILE_R), L)
    with torch.cuda.device_of(sources):
        _forward[grid](  # pyright: ignore[reportIndexIssue]
            sources, R, x1, W1, y, M, C, size, L, width, x1.shape[2], R.shape[1], **options
        )
    return y


def backward(
    dy: Tensor, y: Tensor, sources: Tensor, R: Tensor, x1: Tensor, W1: Tensor, relu: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of ``sources``, ``R``, ``x1`` and ``W1``; shapes as in :func:`forward`."""
    M, C, size = sources.shape
    L, width, k = x1.shape[1], W1.shape[1], x1.shape[2]
    rows = triton.cdiv(M, TILE_M)
    dsources, dR = torch.empty_like(sources), torch.zeros_like(R)
    dx1, dW1 = torch.empty_like(x1), W1.new_zeros(min(PARTS, rows), k, width)
    options: dict[str, Any] = OPTIONS | {"RELU": relu}
    sizes = (M, C, size, L, width, k, R.shape[1])
    tiles_k, tiles_r = triton.cdiv(size, TILE_K), triton.cdiv(width, TILE_R)
    with torch.cuda.device_of(sources):
        _sources[(rows, tiles_k, C)](  # pyright: ignore[reportIndexIssue]
            dy, y, R, dsources, *sizes, **options
        )
        _states[(triton.cdiv(size - L, TILE_K), tiles_r, L * C)](  # pyright: ignore[reportIndexIssue]
            dy, y, sources, dR, *sizes, **options
        )
        _kernel[(triton.cdiv(L, TILE_K), tiles_r, C)](  # pyright: ignore[reportIndexIssue]
            dy, y, sources, dR, *sizes, **options
        )
        _input[(rows, triton.cdiv(k, TILE_K), L)](  # pyright: ignore[reportIndexIssue]
            dy, y, W1, dx1, *sizes, **options
        )
        _weights[(len(dW1), tiles_r, triton.cdiv(k, TILE_K))](  # pyright: ignore[reportIndexIssue]
            dy, y, x1, dW1, len(dW1), *sizes, **options
        )
    return dsources, dR, dx1, dW1.sum(0)


def compiled() -> bool:
    """True if kernels are compiled, False if TRITON_INTERPRET=1 was set at the import."""
    return isinstance(_forward, triton.runtime.JITFunction)


# As in block_states.py, no kernel calls a function of triton.language that is itself a kernel.


@triton.jit
def _dot(a, b, total):
    # Not TensorFloat-32, which is the default: float32 results are good to float32.
    return tl.dot(a, b, total, input_precision="ieee", out_dtype=total.dtype)


@triton.jit
def _responses(R, c, k, t, cols, mask, L, size, width, height):
    """The rows of ``R`` that belong to the sources ``k`` at step t."""
    row = tl.where(k < L, t - k + L - 1, 2 * L - 1 + (k - L) * L + t)
    row = (c * height + row).to(tl.int64)
    return tl.load(R + row * width + cols, mask=mask & (k < size), other=0.0)


@triton.jit
def _masked(dy, y, at, mask, RELU: tl.constexpr):
    """The gradient of z, at offsets into it."""
    g = tl.load(dy + at, mask=mask, other=0.0)
    if RELU:
        g = tl.where(tl.load(y + at, mask=mask, other=0.0) > 0, g, 0.0)
    return g


@triton.jit
def _forward(
    sources, R, x1, W1, y, M, C, size, L, width, features, height,
    TILE_M: tl.constexpr, TILE_R: tl.constexpr, TILE_K: tl.constexpr, RELU: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)[:, None]
    cols = tl.program_id(1) * TILE_R + tl.arange(0, TILE_R)[None, :]
    t = tl.program_id(2)
    rows = m.to(tl.int64)
    total = tl.full((TILE_M, TILE_R), 0.0, y.dtype.element_ty)
    across, down = tl.arange(0, TILE_K)[None, :], tl.arange(0, TILE_K)[:, None]
    for start in range(0, features, TILE_K):
        k = start + across
        a = tl.load(x1 + (rows * L + t) * features + k, mask=(m < M) & (k < features), other=0.0)
        k = start + down
        b = tl.load(W1 + k * width + cols, mask=(k < features) & (cols < width), other=0.0)
        total = _dot(a, b, total)
    for c in range(C):
        for start in range(0, size, TILE_K):
            # A tile that lies above the diagonal is zero.
            if (start <= t) | (start + TILE_K > L):
                k = start + across
                a = tl.load(
                    sources + (rows * C + c) * size + k, mask=(m < M) & (k < size), other=0.0
                )
                b = _responses(R, c, start + down, t, cols, cols < width, L, size, width, height)
                total = _dot(a, b, total)
    if RELU:
        total = tl.where(total < 0, 0.0, total)
    tl.store(y + (rows * L + t) * width + cols, total, mask=(m < M) & (cols < width))


@triton.jit
def _sources(
    dy, y, R, dsources, M, C, size, L, width, features, height,
    TILE_M: tl.constexpr, TILE_R: tl.constexpr, TILE_K: tl.constexpr, RELU: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)[:, None]
    first, c = tl.program_id(1) * TILE_K, tl.program_id(2)
    k = first + tl.arange(0, TILE_K)[None, :]
    rows = m.to(tl.int64)
    total = tl.full((TILE_M, TILE_K), 0.0, dsources.dtype.element_ty)
    for t in range(L):
        if (first <= t) | (first + TILE_K > L):
            for start in range(0, width, TILE_R):
                r = start + tl.arange(0, TILE_R)[None, :]
                g = _masked(dy, y, (rows * L + t) * width + r, (m < M) & (r < width), RELU)
                r = start + tl.arange(0, TILE_R)[:, None]
                b = _responses(R, c, k, t, r, r < width, L, size, width, height)
                total = _dot(g, b, total)
    tl.store(dsources + (rows * C + c) * size + k, total, mask=(m < M) & (k < size))


@triton.jit
def _states(
    dy, y, sources, dR, M, C, size, L, width, features, height,
    TILE_M: tl.constexpr, TILE_R: tl.constexpr, TILE_K: tl.constexpr, RELU: tl.constexpr,
):  # fmt: skip
    """Gradients of F: of a tile of states at one step."""
    i = tl.program_id(0) * TILE_K + tl.arange(0, TILE_K)[:, None]
    cols = tl.program_id(1) * TILE_R + tl.arange(0, TILE_R)[None, :]
    t, c = tl.program_id(2) % L, tl.program_id(2) // L
    total = tl.full((TILE_K, TILE_R), 0.0, dR.dtype.element_ty)
    for start in range(0, M, TILE_M):
        m = (start + tl.arange(0, TILE_M)[None, :]).to(tl.int64)
        a = tl.load(sources + (m * C + c) * size + L + i, mask=(m < M) & (L + i < size), other=0.0)
        m = (start + tl.arange(0, TILE_M)[:, None]).to(tl.int64)
        g = _masked(dy, y, (m * L + t) * width + cols, (m < M) & (cols < width), RELU)
        total = _dot(a, g, total)
    row = (c * height + 2 * L - 1 + i * L + t).to(tl.int64)
    tl.store(dR + row * width + cols, total, mask=(L + i < size) & (cols < width))


@triton.jit
def _kernel(
    dy, y, sources, dR, M, C, size, L, width, features, height,
    TILE_M: tl.constexpr, TILE_R: tl.constexpr, TILE_K: tl.constexpr, RELU: tl.constexpr,
):  # fmt: skip
    """Gradients of K: of a tile of delays, from all steps that late or later."""
    first, c = tl.program_id(0) * TILE_K, tl.program_id(2)
    delay = first + tl.arange(0, TILE_K)[:, None]
    cols = tl.program_id(1) * TILE_R + tl.arange(0, TILE_R)[None, :]
    total = tl.full((TILE_K, TILE_R), 0.0, dR.dtype.element_ty)
    for t in range(first, L):
        for start in range(0, M, TILE_M):
            m = (start + tl.arange(0, TILE_M)[None, :]).to(tl.int64)
            a = tl.load(
                sources + (m * C + c) * size + t - delay, mask=(m < M) & (delay <= t), other=0.0
            )
            m = (start + tl.arange(0, TILE_M)[:, None]).to(tl.int64)
            g = _masked(dy, y, (m * L + t) * width + cols, (m < M) & (cols < width), RELU)
            total = _dot(a, g, total)
    row = (c * height + L - 1 + delay).to(tl.int64)
    tl.store(dR + row * width + cols, total, mask=(delay < L) & (cols < width))


@triton.jit
def _input(
    dy, y, W1, dx1, M, C, size, L, width, features, height,
    TILE_M: tl.constexpr, TILE_R: tl.constexpr, TILE_K: tl.constexpr, RELU: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)[:, None]
    k = tl.program_id(1) * TILE_K + tl.arange(0, TILE_K)[None, :]
    t = tl.program_id(2)
    rows = m.to(tl.int64)
    total = tl.full((TILE_M, TILE_K), 0.0, dx1.dtype.element_ty)
    for start in range(0, width, TILE_R):
        r = start + tl.arange(0, TILE_R)[None, :]
        g = _masked(dy, y, (rows * L + t) * width + r, (m < M) & (r < width), RELU)
        r = start + tl.arange(0, TILE_R)[:, None]
        b = tl.load(W1 + k * width + r, mask=(k < features) & (r < width), other=0.0)
        total = _dot(g, b, total)
    tl.store(dx1 + (rows * L + t) * features + k, total, mask=(m < M) & (k < features))


@triton.jit
def _weights(
    dy, y, x1, dW1, parts, M, C, size, L, width, features, height,
    TILE_M: tl.constexpr, TILE_R: tl.constexpr, TILE_K: tl.constexpr, RELU: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0)
    cols = tl.program_id(1) * TILE_R + tl.arange(0, TILE_R)[None, :]
    k = tl.program_id(2) * TILE_K + tl.arange(0, TILE_K)[:, None]
    total = tl.full((TILE_K, TILE_R), 0.0, dW1.dtype.element_ty)
    for start in range(part * TILE_M, M, parts * TILE_M):
        for t in range(L):
            m = (start + tl.arange(0, TILE_M)[None, :]).to(tl.int64)
            a = tl.load(x1 + (m * L + t) * features + k, mask=(m < M) & (k < features), other=0.0)
            m = (start + tl.arange(0, TILE_M)[:, None]).to(tl.int64)
            g = _masked(dy, y, (m * L + t) * width + cols, (m < M) & (cols < width), RELU)
            total = _dot(a, g, total)
    at = (part * features + k) * width + cols
    tl.store(dW1 + at, total, mask=(k < features) & (cols < width))
