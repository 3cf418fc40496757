import numpy as np
import pytest
import torch
from scipy.special import eval_legendre

from lmu.theory import decode_window, discretize, legendre, legt


def test_agrees_with_scipy():
    x = torch.linspace(-1, 1, 41, dtype=torch.float64)
    expected = np.stack([eval_legendre(n, x.numpy()) for n in range(60)], axis=-1)
    np.testing.assert_allclose(legendre(60, x).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_first_polynomials(order):
    x = torch.tensor([[-0.5], [0.25]], dtype=torch.float64)
    values = torch.cat([torch.ones_like(x), x, (3 * x**2 - 1) / 2], dim=-1)[..., None, :order]
    torch.testing.assert_close(legendre(order, x), values)


def test_orthogonal_under_gauss_quadrature_at_high_order():
    order = 300
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(order))
    P = legendre(order, nodes)
    gram = P.T @ (weights[:, None] * P)
    expected = torch.diag(2 / (2 * torch.arange(order, dtype=torch.float64) + 1))
    torch.testing.assert_close(gram, expected, rtol=0, atol=1e-12)
    assert P.abs().max() <= 1 + 1e-12


def test_decoding_gives_the_input_half_a_step_less_than_r_theta_ago():
    order, theta, omega = 24, 200.0, 2 * np.pi / 150
    Ad, Bd = discretize(*legt(order, theta))
    m, now = torch.zeros(order, dtype=torch.float64), 1000
    for t in range(now + 1):
        m = Ad @ m + Bd * np.sin(omega * t)
    r = torch.linspace(
        0.05, 1, 20, dtype=torch.float64
    )  # at r = 0 the held input is a stair's edge
    decoded = decode_window(m, r)
    error = {
        hold: (decoded - torch.sin(omega * (now - r * theta + hold))).abs().max().item()
        for hold in (0.0, 0.5)
    }
    assert error[0.5] < 1e-3
    assert error[0.0] > 10 * error[0.5]


def test_shapes_and_dtype():
    m = torch.randn(2, 3, 8)
    decoded = decode_window(m, torch.tensor([0.0, 0.5, 1.0, 0.25]))
    assert (decoded.shape, decoded.dtype) == ((2, 3, 4), torch.float32)


def test_wrong_memory_and_order():
    with pytest.raises(TypeError, match=r"m must be floating, got torch.int64"):
        decode_window(torch.zeros(4, dtype=torch.int64), torch.tensor([0.5]))
    with pytest.raises(ValueError, match="order must be at least 1, got 0"):
        legendre(0, torch.zeros(3))


@pytest.mark.parametrize(
    ("r", "says"),
    [
        (torch.tensor(0.5), r"r must have the shape \(points,\), or .*, got \(\)"),
        (torch.tensor([0.5, 1.5]), r"within \[0, 1\].* from 0.5 to 1.5"),
        (torch.tensor([-0.5]), r"from -0.5 to -0.5"),
        (torch.tensor([torch.nan]), r"from nan to nan"),
    ],
)
def test_wrong_delays(r, says):
    with pytest.raises(ValueError, match=says):
        decode_window(torch.zeros(4), r)
