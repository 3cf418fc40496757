"""The core's shared library: how it is found, whether it fits its sources, what it offers here."""

import ctypes
import json
from pathlib import Path
from typing import Any, NamedTuple

from lmu.ops.native._sources import SOURCES, digest

FOLDER = Path(__file__).parent
PATH = FOLDER / "_core.so"  # so named on every system: ctypes looks at no suffix
RECORD = FOLDER / "_build.json"  # of hatch_build.py
HOW = "run python hatch_build.py in a clone, or install a wheel for this platform"


class Library(NamedTuple):
    """A loaded library, or the reason why there is none."""

    path: Path
    c: Any  # the ctypes.CDLL, None if it was not loaded
    variants: tuple[str, ...]  # those that this processor can run, best first
    reason: str


def open_library(path: Path = PATH) -> Library:
    """Load the core. That of the package must be built from the sources beside it, if any."""
    if not path.exists():
        return Library(path, None, (), _why_missing())
    try:
        library: Any = ctypes.CDLL(str(path))
        _declare(library)
    except (OSError, AttributeError) as error:
        return Library(path, None, (), f"it cannot be loaded: {error}")
    if SOURCES.exists() and library.lmu_sources().decode() != digest():
        return Library(path, None, (), "it was built from other sources: run python hatch_build.py")
    names = library.lmu_variants().decode().split()
    runnable = tuple(name for name in names if library.lmu_supports(name.encode()))
    return Library(path, library, runnable, "")


def _why_missing() -> str:
    try:
        return f"built without: {json.loads(RECORD.read_text(encoding='utf-8'))['reason']}; {HOW}"
    except (OSError, ValueError, KeyError):
        return f"it was not built: {HOW}"


def _declare(library: Any) -> None:
    """State the types of what parallel.h and machine.c export."""
    library.lmu_variants.restype = library.lmu_sources.restype = ctypes.c_char_p
    library.lmu_supports.argtypes = [ctypes.c_char_p]
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.lmu_run.argtypes = [pointer, pointer, number, number, pointer, pointer]
    library.lmu_work.argtypes = [pointer]
    library.lmu_repeat.argtypes = [pointer, pointer, pointer]
    library.lmu_work.restype = None
