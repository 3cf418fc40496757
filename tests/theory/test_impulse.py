import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmu.theory import apply_power, apply_powers, discretize, impulse_response, krylov, legt


@pytest.fixture(scope="module")
def system():
    return discretize(*legt(12, 40.0))


@given(length=st.integers(1, 300), columns=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_krylov_is_repeated_multiplication(length, columns):
    Ad, _ = discretize(*legt(5, 30.0))
    X = torch.randn(
        5, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(length)
    )
    terms = [X]
    for _ in range(length - 1):
        terms.append(Ad @ terms[-1])
    torch.testing.assert_close(krylov(Ad, X, length), torch.stack(terms, dim=1))


@given(exponent=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_apply_power(exponent):
    Ad, Bd = discretize(*legt(5, 30.0))
    expected = torch.linalg.matrix_power(Ad, exponent) @ Bd[:, None]
    torch.testing.assert_close(apply_power(Ad, Bd[:, None], exponent), expected)


def test_impulse_response_starts_with_the_input_vector_and_is_exact_at_high_order():
    # Against the response of a system with half the step, whose every second entry must agree.
    order, theta, length = 468, 784.0, 784
    Ad, Bd = discretize(*legt(order, theta))
    half_Ad, half_Bd = discretize(*legt(order, 2 * theta))
    H = impulse_response(Ad, Bd, length)
    half_H = impulse_response(half_Ad, half_Bd, 2 * length)
    torch.testing.assert_close(H[:, 0], Bd, rtol=0, atol=0)
    torch.testing.assert_close(H, half_H[:, ::2] + half_H[:, 1::2], rtol=0, atol=1e-11)


def test_result_has_the_dtype_of_the_vector_and_the_accuracy_of_the_matrix(system):
    Ad, Bd = system
    exact = impulse_response(Ad, Bd, 500)
    rounded = impulse_response(Ad, Bd.float(), 500)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.double(), exact, rtol=0, atol=1e-6 * exact.max().item())


@pytest.mark.parametrize("length", [1, 2, 5, 8])
def test_gradients(length):
    Ad, Bd = discretize(*legt(3, 10.0))
    Ad.requires_grad_()
    X = torch.stack([Bd, Bd + 1], dim=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, x: krylov(a, x, length), (Ad, X))
    assert torch.autograd.gradcheck(lambda a, x: apply_power(a, x, length), (Ad, X))


def test_apply_powers_gives_each_column_its_own():
    Ad, _ = discretize(*legt(5, 9.0))
    X = torch.randn(5, 4, dtype=torch.float64)
    exponents = torch.tensor([0, 1, 6, 37])
    got = apply_powers(Ad, X, exponents, 37)
    for k, x, right in zip(exponents.tolist(), X.mT, got.mT, strict=True):
        torch.testing.assert_close(right, torch.linalg.matrix_power(Ad, k) @ x)
