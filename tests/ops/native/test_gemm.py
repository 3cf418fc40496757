"""Products of matrices in C, of every shape of a tile, against float64."""

import pytest
import torch
from torch import Tensor

from lmu.ops import native
from tests import cores
from tests.ops.native.arguments import structure

ROWS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 17)
VECTORS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 14, 25)
INNER = (0, 1, 2, 7, 64)


def lanes(variant: str, dtype: torch.dtype) -> int:
    return cores.VARIANTS[variant][0] // dtype.itemsize


def multiply(a: Tensor, b: Tensor, c: Tensor, add: bool, parts: int = 1) -> None:
    arguments = structure(
        *(c.shape[0], c.shape[1], b.shape[0]), *(a, *a.stride()), *(b, b.stride(0)),
        *(c, c.stride(0)), int(add),
    )  # fmt: skip
    native.run("gemm", a.dtype, arguments, parts)


def check(m: int, n: int, k: int, dtype: torch.dtype, transposed: bool, add: bool) -> None:
    """Between other numbers, which must stay; sums are of whole numbers, and so exact."""
    a = torch.randint(-9, 9, (k, m) if transposed else (m, k)).to(dtype)
    a = a.mT if transposed else a
    b = torch.full((k, n + 3), torch.nan, dtype=dtype)
    b[:, :n] = torch.randint(-9, 9, (k, n))
    c = torch.randint(-9, 9, (m + 1, n + 5)).to(dtype)
    expected = c.clone()
    expected[:m, :n] = a @ b[:, :n] + (c[:m, :n] if add else 0)
    multiply(a, b[:, :n], c[:m, :n], add)
    assert torch.equal(c, expected)


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_every_shape_of_a_tile(checks, dtype, transposed, add):
    for m in ROWS:
        for vectors in VECTORS:
            for k in INNER:
                check(m, vectors * lanes(checks, dtype), k, dtype, transposed, add)


def test_rounding_is_that_of_the_precision(checks, dtype):
    a, b = torch.randn(37, 300, dtype=dtype), torch.randn(300, 96, dtype=dtype)
    c = torch.empty(37, 96, dtype=dtype)
    multiply(a, b, c, add=False, parts=5)
    right = a.double() @ b.double()
    if dtype == torch.float64:
        right = a @ b
    scale = (a.double().abs() @ b.double().abs()).max()
    assert (c - right).abs().max() <= 8 * torch.finfo(dtype).eps * scale


@pytest.mark.parametrize("transposed", [False, True])
def test_pack_pads_rows_to_whole_vectors(checks, dtype, transposed):
    size = lanes(checks, dtype)
    for rows, columns in ((1, 1), (3, size), (5, 2 * size + 1), (2, 3 * size - 1)):
        a = torch.randn((columns, rows) if transposed else (rows, columns), dtype=dtype)
        a = a.mT if transposed else a
        width = -(-columns // size) * size
        packed = torch.zeros(rows, width, dtype=dtype)
        native.run("pack", dtype, structure(rows, columns, a, *a.stride(), packed), 1)
        assert torch.equal(packed[:, :columns], a)
        assert not packed[:, columns:].any()


@pytest.mark.parametrize("n", [0, 1, 7, 1000])
def test_buffers_begin_with_zeros(checks, dtype, n):
    total = torch.zeros(1, dtype=dtype)
    native.run("zeros", dtype, structure(n, total), 1)
    assert total.item() == n


def test_a_buffer_that_is_too_large_is_an_error(checks, dtype):
    with pytest.raises(MemoryError, match="'zeros'"):
        native.run("zeros", dtype, structure(2**61 // dtype.itemsize, torch.zeros(1)), 1)
