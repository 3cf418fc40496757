"""Seconds that a unit of each term of a method's time takes: fitted tables, and what is typical.

``rates.json`` beside this file is written by ``python -m benchmarks.rates`` from measured times: a
table for each kind of device, number of threads, and with and without the compiled core. Tables
that ``python -m lmu.calibrate`` has measured on this machine come before them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from lmu.ops import calibration

FITTED = Path(__file__).with_name("rates.json")

# What a unit takes on a common processor, for methods that nobody has measured yet.
TYPICAL: dict[str, float] = {
    "calls": 4e-6,  # a PyTorch operation or a kernel's start, with its share of autograd
    "loops": 4e-5,  # a turn of a loop over sequences or chunks, of several operations
    "blocks": 3e-5,  # a block of time of the nonlinear layer
    "preparation": 1.5e-11,  # FLOPs of matrices made once for all steps
    "steps": 1e-6,  # a step of a sequential loop
    "meetings": 3e-7,  # of threads, once a step
    "flops": 1e-11,  # of matrix products
    "transforms": 1e-10,  # FLOPs of Fourier transforms, 2.5 n log2 n for a real one of n numbers
    "far_transforms": 3e-11,  # of those, for each doubling of a sequence's beyond a mebibyte
    "matrices": 2e-11,  # bytes of matrices that a kernel reads again at each step
    "bytes": 1e-10,  # read or written, in the cache
    "far_bytes": 2e-10,  # read or written beyond the cache, on top of "bytes"
    "new_bytes": 3e-10,  # of memory that the system hands out page by page
    "memory": 1.0,  # estimated seconds of the memory's states
}

Rates = Mapping[str, float]
Table = dict[str, Any]  # of one device, number of threads, and with or without the core

_tables: list[Table] | None = None  # None until they are needed
_version = 0


def version() -> int:
    """Return a number that changes with the tables in use, so that no old choice is kept."""
    return _version


@lru_cache(maxsize=256)
def rates(family: str, name: str, device: str, threads: int, core: bool, version: int) -> Rates:
    """Seconds of a unit of each term, of a method, by the tables of this version.

    A number of threads that was not measured is estimated from one and two threads: each term has
    a serial part and one that is shared out.
    """
    del version
    return TYPICAL | _fitted(family, name, device, threads, core)


def source(device: str, threads: int, core: bool) -> str:
    """Say in words where the rates come from."""
    found = [t for t in _closest(device, core) if t["threads"] == threads]
    for table in found:
        if where := table.get("file"):
            return f"costs measured on this machine {table['source']['date']}, file {where}"
    tables = found or _closest(device, core)
    if not tables:
        return "costs estimated"
    return f"costs fitted on {tables[0]['source']['cpu']}"


def packaged() -> list[Table]:
    """Return the tables that come with the package."""
    return json.loads(FITTED.read_text(encoding="utf-8"))["tables"] if FITTED.exists() else []


def tables() -> list[Table]:
    """Return the tables in use: at first those measured on this machine and the package's."""
    global _tables
    if _tables is None:
        _tables = [*calibration.read_or_warn(), *packaged()]
    return _tables


def use(tables: Sequence[Table] | None) -> None:
    """Use other tables from now on; None for those that are found at first."""
    global _tables, _version
    _tables, _version = None if tables is None else list(tables), _version + 1


@contextmanager
def using(tables: Sequence[Table]) -> Iterator[None]:
    """Use other tables in a block."""
    before = _tables
    use(tables)
    try:
        yield
    finally:
        use(before)


def _fitted(family: str, name: str, device: str, threads: int, core: bool) -> dict[str, float]:
    of: dict[int, dict[str, float]] = {}
    for table in _closest(device, core):  # the first of those with as many threads
        if found := table["rates"].get(family, {}).get(name):
            of.setdefault(table["threads"], found)
    if not of:
        return {}
    if threads in of:
        return of[threads]
    if 1 in of and 2 in of and threads > 2:
        return {term: _amdahl(of[1][term], of[2].get(term, 0.0), threads) for term in of[1]}
    return of[max((n for n in of if n <= threads), default=min(of))]


def _closest(device: str, core: bool) -> list[Table]:
    """Tables of the device, or else the CPU's; with the core as it is, if there are any."""
    here = [t for t in tables() if t["device"] == device]
    here = here or [t for t in tables() if t["device"] == "cpu"]
    return [t for t in here if t["core"] is core] or here


def _amdahl(one: float, two: float, threads: int) -> float:
    """Seconds with ``threads`` threads, from those with one and two."""
    shared = min(max(0.0, 2 * (one - two)), one)
    return one - shared + shared / threads if shared else two
