import math
from typing import Any

import numpy as np
import pytest
import torch

from lmu.theory import legt


def test_small_system_is_the_one_of_the_paper():
    A, B = legt(3, theta=2.0)
    assert torch.equal(
        A,
        torch.tensor(
            [[-0.5, -0.5, -0.5], [1.5, -1.5, -1.5], [-2.5, 2.5, -2.5]], dtype=torch.float64
        ),
    )
    assert torch.equal(B, torch.tensor([0.5, -1.5, 2.5], dtype=torch.float64))


@pytest.mark.parametrize("order", [1, 2, 7, 64])
def test_energy_leaves_at_both_ends_of_the_window_only(order):
    # In the norm of the window, sum_i m_i^2 / (2i+1), the free system loses exactly the values at
    # the newest (signs alternate) and oldest (all ones) ends: N A + A' N = -(1 1' + s s') / theta.
    theta = 5.0
    A, B = legt(order, theta)
    i = torch.arange(order, dtype=torch.float64)
    N = torch.diag(1 / (2 * i + 1))
    ones, signs = torch.ones(order, dtype=torch.float64), (-1.0) ** i
    expected = -(torch.outer(ones, ones) + torch.outer(signs, signs)) / theta
    torch.testing.assert_close(N @ A + A.T @ N, expected)
    torch.testing.assert_close(N @ B, signs / theta)


@pytest.mark.parametrize("order", [1, 16, 128])
def test_system_is_stable(order):
    A, _ = legt(order, theta=10.0)
    assert torch.linalg.eigvals(A).real.max() < 0


def test_numpy_scalars_are_numbers():
    order: Any = np.int64(4)
    theta: Any = np.float32(3)
    A, B = legt(order, theta)
    assert torch.equal(A, legt(4, 3.0)[0])
    assert torch.equal(B, legt(4, 3.0)[1])


def test_default_device_and_dtype_do_not_matter():
    with torch.device("meta"):
        A, B = legt(4, 3)
    assert (A.device.type, A.dtype, B.device.type) == ("cpu", torch.float64, "cpu")


@pytest.mark.parametrize(
    ("order", "theta", "error", "says"),
    [
        (0, 1.0, ValueError, "order must be at least 1, got 0"),
        (2.0, 1.0, TypeError, "order must be an int, got 2.0"),
        (True, 1.0, TypeError, "order must be an int, got True"),
        (2, 0, ValueError, "theta must be a positive, finite number"),
        (2, -3.0, ValueError, "got -3.0"),
        (2, math.inf, ValueError, "got inf"),
        (2, math.nan, ValueError, "got nan"),
        (2, "7", TypeError, "theta must be a number of time steps, got '7'"),
        (2, None, TypeError, "theta must be a number of time steps, got None"),
    ],
)
def test_wrong_arguments(order, theta, error, says):
    with pytest.raises(error, match=says):
        legt(order, theta)
