"""Noise in Euler's memory, and the windows that are refused for it."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov

from lmu.theory import discretize, impulse_response, least_theta, legt, noise_gain

UNCHECKED = "euler-unchecked"


def gain(order: int, theta: float, method: str = UNCHECKED) -> float:
    return noise_gain(*discretize(*legt(order, theta), method), theta)


@pytest.mark.parametrize("method", ["zoh", "bilinear", UNCHECKED])
@pytest.mark.parametrize(("order", "theta"), [(1, 0.6), (2, 1.6), (5, 30.0), (16, 90.0)])
def test_the_gain_is_that_of_the_lyapunov_equation(order, theta, method):
    Ad, Bd = (t.numpy() for t in discretize(*legt(order, theta), method))
    covariance: Any = solve_discrete_lyapunov(Ad, np.outer(Bd, Bd))
    variance = covariance.diagonal() / (2 * np.arange(order) + 1)
    assert gain(order, theta, method) == pytest.approx(math.sqrt(theta * variance.max()), rel=1e-5)


def test_the_gain_of_one_polynomial_by_hand():
    # Ad = 1 - 1/theta, Bd = 1/theta: theta Bd^2 / (1 - Ad^2) = 1 / (2 - 1/theta)
    assert gain(1, 0.8) == pytest.approx(math.sqrt(1 / (2 - 1 / 0.8)), rel=1e-6)
    assert gain(1, 0.4) == math.inf


def test_noise_is_as_large_as_the_gain_says():
    order, theta = 16, 90.0
    noise = torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    H = impulse_response(*discretize(*legt(order, theta), "euler"), 4096)
    length = len(noise) + H.shape[1]
    m = torch.fft.irfft(torch.fft.rfft(noise, length) * torch.fft.rfft(H, length), length)
    m = m[:, H.shape[1] : len(noise)]
    z = m / (2 * torch.arange(order) + 1).sqrt()[:, None]
    measured = z.std(dim=1).max().item() * math.sqrt(theta)
    assert measured == pytest.approx(gain(order, theta), rel=0.03)
    assert gain(order, theta) == pytest.approx(9.88, rel=1e-2)


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
@pytest.mark.parametrize("order", [1, 2, 12, 64, 256])
def test_the_other_discretizers_amplify_nothing(order, method):
    for theta in (order / 2, 3.0 * order, 50.0 * order):
        assert gain(order, theta, method) <= 1


@pytest.mark.parametrize(
    ("order", "theta", "times"),
    [
        (12, 10.0, "more than 1,000,000"),  # unstable
        (256, 2000.0, "more than 1,000,000"),
        (256, 6800.0, "more than 1,000,000"),  # its spectral radius is below 1, as of those below
        (64, 700.0, r"3\.\d\de\+03"),
        (16, 80.0, r"16\.\d"),
    ],
)
def test_windows_in_which_noise_grows_are_refused(order, theta, times):
    message = (
        rf"order {order} with theta={theta:g} .* noise is {times} times .* where 10 is allowed"
    )
    with pytest.raises(ValueError, match=message + r"\. Use discretizer='zoh' .* larger theta"):
        discretize(*legt(order, theta), "euler")
    Ad, Bd = discretize(*legt(order, theta), UNCHECKED)
    A, B = legt(order, theta)
    torch.testing.assert_close((Ad, Bd), (torch.eye(order) + A, B), rtol=0, atol=0)


@pytest.mark.parametrize("order", [1, 2, 5, 16, 64])
def test_the_shortest_window_is_where_the_gain_is_ten(order):
    bound = least_theta(order, "euler")
    assert gain(order, bound) == pytest.approx(10, rel=0.2 if order == 1 else 0.02)
    assert gain(order, bound) > 10
    discretize(*legt(order, bound * 1.001), "euler")
    gains = [gain(order, bound * 1.01**k) for k in range(100)]
    assert gains == sorted(gains, reverse=True)
    for method in ("zoh", "bilinear", UNCHECKED):
        assert least_theta(order, method) == 0


def test_the_shortest_window_at_the_orders_of_the_papers():
    assert least_theta(256, "euler") == pytest.approx(26918, rel=2e-3)
    assert gain(468, 91_100.0) < 10 < gain(468, 90_800.0)
