"""Convolutions by Fourier transforms in the compiled core, against products in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu

from lmu.ops import memory, native, readout
from lmu.ops.native import fft as kernels
from lmu.ops.readout.native_fft import convolution
from lmu.theory import discretize, impulse_response, legt
from tests import cores

F64 = torch.float64
pytestmark = pytest.mark.usefixtures("built")
# Each radix alone, powers of each, and all of them together; lengths that have no fast factors.
LENGTHS = (1, 2, 3, 4, 5, 8, 9, 16, 25, 27, 31, 32, 64, 97, 128, 240, 243, 625, 720, 1000)


@pytest.fixture
def built() -> None:
    cores.need()


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=F64)


def inputs(batch: int, length: int, channels: int, rows: int, features: int) -> list[Tensor]:
    return [
        draw(batch, length, channels),
        draw(channels, length, rows),
        draw(batch, length, features),
        draw(rows, features),
        draw(rows),
    ]


def product(u: Tensor, K: Tensor, x: Tensor, W_x: Tensor, bias: Tensor) -> Tensor:
    """``sum_k K[:, k] u_{t-k} + W_x x_t + bias``, by a Toeplitz matrix of the input."""
    t = torch.arange(u.shape[1])
    delay = t[:, None] - t
    toeplitz = torch.where((delay >= 0)[..., None], u[:, delay.clamp(min=0)], 0.0)
    return torch.einsum("btkc,ckr->btr", toeplitz, K) + x @ W_x.mT + bias


def convolve(activation: str) -> Callable[..., Tensor]:
    return lambda u, K, x, W_x, bias: convolution(u, K, x, W_x, bias, activation)


def with_gradients(run, values: list[Tensor], seed: Tensor) -> list[Tensor]:
    leaves = [v.detach().to(seed.dtype).requires_grad_() for v in values]
    y = run(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, seed, materialize_grads=True)]


def assert_near(got: list[Tensor], right: list[Tensor], tolerance: float) -> None:
    for value, exact in zip(got, right, strict=True):
        if exact.numel():
            scale = exact.norm() + 1e-30
            assert (value.to(F64) - exact).norm() / scale < tolerance


@pytest.mark.parametrize("length", LENGTHS)
def test_every_length(variant, dtype, length):
    del variant
    values = inputs(3, length, 2, 19, 2)
    seed = draw(3, length, 19)
    right = with_gradients(product, values, seed)
    run = convolve("identity")
    got = with_gradients(run, values, seed.to(dtype))
    assert_near(got, right, 2e-6 if dtype == torch.float32 else 5e-15)


@pytest.mark.parametrize("batch", range(1, 10))
@pytest.mark.parametrize("threads", [1, 3, 16])
def test_every_share_of_sequences_and_rows(variant, batch, threads):
    del variant
    values = inputs(batch, 40, 1, 50, 1)
    seed = draw(batch, 40, 50)
    right = with_gradients(product, values, seed)
    torch.set_num_threads(threads)
    try:
        got = with_gradients(convolve("identity"), values, seed)
    finally:
        torch.set_num_threads(1)
    assert_near(got, right, 1e-13)


@pytest.mark.parametrize("n", [960, 768, 1000, 800])
def test_lengths_of_transforms_are_fast(n):
    assert kernels.transform_length(n) == n


def test_lengths_of_transforms_are_long_enough():
    for length in range(1, 2000):
        n = kernels.transform_length(length)
        assert length <= n <= max(1.25 * length, length + 4)


@pytest.mark.parametrize("features", [0, 1, 5])
def test_only_what_is_needed(features):
    values = inputs(5, 30, 2, 7, features)
    seed = draw(5, 30, 7)
    right = with_gradients(product, values, seed)[1:]
    for which in range(5):
        leaves = [v.clone().requires_grad_(i == which) for i, v in enumerate(values)]
        y = convolve("identity")(*leaves)
        (grad,) = torch.autograd.grad(y, leaves[which], seed, materialize_grads=True)
        assert_near([grad], [right[which]], 1e-13)


def test_gelu_and_its_slope_everywhere(variant, dtype):
    del variant
    z = torch.linspace(-14, 14, 5601, dtype=F64).to(dtype)
    x = z.to(F64).requires_grad_()
    exact = gelu(x)
    (slope,) = torch.autograd.grad(exact.sum(), x)
    own = z[None, :, None].clone().requires_grad_()
    nothing = z.new_zeros(1, len(z), 1)
    y = convolution(nothing, nothing, own, z.new_ones(1, 1), z.new_zeros(1), "gelu")
    (got,) = torch.autograd.grad(y.sum(), own)
    bound = 2e-7 if dtype == torch.float32 else 1e-15
    assert (got.flatten() - slope).abs().max() < bound
    assert ((y.flatten() - exact) / (1 + z.to(F64).abs())).abs().max() < bound
    # Small results are as accurate, where 1 + erf has no digits left.
    small = z.to(F64)[z < -2][:, None]
    tail = 0.5 * torch.erfc(-small / 2**0.5)
    kept = (small * tail).abs().flatten() > (1e-30 if dtype == torch.float32 else 1e-290)
    ratio = (y.flatten()[z < -2] / (small * tail).flatten() - 1).abs()[kept].max()
    assert ratio < (1e-5 if dtype == torch.float32 else 1e-13)


def test_results_repeat_to_the_bit(variant):
    del variant
    values = [v.float() for v in inputs(9, 100, 1, 40, 1)]
    seed = draw(9, 100, 40).float()
    run = convolve("tanh")
    first, second = (with_gradients(run, values, seed) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_not_a_number_stays_in_its_sequence_and_its_unit(variant):
    del variant
    u, K, x, W_x, bias = inputs(6, 50, 1, 20, 1)
    u[2] = torch.nan
    K[..., 7] = torch.inf
    y = convolution(u, K, x, W_x, bias, "relu")
    bad = torch.zeros(6, 20, dtype=torch.bool)
    bad[2] = bad[:, 7] = True
    assert torch.equal(y.isfinite().all(1), ~bad)


def test_another_variant_in_backward():
    if len(native.variants()) < 2:
        pytest.skip("needs two variants of the core")
    values = [v.requires_grad_() for v in inputs(2, 60, 1, 9, 1)]
    seed = draw(2, 60, 9)
    with native.use(native.variants()[0]):
        y = convolve("relu")(*values)
        right = torch.autograd.grad(y, values, seed, retain_graph=True)
    with native.use(native.variants()[-1]):
        got = torch.autograd.grad(y, values, seed)
    assert_near(list(got), list(right), 1e-13)


def test_large_results_are_written_whole(variant):
    """Above 32 MiB, which large pages are asked for."""
    del variant
    u, K = torch.zeros(1, 600, 1), torch.zeros(1, 600, 14001)
    u[0, 0], K[0, :, 5] = 1.0, torch.arange(600.0)
    y = convolution(u, K, u[..., :0], K[0, :0].mT, torch.zeros(14001), "identity")
    assert y.untyped_storage().nbytes() > 1 << 25
    torch.testing.assert_close(y[0, :, 5], torch.arange(600.0), atol=2e-4, rtol=0)
    y[0, :, 5] = 0
    assert y.abs().max() < 1e-6


# opcheck's own, in PyTorch 2.14.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_operators(activation):
    values = [v.requires_grad_() for v in inputs(2, 20, 2, 5, 1)]
    torch.library.opcheck(torch.ops.lmu.convolution.default, (*values, activation))
    u, K = values[:2]
    torch.library.opcheck(torch.ops.lmu.responses.default, (u, K[0].detach().requires_grad_()))


def test_refused_without_the_core():
    Ad, Bd = discretize(*legt(4, 10.0))
    u = draw(1, 20, 1)
    with native.use(None):
        with pytest.raises(ValueError, match="compiled core"):
            memory(u, Ad, Bd, method="native_fft")
        with pytest.raises(ValueError, match="compiled core"):
            readout(u, u, Ad, Bd, draw(3, 4), draw(3, 1), draw(3), method="native_fft")
    H = impulse_response(Ad, Bd, 20)
    m, _ = memory(u, Ad, Bd, method="native_fft", H=H)
    torch.testing.assert_close(m, memory(u, Ad, Bd, method="naive")[0])
