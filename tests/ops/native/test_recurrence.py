"""The kernels of the recurrence against autograd in float64."""

import pytest
import torch

from lmu.ops.native import recurrence as kernels
from lmu.ops.recurrence import plain

SIZES = [(1, 1, 1), (3, 7, 5), (2, 300, 17), (70, 5, 32), (130, 13, 40), (1, 100, 212), (0, 3, 4)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid", "identity"])
@pytest.mark.parametrize("threads", [1, 2])
def test_forward_and_gradients(variant, dtype, size, activation, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    batch, length, n = size
    exact = [
        torch.randn(batch, length, n, dtype=torch.float64),
        torch.randn(batch, n, dtype=torch.float64),
        torch.randn(n, n, dtype=torch.float64) / (2 * n**0.5),
    ]
    dy = torch.randn(batch, length, n, dtype=torch.float64)
    for t in exact:
        t.requires_grad_()
    right = plain(exact[0], exact[1], exact[2], activation)[0]
    right_grads = torch.autograd.grad(right, exact, dy)
    a, h, W = (t.detach().to(dtype) for t in exact)
    y = kernels.forward(a.mT.contiguous().mT, h, W.mT.contiguous().mT, activation)
    grads = kernels.backward(dy.to(dtype), y, h, W, activation)
    tolerance = 3e-6 if dtype == torch.float32 else 1e-14
    for got, want in zip((y, *grads), (right, *right_grads), strict=True):
        assert got.shape == want.shape
        assert (got - want).norm() <= tolerance * want.norm()


def test_nan_and_infinity_reach_what_depends_on_them(variant):
    a = torch.zeros(2, 4, 3)
    a[0, 1, 2] = torch.nan
    y = kernels.forward(a, torch.zeros(2, 3), torch.eye(3), "tanh")
    assert y[0, 1:, 2].isnan().all()
    assert y[1].isfinite().all()
    assert y[0, 0].isfinite().all()
