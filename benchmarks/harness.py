"""Benchmark cases, whose contenders are checked against float64, then timed in turns."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from benchmarks.measure import gemm_rate, peak_memory, relative_error, spread, take_turns
from benchmarks.work import Contender


@dataclass(frozen=True)
class Case:
    """A computation and its contenders.

    Attributes:
        title: Title of the results.
        contenders: Functions that build a contender, by name; the first is the reference for times.
        exact: Computes the exact result in float64.
        rounds: Measurements of each contender.
        tolerance: Largest relative error of a result; a contender that exceeds it is not timed.
        flops: FLOPs of one call, counted from the equations.
    """

    title: str
    contenders: Mapping[str, Callable[[], Contender]]
    exact: Callable[[], list[Tensor]]
    rounds: int = 9
    tolerance: float = 1e-4
    flops: float | None = None


def largest_error(results: list[Tensor], exact: list[Tensor]) -> float:
    """Return the largest relative error among the tensors of a result."""
    return max(relative_error(a, e) for a, e in zip(results, exact, strict=True))


def run(name: str, case: Case, rounds: int | None = None) -> dict:
    """Check all contenders of a case, then time them in turns.

    Raises:
        ArithmeticError: A contender is wrong.
    """
    exact = case.exact()
    rounds = rounds or case.rounds
    contenders = {key: build() for key, build in case.contenders.items()}
    errors = {key: largest_error(c.result(), exact) for key, c in contenders.items() if c.result}
    for key, error in errors.items():
        if not error < case.tolerance:
            raise ArithmeticError(
                f"{name}: {key} is off by {error:.2g}, more than {case.tolerance:.2g}: "
                "its time means nothing"
            )
    rates: list[float] = []

    def rate() -> None:
        if case.flops is not None:
            rates.append(gemm_rate())

    times = take_turns({key: c.work for key, c in contenders.items()}, rounds, rate)
    return {
        "title": case.title,
        "flops": case.flops,
        "gemm_rate": statistics.median(rates) if rates else None,
        "contenders": {
            key: {
                **spread(times[key]),
                "error": errors.get(key),
                "peak_mib": peak_memory("benchmarks", name, key),
            }
            for key in contenders
        },
    }
