"""Interleaved timing with a correctness gate: who is wrong is not timed."""

import contextlib
import ctypes
import gc
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

SHORTEST = 0.1  # seconds: quicker work is repeated to last so long before the clock is read
SLOW = 5.0  # seconds: slower work is measured twice only


@dataclass(frozen=True)
class Contender:
    """One way to do a case's work: ``work`` is timed, ``result`` is what it must get right."""

    work: Callable[[], object]
    result: Callable[[], list[Tensor]] | None = None  # None: another function, nothing to compare


@dataclass(frozen=True)
class Case:
    """A piece of work and those who do it.

    ``contenders`` maps names to functions that build a contender, the first being ours. ``exact``
    computes what they should get, in float64.
    """

    title: str
    contenders: Mapping[str, Callable[[], Contender]]
    exact: Callable[[], list[Tensor]]
    rounds: int = 9
    tolerance: float = 1e-4
    flops: float | None = None  # of one call, as the equations need them


def error(got: list[Tensor], exact: list[Tensor]) -> float:
    """The largest relative error among the results, in the Euclidean norm."""
    pairs = zip(got, exact, strict=True)
    return max(((a.to(e) - e).norm() / e.norm()).item() for a, e in pairs)


def now() -> float:
    """The clock in seconds, once the card has done what it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Mean time of one call."""
    start = now()
    for _ in range(repeats):
        work()
    return (now() - start) / repeats


def _repeats(work: Callable[[], object], warm_up: float, shortest: float) -> int:
    return max(1, round(shortest / (warm_up if warm_up > SLOW else seconds(work, 1))))


def take_turns(
    works: Mapping[str, Callable[[], object]],
    rounds: int,
    after_round: Callable[[], object] = lambda: None,
    shortest: float | None = None,
) -> dict[str, list[float]]:
    """Seconds of each work in each round; a round has an order of its own, drawn by chance."""
    warm_up = {key: seconds(work, 1) for key, work in works.items()}
    least = SHORTEST if shortest is None else shortest
    repeats = {key: _repeats(work, warm_up[key], least) for key, work in works.items()}
    times: dict[str, list[float]] = {key: [] for key in works}
    for turn in range(rounds):
        for key in random.sample(list(works), len(works)):
            if turn < 2 or warm_up[key] <= SLOW:
                times[key].append(seconds(works[key], repeats[key]))
        after_round()
    return times


def spread(times: list[float]) -> dict[str, float]:
    """The figures that stand for several measurements of a work."""
    return {
        "seconds": statistics.median(times),
        "rounds": len(times),
        "fastest": min(times),
        "slowest": max(times),
    }


def gemm_rate(
    size: int = 2000, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> float:
    """FLOPs a second of a large matrix product: what this machine can reach, now."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / seconds(lambda: a @ b, 3)


def run(name: str, case: Case, rounds: int | None = None) -> dict:
    """Check all contenders of a case, then time them in turns, in an order drawn each round."""
    exact = case.exact()
    rounds = rounds or case.rounds
    contenders = {key: build() for key, build in case.contenders.items()}
    errors = {key: error(c.result(), exact) for key, c in contenders.items() if c.result}
    for key, off in errors.items():
        if not off < case.tolerance:
            raise ArithmeticError(
                f"{name}: {key} is off by {off:.2g}, more than {case.tolerance:.2g}: "
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
                "peak_mib": peak_memory(name, key),
            }
            for key in contenders
        },
    }


def peak_memory(name: str, contender: str) -> float:
    """Memory in MiB that a call needs at the most, in a process of its own.

    What stood there before, the layer, its input and the gradient of its output, does not count.
    """
    command = [sys.executable, "-m", "benchmarks.harness", name, contender]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def _measure_memory(case: Case, contender: str) -> float:
    return peak_of(case.contenders[contender]().work)


def peak_of(work: Callable[[], object]) -> float:
    """How much memory, in MiB, is taken while something runs: of the process and of the card.

    It has run before, so that what libraries load and set up once does not count.
    """
    work()
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # glibc gives back what was freed
        ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    of_card = 0.0  # whose memory is not resident
    if torch.cuda.is_initialized():
        of_card = card_peak(work)
    else:
        work()
    return (resident("VmHWM") - before) / 1024 + of_card


def card_peak(work: Callable[[], object]) -> float:
    """How much of the card's memory, in MiB, is taken while something runs; it has run before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def resident(field: str) -> int:
    """Resident memory in KiB, now (VmRSS) or at the most (VmHWM), as Linux counts it."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.M)
    assert found is not None
    return int(found[1])


if __name__ == "__main__":
    from benchmarks.cases import CASES

    torch.manual_seed(0)
    print(json.dumps(_measure_memory(CASES[sys.argv[1]], sys.argv[2])))
