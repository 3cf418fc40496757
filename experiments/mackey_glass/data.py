"""Data of the Mackey-Glass task: predict a chaotic series 15 steps ahead."""

from typing import NamedTuple

import torch
from torch import Tensor

from lmu._arguments import checked, flag, number, shown, tensor, whole

TAU = 17.0
AHEAD = 15
WASH_OUT = 1_000  # steps after which similar histories have diverged on the attractor


@checked(
    steps=whole(),
    tau=number(),
    beta=number(),
    gamma=number(),
    n=number(),
    substeps=whole(),
)
def mackey_glass(
    history: Tensor,
    steps: int,
    *,
    tau: float = TAU,
    beta: float = 0.2,
    gamma: float = 0.1,
    n: float = 10.0,
    substeps: int = 10,
) -> Tensor:
    r"""Integrate the Mackey-Glass equation from constant histories.

    .. math:: \frac{dx}{dt} = \frac{\beta\, x(t - \tau)}{1 + x(t - \tau)^n} - \gamma\, x(t)

    By the method of steps: within one delay all of ``x(t - tau)`` is known and the equation is
    linear in ``x``, so that the classical Runge-Kutta method of fourth order is a linear recurrence
    and the grid points of a whole delay are one matrix product. Half-way between grid points the
    delayed value is that of the cubic Hermite polynomial. The kinks of a constant history, at
    multiples of ``tau``, lie on the grid, so that the error falls with the fourth power of the
    substep; with the defaults it is below 1e-8 until chaos amplifies it.

    Args:
        history: ``x(t)`` of each series for all ``t <= 0`` (series,), positive.
        steps: Number of samples to return.
        tau: The delay, a multiple of the substep.
        beta: Rate of production.
        gamma: Rate of decay.
        n: Exponent.
        substeps: Integration steps between two samples, which are a unit of time apart.

    Returns:
        Samples ``x(1), x(2), ..., x(steps)`` (series, steps) in float64; ``x`` has no unit.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The history is not a vector of positive finite numbers, ``steps`` or
            ``substeps`` is below 1, or ``tau`` is not a positive multiple of the substep.

    Source: Mackey & Glass, Science 1977, equation 4b.
    """
    try:
        x = torch.as_tensor(history)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"history must hold numbers, got {shown(history)}: {error}") from error
    tensor()("history", x)
    if x.is_complex() or x.is_meta:
        raise TypeError(f"history must hold real numbers, got {shown(x)}")
    x = x.double()
    if x.ndim != 1 or not bool((x.isfinite() & (x > 0)).all()):
        raise ValueError("history must be a vector of positive finite numbers, one for each series")
    if steps < 1 or substeps < 1:
        raise ValueError(f"steps and substeps must be at least 1, got {steps} and {substeps}")
    points = round(tau * substeps)  # of the grid in a delay
    if points < 1 or abs(points - tau * substeps) > 1e-9 * points:
        raise ValueError(
            f"tau must be a positive multiple of the substep, 1 / {substeps}, got {tau:g}: "
            "choose other substeps"
        )
    h = 1.0 / substeps
    z = gamma * h
    decay = 1 - z + z**2 / 2 - z**3 / 6 + z**4 / 24
    first, second = 1 - z + z**2 / 2 - z**3 / 4, 4 - 2 * z + z**2 / 2
    powers = decay ** torch.arange(points + 1, dtype=x.dtype)
    lags = torch.arange(points)[:, None] - torch.arange(points)
    scan = torch.where(lags >= 0, powers[lags.clamp(min=0)], 0.0) * h / 6

    grid = x[:, None].expand(-1, points + 1)  # the last delay, with both ends
    middle = grid[:, 1:]
    delays = []
    for _ in range(-(-steps * substeps // points)):
        g, g_middle = (beta * v / (1 + v**n) for v in (grid, middle))
        forcing = first * g[:, :-1] + second * g_middle + g[:, 1:]
        start = grid[:, -1:]
        grid = torch.cat([start, powers[1:] * start + forcing @ scan.mT], dim=1)
        slope = g - gamma * grid
        middle = (grid[:, :-1] + grid[:, 1:]) / 2 + h / 8 * (slope[:, :-1] - slope[:, 1:])
        delays.append(grid[:, 1:])
    return torch.cat(delays, dim=1)[:, substeps - 1 :: substeps][:, :steps]


class Part(NamedTuple):
    """Series of training, validation or test.

    Attributes:
        x: Inputs (series, time, 1).
        y: Targets (series, time, 1): ``x`` some steps later.
    """

    x: Tensor
    y: Tensor


class MackeyGlass(NamedTuple):
    """The series of the task, in three disjoint parts."""

    train: Part
    val: Part
    test: Part


@checked(length=whole(), ahead=whole(), seed=whole(0, 2**63 - 1))
def make_task(
    *,
    series: tuple[int, int, int] = (32, 32, 64),
    length: int = 5_000,
    ahead: int = AHEAD,
    seed: int = 0,
) -> MackeyGlass:
    """Make series ``tanh(x - 1)`` of the Mackey-Glass equation, and targets ``ahead`` steps later.

    Each series has its own constant history, uniform in 1.1 to 1.3, and its first 1,000 steps are
    left out. The target lies in the future; in the published paper inputs and targets were
    exchanged, so that it lay in the past.

    Args:
        series: Numbers of series for training, validation and test.
        length: Steps of each series.
        ahead: Steps from an input to its target.
        seed: Seed of the histories.

    Returns:
        The three parts, in float32.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A number is below 1.

    Source: Voelker et al., NeurIPS 2019, section 3.3.
    """
    if not isinstance(series, (tuple, list)) or len(series) != 3:
        raise TypeError(f"series must be three numbers, got {shown(series)}")
    for count in series:
        whole()("each of series", count)
    if min(*series, length, ahead) < 1:
        raise ValueError(
            f"numbers of series, length and ahead must be at least 1, got {series}, {length} "
            f"and {ahead}"
        )
    g = torch.Generator().manual_seed(seed)
    history = 1.1 + 0.2 * torch.rand(sum(series), dtype=torch.float64, generator=g)
    x = mackey_glass(history, WASH_OUT + length + ahead)[:, WASH_OUT:]
    values = torch.tanh(x - 1).float()[..., None]
    parts = values.split(list(series))
    return MackeyGlass(*(Part(part[:, :length], part[:, ahead:]) for part in parts))


@checked(prediction=tensor(filled=True), target=tensor(filled=True, finite=True), centered=flag)
def nrmse(prediction: Tensor, target: Tensor, *, centered: bool = False) -> float:
    """Normalized error: root mean square of the error over that of the target.

    Args:
        prediction: Predictions, of any shape.
        target: Targets of the same shape.
        centered: Divide by the standard deviation of the target instead, which is slightly smaller:
            a constant prediction of its mean then has an error of 1.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The shapes differ, or the target is empty, not finite or all zero.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction and target must have one shape, got {tuple(prediction.shape)} and "
            f"{tuple(target.shape)}"
        )
    if prediction.is_complex() or target.is_complex() or prediction.device != target.device:
        raise TypeError(f"both must be real and in one place, got {shown(prediction)}")
    target = target.double()
    power = (target - target.mean() if centered else target).square().mean()
    if not power > 0:
        raise ValueError("the target does not vary: there is nothing to measure an error by")
    return ((prediction - target).square().mean() / power).sqrt().item()
