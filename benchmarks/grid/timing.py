"""Timing of a case: contenders are checked against each other, then run in turns."""

import random
from statistics import median
from typing import Any

import torch

from benchmarks.grid.cases import Case
from benchmarks.grid.contenders import AUTO, Step, chosen, contenders
from benchmarks.measure import relative_error, seconds

TOLERANCE = 1e-3
SHORTEST = 4e-3  # seconds of a measurement; quicker work is repeated
FEWEST, MOST = 5, 25  # rounds
PATIENCE = 1.5  # seconds of a case's rounds, after which only the fewest are run
FAR, SLOW = 4.0, 0.02  # times the fastest, and seconds: beyond, one or two measurements do


class WrongError(ArithmeticError):
    """A contender computes something else."""


def measure(case: Case, device: torch.device) -> dict[str, Any]:
    """Time all contenders of a case in one interleaved run.

    Returns:
        Sizes, and by contender the median seconds, the least ones and the number of rounds.

    Raises:
        WrongError: A contender computes something else.
    """
    torch.manual_seed(0)
    steps, same = contenders(case, device)
    check(case, {name: steps[name] for name in same})
    times = rounds(steps, random.Random(str(case)))
    return {
        **case.sizes,
        "chosen": chosen(case, device),
        "seconds": {name: median(t) for name, t in times.items()},
        "fastest": {name: min(t) for name, t in times.items()},
        "rounds": {name: len(t) for name, t in times.items()},
    }


def check(case: Case, steps: dict[str, Step]) -> None:
    """Compare the outputs of each contender with those of the choice."""
    expected = steps[AUTO]()[0]
    for name, step in steps.items():
        error = relative_error(step()[0], expected) if name != AUTO else 0.0
        if not error < TOLERANCE:
            raise WrongError(f"{case}: {name} differs by {error:.1e}, its time means nothing")


def rounds(steps: dict[str, Step], order: random.Random) -> dict[str, list[float]]:
    """Measure each contender once a round, in a random order, for as long as it is worth."""
    once = {name: seconds(step, 1) for name, step in steps.items()}
    repeats = {name: max(1, round(SHORTEST / t)) for name, t in once.items()}
    far = max(SLOW, FAR * min(once.values()))
    spent, times = 0.0, {name: [t] if t > far else [] for name, t in once.items()}
    for turn in range(MOST):
        if turn >= FEWEST and spent > PATIENCE:
            break
        for name in order.sample(sorted(steps), len(steps)):
            if once[name] > far and (turn or once[name] > SLOW * 10):
                continue  # far behind, and measured
            times[name].append(seconds(steps[name], repeats[name]))
            spent += times[name][-1] * repeats[name]
    return times
