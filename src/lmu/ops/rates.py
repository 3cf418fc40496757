"""Seconds that a unit of each term of a method's time takes: fitted tables, and what is typical.

``rates.json`` beside this file is written by ``python -m benchmarks.cost_model`` from measured
times: a table for each kind of device, number of threads, and with and without the compiled core.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

FITTED = Path(__file__).with_name("rates.json")

# What a unit takes on a common processor, for methods that nobody has measured yet.
TYPICAL: dict[str, float] = {
    "calls": 4e-6,  # a PyTorch operation or a kernel's start, with its share of autograd
    "blocks": 3e-5,  # a block of time of the nonlinear layer
    "preparation": 1.5e-11,  # FLOPs of matrices made once for all steps
    "steps": 1e-6,  # a step of a sequential loop within a kernel
    "flops": 1e-11,  # of matrix products
    "transforms": 1e-10,  # FLOPs of Fourier transforms, 2.5 n log2 n for a real one of n numbers
    "bytes": 1e-10,  # read or written, in the cache
    "far_bytes": 2e-10,  # read or written beyond the cache, on top of "bytes"
    "new_bytes": 3e-10,  # of memory that the system hands out page by page
    "memory": 1.0,  # estimated seconds of the memory's states
}

Rates = Mapping[str, float]


@lru_cache(maxsize=256)
def rates(family: str, name: str, device: str, threads: int, core: bool) -> Rates:
    """Seconds of a unit of each term, of a method.

    A number of threads that was not measured is estimated from one and two threads: each term has
    a serial part and one that is shared out.
    """
    return TYPICAL | _fitted(family, name, device, threads, core)


def _fitted(family: str, name: str, device: str, threads: int, core: bool) -> dict[str, float]:
    found = _tables(device, core)
    of = {t["threads"]: t["rates"].get(family, {}).get(name) for t in found}
    of = {number: table for number, table in of.items() if table}
    if not of:
        return {}
    if threads in of:
        return of[threads]
    if 1 in of and 2 in of and threads > 2:
        return {term: _amdahl(of[1][term], of[2].get(term, 0.0), threads) for term in of[1]}
    return of[max((n for n in of if n <= threads), default=min(of))]


def _tables(device: str, core: bool) -> list[dict[str, Any]]:
    tables = read(FITTED)["tables"] if FITTED.exists() else []
    here = [t for t in tables if t["device"] == device] or [
        t for t in tables if t["device"] == "cpu"
    ]
    return [t for t in here if t["core"] is core] or here


def _amdahl(one: float, two: float, threads: int) -> float:
    """Seconds of ``threads`` threads, from those of one and two."""
    shared = min(max(0.0, 2 * (one - two)), one)
    return max(two, one - shared) if not shared else one - shared + shared / threads


@lru_cache(maxsize=4)
def read(path: Path) -> dict[str, Any]:
    """Read a file of rates."""
    return json.loads(path.read_text(encoding="utf-8"))
