"""Rates that were measured on this machine: their file in the user's cache folder."""

import math
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from lmu._files import read_json, write_json
from lmu._machine import processor
from lmu.ops import native

AGAIN = "run python -m lmu.calibrate again, or python -m lmu.calibrate --reset to remove it"


def path() -> Path:
    """Return the file, in the operating system's place for caches."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "torch-lmu" / "rates.json"


def here() -> dict[str, Any]:
    """Return what rates depend on besides the number of threads."""
    return {"cpu": processor(), "torch": torch.__version__, "core": native.native_status().variant}


def read() -> list[dict[str, Any]]:
    """Return the tables in the file, none if there is none.

    Raises:
        ValueError: It is damaged, or was measured on another machine or version.
    """
    file = path()
    if not file.exists():
        return []
    content = read_json(file)
    try:
        made, tables = dict(content["machine"]), [_checked(t) for t in content["tables"]]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{file} is damaged: {AGAIN}") from error
    now = here()
    if other := [f"{k} {made.get(k)}, now {now[k]}" for k in now if made.get(k) != now[k]]:
        raise ValueError(f"{file} was measured with {'; '.join(other)}: {AGAIN}")
    return [table | {"file": str(file)} for table in tables]


def read_or_warn() -> list[dict[str, Any]]:
    """Return the tables in the file, or none and a warning where it does not fit."""
    try:
        return read()
    except ValueError as error:
        warnings.warn(f"methods are chosen by the package's costs: {error}", stacklevel=2)
        return []


def write(table: dict[str, Any]) -> Path:
    """Add a table to the file, in the place of one of the same conditions."""
    try:
        before = read()
    except ValueError:
        before = []
    kept = [
        {k: v for k, v in t.items() if k != "file"}
        for t in before
        if (t["device"], t["threads"], t["core"])
        != (table["device"], table["threads"], table["core"])
    ]
    write_json(path(), {"machine": here(), "tables": [*kept, table]})
    return path()


def reset() -> bool:
    """Remove the file; False if there was none."""
    there = path().exists()
    path().unlink(missing_ok=True)
    return there


def _checked(table: dict[str, Any]) -> dict[str, Any]:
    """Return a table that can be used.

    Raises:
        ValueError: A part is of the wrong type, or a rate is no number from zero on.
    """
    fits = isinstance(table["device"], str) and type(table["threads"]) is int
    fits = fits and type(table["core"]) is bool and isinstance(table["source"]["date"], str)
    for methods in table["rates"].values():
        for terms in methods.values():
            for rate in terms.values():
                fits = fits and isinstance(rate, float) and math.isfinite(rate) and rate >= 0
    if not fits:
        raise ValueError("not a table of rates")
    return table
