"""Timer, peak memory of a call, and relative error, for all benchmarks."""

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
from pathlib import Path

import torch
from torch import Tensor

SHORTEST = 0.1  # seconds; quicker work is repeated until it lasts this long
SLOW = 5.0  # seconds; slower work is measured twice only


def relative_error(value: Tensor, exact: Tensor) -> float:
    """``|value - exact| / |exact|``, Euclidean norm, in dtype and on device of ``exact``."""
    return ((value.to(exact) - exact).norm() / exact.norm()).item()


def now() -> float:
    """Return the clock in seconds, after the GPU has finished its work."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Measure the mean time of one call."""
    start = now()
    for _ in range(repeats):
        work()
    return (now() - start) / repeats


def take_turns(
    works: Mapping[str, Callable[[], object]],
    rounds: int,
    after_round: Callable[[], object] = lambda: None,
    shortest: float | None = None,
) -> dict[str, list[float]]:
    """Measure seconds of each work in each round; every round has a random order.

    Args:
        works: Functions to time, by name. Each is called once before its first measurement.
        rounds: Measurements of each work; slow work is measured twice only.
        after_round: Called after each round.
        shortest: Least seconds of a measurement, by repetition; None: ``SHORTEST``.
    """
    least = SHORTEST if shortest is None else shortest
    first = {key: seconds(work, 1) for key, work in works.items()}
    slow = {key for key in works if first[key] > SLOW}
    repeats = {
        key: max(1, round(least / (first[key] if key in slow else seconds(work, 1))))
        for key, work in works.items()
    }
    times: dict[str, list[float]] = {key: [] for key in works}
    for turn in range(rounds):
        for key in random.sample(list(works), len(works)):
            if turn < 2 or key not in slow:
                times[key].append(seconds(works[key], repeats[key]))
        after_round()
    return times


def spread(times: list[float]) -> dict[str, float]:
    """Return median, number, smallest and largest of the measurements of a work."""
    return {
        "seconds": statistics.median(times),
        "rounds": len(times),
        "fastest": min(times),
        "slowest": max(times),
    }


def duration(seconds: float) -> str:
    """Format a time with three digits, in s, ms or µs."""
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if seconds * scale >= 0.9995:
            return f"{seconds * scale:#.3g}".rstrip(".") + f" {unit}"
    return f"{seconds * 1e6:#.3g}".rstrip(".") + " µs"


def gemm_rate(
    size: int = 2000, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> float:
    """Measure FLOPs a second of a large matrix product on this machine at this moment."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / seconds(lambda: a @ b, 3)


def peak_memory(module: str, *arguments: str) -> float:
    """Measure peak memory of a call in MiB, in a new process.

    Runs ``python -m module --memory *arguments``, which prints :func:`peak_of` as JSON. Memory
    allocated before the call, such as that of the layer and its input, is not counted.
    """
    command = [sys.executable, "-m", module, "--memory", *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def peak_of(work: Callable[[], object]) -> float:
    """Measure memory in MiB allocated by a call, in the process and on the GPU.

    A first call is not measured, so that libraries' setup does not count.
    """
    work()
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # glibc returns freed memory
        ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    on_gpu = 0.0  # memory of the GPU is not resident
    if torch.cuda.is_initialized():
        on_gpu = gpu_peak(work)
    else:
        work()
    return (resident("VmHWM") - before) / 1024 + on_gpu


def gpu_peak(work: Callable[[], object]) -> float:
    """Measure GPU memory in MiB allocated by a call, which must have run before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def resident(field: str) -> int:
    """Read resident memory in KiB, now (VmRSS) or its peak (VmHWM), from Linux."""
    match = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.M)
    assert match is not None
    return int(match[1])
