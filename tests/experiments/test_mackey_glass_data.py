import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from experiments.mackey_glass.data import AHEAD, mackey_glass, make_task, nrmse

F64 = torch.float64
HISTORY = torch.tensor([0.5, 1.1, 1.2, 1.3], dtype=F64)


def test_integrator_is_of_fourth_order():
    """Over some delays, kinks of the history included, and before chaos amplifies the error."""
    exact = mackey_glass(HISTORY, 150, substeps=64)
    steps = (1, 2, 4, 8)
    errors = [(mackey_glass(HISTORY, 150, substeps=k) - exact).abs().max().item() for k in steps]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert 3.9 < slope < 4.1
    assert (mackey_glass(HISTORY, 150) - exact).abs().max() < 1e-8


def test_agrees_with_an_adaptive_solver():
    """Delay by delay, the solution of the one before being the delayed value of the next."""
    for history in (0.5, 1.25):
        delayed, start, found = (lambda _, v=history: v), history, []
        for k in range(3):

            def slope(t, x, delayed=delayed):
                v = delayed(t - 17)
                return 0.2 * v / (1 + v**10) - 0.1 * x

            span = (17 * k, 17 * (k + 1))
            solution = solve_ivp(slope, span, [start], rtol=1e-11, atol=1e-12, dense_output=True)
            found.append(solution.sol(np.arange(span[0] + 1, span[1] + 1))[0])
            delayed, start = (lambda t, sol=solution.sol: sol(t)[0]), solution.y[0, -1]
        samples = mackey_glass(torch.tensor([history], dtype=F64), 51, substeps=20)
        np.testing.assert_allclose(samples[0], np.concatenate(found), rtol=0, atol=1e-9)


def test_known_solutions():
    # 0.2 / (1 + 1) = 0.1: production and decay are in balance.
    torch.testing.assert_close(mackey_glass(torch.ones(2), 300), torch.ones(2, 300, dtype=F64))
    # Nothing is produced: decay alone. And n = 0: production is half of the delayed value.
    t = torch.arange(1, 31, dtype=F64)
    decay = mackey_glass(torch.tensor([2.0]), 30, beta=0.0, substeps=20)
    torch.testing.assert_close(decay[0], 2 * torch.exp(-0.1 * t), rtol=1e-9, atol=0)
    grown = mackey_glass(torch.tensor([1.0]), 5, tau=5.0, n=0.0, beta=0.4, substeps=20)
    torch.testing.assert_close(grown[0], 2 - torch.exp(-0.1 * t[:5]), rtol=1e-9, atol=0)


def test_delays_between_and_below_samples():
    # The same equation in half the unit of time has half the delay and twice the rates.
    slow = mackey_glass(HISTORY, 60, tau=17.0, substeps=20)[:, 1::2]
    fast = mackey_glass(HISTORY, 30, tau=8.5, beta=0.4, gamma=0.2, substeps=40)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=0)
    assert mackey_glass(HISTORY, 7, tau=0.5).shape == (4, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"history": torch.ones(2, 2)}, "history must be a vector of positive"),
        ({"history": torch.tensor([1.0, -1.0])}, "history must be a vector of positive"),
        ({"steps": 0}, "at least 1, got 0 and 10"),
        ({"substeps": 0}, "at least 1, got 5 and 0"),
        ({"tau": 17.05}, "tau must be a positive multiple of the substep, 1 / 10, got 17.05"),
        ({"tau": 0.0}, "tau must be a positive multiple"),
    ],
)
def test_bad_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        mackey_glass(**({"history": HISTORY, "steps": 5} | change))


def test_target_is_15_ahead_and_the_series_are_those_of_the_equation():
    task = make_task(series=(2, 3, 4), length=300)
    for part, count in zip(task, (2, 3, 4), strict=True):
        assert part.x.shape == part.y.shape == (count, 300, 1)
        assert part.x.dtype == torch.float32
        torch.testing.assert_close(part.y[:, :-15], part.x[:, 15:], rtol=0, atol=0)
    # What was tanh(x - 1) obeys the equation: differences against the slope half-way.
    x = 1 + torch.atanh(task.test.x[..., 0].double())
    x, delayed = (x[:, 17:-1] + x[:, 18:]) / 2, (x[:, :-18] + x[:, 1:-17]) / 2
    steps = torch.atanh(task.test.x[:, 18:, 0]).double() - torch.atanh(task.test.x[:, 17:-1, 0])
    slope = 0.2 * delayed / (1 + delayed**10) - 0.1 * x
    assert (steps - slope).square().mean().sqrt() < 0.02 * slope.square().mean().sqrt()
    assert AHEAD == 15


def test_no_series_is_in_two_parts():
    task = make_task(series=(4, 4, 8), length=2000)
    every = torch.cat([part.x[..., 0] for part in task])
    apart = (every[:, None] - every).square().mean(2).sqrt() + torch.eye(16)
    assert apart.min() > 0.1
    # Nor are they at one place of the attractor when they begin.
    assert every[:, :17].std(0).mean() > 0.7 * every.std()
    again, other = (make_task(series=(4, 4, 8), length=2000, seed=seed) for seed in (0, 1))
    assert torch.equal(again.test.x, task.test.x)
    assert not torch.equal(other.test.x, task.test.x)


def test_bad_tasks():
    with pytest.raises(ValueError, match="must be at least 1, got \\(4, 0, 4\\), 5000 and 15"):
        make_task(series=(4, 0, 4))
    with pytest.raises(ValueError, match="5000 and -15"):
        make_task(ahead=-15)


def test_normalized_error():
    target = torch.tensor([[1.0, -1.0], [3.0, 1.0]])
    assert nrmse(target, target) == 0
    assert nrmse(torch.zeros(2, 2), target) == 1
    assert nrmse(torch.ones(2, 2), target, centered=True) == 1
    assert nrmse(target + 1, target) == pytest.approx(math.sqrt(1 / 3))
    assert nrmse(target + 1, target, centered=True) == pytest.approx(math.sqrt(1 / 2))
    with pytest.raises(ValueError, match="one shape, got \\(2,\\) and \\(2, 2\\)"):
        nrmse(torch.zeros(2), target)
