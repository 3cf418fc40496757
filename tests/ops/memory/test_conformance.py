"""Every method of the linear memory through the same properties, against a plain float64 loop."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from lmu.ops import MEMORY_METHODS, final_memory, memory
from lmu.theory import discretize, impulse_response, legt
from tests import cores, devices
from tests.devices import exact, place, place_system

F64 = torch.float64


@dataclass(frozen=True)
class Case:
    batch: int
    length: int
    channels: int
    order: int
    theta: float
    initial: bool

    def __str__(self) -> str:
        start = "m0" if self.initial else "zero"
        return f"b{self.batch}-T{self.length}-c{self.channels}-d{self.order}-{start}"


CASES = [
    Case(batch, length, channels, order, theta, initial)
    for batch, length, channels, order, theta in [
        (1, 1, 1, 1, 1.0),
        (2, 1, 3, 5, 7.0),
        (3, 2, 1, 8, 4.0),
        (2, 61, 2, 16, 50.0),
        (1, 127, 1, 33, 20.0),
        (2, 1000, 1, 24, 300.0),
    ]
    for initial in (False, True)
]

methods = pytest.mark.parametrize("method", [cores.param(method) for method in MEMORY_METHODS])
cases = pytest.mark.parametrize("case", CASES, ids=str)


def system(case: Case) -> tuple[Tensor, Tensor]:
    return place_system(*discretize(*legt(case.order, case.theta)))


def signals(case: Case, dtype: torch.dtype = F64) -> tuple[Tensor, Any]:
    g = torch.Generator().manual_seed(case.length)
    u = torch.randn(case.batch, case.length, case.channels, dtype=F64, generator=g)
    m_0 = torch.randn(case.batch, case.channels, case.order, dtype=F64, generator=g)
    return place(u.to(dtype)), place(m_0.to(dtype)) if case.initial else None


def expected(u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None) -> Tensor:
    """The definition, element by element of the batch and channel, in float64."""
    batch, length, channels = u.shape
    u, Ad, Bd = exact(u), exact(Ad), exact(Bd)
    m_0 = None if m_0 is None else exact(m_0)
    states = torch.empty(batch, length, channels, len(Bd), dtype=F64)
    for b in range(batch):
        for c in range(channels):
            m = torch.zeros(len(Bd), dtype=F64) if m_0 is None else m_0[b, c]
            for t in range(length):
                m = Ad @ m + Bd * u[b, t, c]
                states[b, t, c] = m
    return states


def run(method: str, *args, **kwargs) -> tuple[Any, Tensor]:
    """All states, where the method gives them, and the last one."""
    if MEMORY_METHODS[method].all_states:
        return memory(*args, method=method, **kwargs)
    return None, final_memory(*args, method=method, **kwargs)


def check(got: tuple[Tensor | None, Tensor], states: Tensor, tolerance: float) -> None:
    scale = states.abs().max().item()
    for actual, right in zip(got, (states, states[:, -1]), strict=True):
        if actual is not None:
            assert actual.shape == right.shape
            torch.testing.assert_close(exact(actual), right, rtol=0, atol=tolerance * scale)


@methods
@cases
@pytest.mark.parametrize("given_H", [False, True])
def test_float64(method, case, given_H):
    Ad, Bd = system(case)
    u, m_0 = signals(case)
    H = impulse_response(Ad, Bd, case.length + 3) if given_H else None
    check(run(method, u, Ad, Bd, m_0, H=H), expected(u, Ad, Bd, m_0), 1e-12)


@methods
@cases
def test_float32_is_right_to_its_last_digits(method, case):
    Ad, Bd = system(case)
    u, m_0 = signals(case, torch.float32)
    got = run(method, u, Ad, Bd, m_0)
    assert got[1].dtype == torch.float32
    check(got, expected(u, Ad, Bd, m_0), 2e-6)


@methods
def test_float32_at_high_order(method):
    """A state of order 468 after 784 steps, where discretization in float32 loses 1e-3."""
    case = Case(2, 784, 1, 468, 784.0, initial=True)
    Ad, Bd = system(case)
    u, m_0 = signals(case, torch.float32)
    states = memory(*map(exact, (u, Ad, Bd, m_0)), method="naive")[0]
    # Rounding at each step adds up; how products of few rows round is the processor's matter.
    bound = 5e-6 if method in {"recurrent", "native"} else 2e-6
    for actual, right in zip(run(method, u, Ad, Bd, m_0), (states, states[:, -1]), strict=True):
        if actual is not None:
            assert (exact(actual) - right).norm() / right.norm() < bound


@methods
def test_float32_at_order_512_after_4096_steps(method):
    """Within 1e-5 of float64, relative, in the Euclidean norm."""
    Ad, Bd = place_system(*discretize(*legt(512, 4096.0)))
    g = torch.Generator().manual_seed(0)
    u = place(torch.rand(1, 4096, 1, generator=g))
    right = memory(*map(exact, (u, Ad, Bd)), method="naive")
    for actual, states in zip(run(method, u, Ad, Bd), right, strict=True):
        if actual is not None:
            assert (exact(actual) - states).norm() / states.norm() < 1e-5


@methods
@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("given_H", [False, True])
def test_dynamics_for_each_channel(method, initial, given_H):
    case = Case(2, 61, 2, 7, 20.0, initial)
    u, m_0 = signals(case)
    systems = [place_system(*discretize(*legt(7, theta))) for theta in (20.0, 50.0)]
    Ad, Bd = (
        torch.stack(parts).requires_grad_(not given_H) for parts in zip(*systems, strict=True)
    )
    H = impulse_response(Ad, Bd, 64) if given_H else None
    right = torch.cat(
        [
            expected(u[..., c : c + 1], A, B, None if m_0 is None else m_0[:, c : c + 1])
            for c, (A, B) in enumerate(systems)
        ],
        dim=2,
    )
    got = run(method, u, Ad, Bd, m_0, H=H)
    check(got, right, 1e-12)
    if not given_H:
        assert all(g.abs().max() > 0 for g in torch.autograd.grad(got[1].sum(), (Ad, Bd)))


@methods
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_input_is_computed_in_float32(method, dtype):
    case = Case(2, 61, 1, 16, 50.0, initial=False)
    Ad, Bd = system(case)
    u = signals(case)[0].to(dtype)
    got = run(method, u, Ad, Bd)
    assert got[1].dtype == torch.float32
    check(got, expected(u, Ad, Bd, None), 2e-6)


@methods
def test_autocast_does_not_touch_the_memory(method):
    case = Case(2, 61, 1, 16, 50.0, initial=True)
    Ad, Bd = system(case)
    u, m_0 = signals(case, torch.float32)
    with torch.autocast(devices.current.type, torch.bfloat16):
        got = run(method, u, Ad, Bd, m_0)
    check(got, expected(u, Ad, Bd, m_0), 2e-6)


@methods
def test_input_that_is_not_contiguous(method):
    case = Case(4, 30, 2, 6, 20.0, initial=False)
    Ad, Bd = system(case)
    u = signals(case)[0].transpose(0, 2).contiguous().transpose(0, 2)[::2]
    assert not u.is_contiguous()
    check(run(method, u, Ad, Bd), expected(u, Ad, Bd, None), 1e-12)


@methods
def test_nothing_is_read_before_it_is_written(poisoned, method):
    case = Case(2, 61, 2, 16, 50.0, initial=True)
    Ad, Bd = system(case)
    u, m_0 = signals(case)
    check(run(method, u, Ad, Bd, m_0), expected(u, Ad, Bd, m_0), 1e-12)


@methods
@pytest.mark.parametrize("split", [1, 30, 60])
def test_split_and_resume_equals_whole(method, split):
    case = Case(2, 61, 2, 16, 50.0, initial=True)
    Ad, Bd = system(case)
    u, m_0 = signals(case)
    whole, last = run(method, u, Ad, Bd, m_0)
    first, between = run(method, u[:, :split], Ad, Bd, m_0)
    second, end = run(method, u[:, split:], Ad, Bd, between)
    torch.testing.assert_close(end, last)
    if whole is not None:
        torch.testing.assert_close(torch.cat([first, second], dim=1), whole)


@methods
@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("channels", [1, 2])
def test_gradients_through_every_argument(method, length, channels):
    case = Case(2, length, channels, 4, 6.0, initial=True)
    arguments = [t.requires_grad_() for t in (*signals(case), *system(case))]

    def last_and_all(u, m_0, Ad, Bd):
        states, last = run(method, u, Ad, Bd, m_0)
        return last if states is None else (states, last)

    assert torch.autograd.gradcheck(last_and_all, arguments)


@methods
def test_float32_gradients_against_the_float64_reference(method):
    case = Case(3, 100, 1, 40, 150.0, initial=True)

    def gradients(method: str, dtype: torch.dtype) -> list[Tensor]:
        inputs = [t.requires_grad_() for t in (*signals(case, dtype), *system(case))]
        u, m_0, Ad, Bd = inputs
        last = run(method, u, Ad, Bd, m_0)[1]
        weights = torch.linspace(-1, 1, last.numel(), dtype=dtype).view_as(last)
        return list(torch.autograd.grad((last * weights).sum(), inputs))

    got = gradients(method, torch.float32)
    for actual, right in zip(got, gradients("naive", F64), strict=True):
        assert (exact(actual) - exact(right)).norm() / exact(right).norm() < 1e-5


@methods
@pytest.mark.parametrize("length", [pytest.param(1, marks=pytest.mark.slow), 20])
def test_compiles_as_one_graph(method, length):
    torch._dynamo.reset()
    case = Case(2, length, 1, 5, 10.0, initial=True)
    u, m_0, Ad, Bd = (t.requires_grad_() for t in (*signals(case), *system(case)))

    def last(u, m_0, Ad, Bd):
        return run(method, u, Ad, Bd, m_0)[1]

    compiled = torch.compile(last, fullgraph=True, backend="aot_eager")
    inputs = (u, m_0, Ad, Bd)
    torch.testing.assert_close(compiled(*inputs), last(*inputs))
    grads = [torch.autograd.grad(f(*inputs).square().sum(), inputs) for f in (compiled, last)]
    torch.testing.assert_close(*grads)


@methods
def test_a_kept_last_state_does_not_hold_the_sequence(method):
    case = Case(1, 50, 1, 4, 10.0, initial=False)
    last = run(method, signals(case)[0], *system(case))[1]
    assert last.untyped_storage().nbytes() == last.nbytes
