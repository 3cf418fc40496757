from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import cont2discrete

from lmu.theory import DISCRETIZERS, discretize, legt


@pytest.mark.parametrize("method", sorted(DISCRETIZERS))
@pytest.mark.parametrize(("order", "theta"), [(1, 3.0), (6, 50.0), (32, 3000.0)])
def test_agrees_with_scipy(method, order, theta):
    A, B = legt(order, theta)
    Ad, Bd = discretize(A, B, method)
    system = (A.numpy(), B[:, None].numpy(), np.eye(order), np.zeros((order, 1)))
    discrete: Any = cont2discrete(system, dt=1.0, method=method.removesuffix("-unchecked"))
    Ad_scipy, Bd_scipy = discrete[:2]
    torch.testing.assert_close(Ad, torch.from_numpy(Ad_scipy), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(Bd, torch.from_numpy(Bd_scipy)[:, 0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("order", "theta"), [(64, 20.0), (468, 784.0)])
def test_two_half_steps_of_zero_order_hold_are_one(order, theta):
    Ad, Bd = discretize(*legt(order, theta))
    half_Ad, half_Bd = discretize(*legt(order, 2 * theta))
    torch.testing.assert_close(half_Ad @ half_Ad, Ad, rtol=0, atol=1e-11)
    torch.testing.assert_close(half_Ad @ half_Bd + half_Bd, Bd, rtol=0, atol=1e-12)


def _error(method: str, steps: int) -> float:
    """Error of the state after one window, for a cosine that enters at the middle of each step."""
    order, omega = 6, 4.0
    A, B = legt(order, theta=1.0)
    response = torch.linalg.solve(
        1j * omega * torch.eye(order, dtype=torch.complex128) - A, B.to(torch.complex128)
    )
    Ad, Bd = discretize(*legt(order, theta=float(steps)), method)
    m = response.real
    for k in range(steps):
        m = Ad @ m + Bd * np.cos(omega * (k + 0.5) / steps)
    exact = (response * np.exp(1j * omega)).real
    return (m - exact).norm().item()


@pytest.mark.parametrize(("method", "order"), [("zoh", 2), ("bilinear", 2), ("euler", 1)])
def test_converges_with_the_order_of_the_method(method, order):
    steps = [256, 512, 1024, 2048]
    errors = [_error(method, n) for n in steps]
    slope = -np.polyfit(np.log2(steps), np.log2(errors), 1)[0]
    assert abs(slope - order) < 0.1


def test_unknown_method():
    names = r"'bilinear', 'euler', 'euler-unchecked', 'zoh'"
    with pytest.raises(ValueError, match=rf"one of \[{names}\], got 'foh'"):
        discretize(*legt(2, 3.0), "foh")
