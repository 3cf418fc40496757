import math
from typing import Any

import pytest
import torch

from lmu.theory import discretize, fourier, fourier_basis

F64 = torch.float64
delays = torch.linspace(0, 1, 41, dtype=F64)


@pytest.mark.parametrize("order", [1, 3, 9, 65])
def test_basis_is_orthonormal_over_a_window(order):
    # The midpoint rule is exact for trigonometric polynomials of lower order than its points.
    points = 2 * order
    g = fourier_basis(order, (torch.arange(points, dtype=F64) + 0.5) / points)
    torch.testing.assert_close(g.mT @ g / points, torch.eye(order, dtype=F64))


def test_system_is_the_one_of_the_paper():
    """FouT, "How to Train Your HiPPO", section 3.2 (its windows are of length 1)."""
    A, B = fourier(5, theta=1.0)
    expected = torch.zeros(5, 5, dtype=F64)
    for n in range(5):
        for k in range(5):
            if n == k == 0:
                expected[n, k] = -2
            elif (n == 0 and k % 2) or (k == 0 and n % 2):
                expected[n, k] = -2 * math.sqrt(2)
            elif n % 2 and k % 2:
                expected[n, k] = -4
            # A cosine has the frequency (n + 1) / 2; its sine is the next.
            if k % 2 and n - k == 1:
                expected[n, k] += math.pi * (k + 1)
            if n % 2 and k - n == 1:
                expected[n, k] -= math.pi * (n + 1)
    torch.testing.assert_close(A, expected)
    torch.testing.assert_close(B, torch.tensor([2, 8**0.5, 0, 8**0.5, 0], dtype=F64))


@pytest.mark.parametrize("order", [1, 3, 17, 129])
def test_system_is_stable(order):
    A, _ = fourier(order, theta=10.0)
    assert torch.linalg.eigvals(A).real.max() < 0


@pytest.mark.parametrize("order", [1, 7, 32 + 1])
def test_energy_leaves_by_the_ends_of_the_window_only(order):
    theta = 5.0
    A, B = fourier(order, theta)
    torch.testing.assert_close(A + A.T, -theta * torch.outer(B, B))


@pytest.mark.parametrize("order", [1, 3, 11])
def test_window_of_its_own_frequencies_is_held_exactly(order):
    theta = 7.0
    A, B = fourier(order, theta)
    for k in range(order // 2 + 1):
        s = torch.tensor(2j * math.pi * k / theta, dtype=torch.complex128)  # u = exp(s t)
        m = torch.linalg.solve(s * torch.eye(order, dtype=F64) - A, B.to(torch.complex128))
        window = fourier_basis(order, delays).to(m.dtype) @ m
        torch.testing.assert_close(window, torch.exp(-s * delays * theta).to(m.dtype))


def test_other_windows_are_held_the_better_the_higher_the_order():
    """Inside of the window; at its ends a series of a window that is not periodic has a jump."""
    theta, s = 100.0, torch.tensor(2j * math.pi * 1.37 / 100.0, dtype=torch.complex128)
    inside = delays[5:-5]
    errors = []
    for order in (5, 17, 65, 257):
        A, B = fourier(order, theta)
        m = torch.linalg.solve(s * torch.eye(order, dtype=F64) - A, B.to(s.dtype))
        window = fourier_basis(order, inside).to(s.dtype) @ m
        errors.append((window - torch.exp(-s * inside * theta)).abs().max().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02


def test_band_limited_signal_comes_out_of_the_discrete_system():
    theta, order, t = 200.0, 21, torch.arange(2000, dtype=F64)
    u = torch.cos(2 * math.pi * 3 * t / theta) + 0.5 * torch.sin(2 * math.pi * 5 * t / theta + 1)
    Ad, Bd = discretize(*fourier(order, theta))
    m = torch.zeros(order, dtype=F64)
    for value in u:
        m = Ad @ m + Bd * value
    k = torch.arange(0, 200, 10)  # zero-order hold delays by half a step
    decoded = fourier_basis(order, (k + 0.5).double() / theta) @ m
    torch.testing.assert_close(decoded, u.flip(0)[k], rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("order", "theta", "error", "message"),
    [
        (4, 10.0, ValueError, "order must be odd, .* got 4: give 3 or 5"),
        (0, 10.0, ValueError, "order must be at least 1, got 0"),
        (3.0, 10.0, TypeError, "order must be an int"),
        (3, 0.0, ValueError, "theta must be a positive, finite number"),
        (3, "10", TypeError, "theta must be a number of time steps"),
    ],
)
def test_wrong_arguments(order: Any, theta: Any, error, message):
    with pytest.raises(error, match=message):
        fourier(order, theta)


def test_wrong_arguments_of_the_basis():
    with pytest.raises(ValueError, match=r"order must be odd, .* got 2: give 1 or 3"):
        fourier_basis(2, delays)
    with pytest.raises(TypeError, match="r must be floating"):
        fourier_basis(3, torch.arange(3))
