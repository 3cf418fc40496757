"""The compiled core of the tests, which ``pytest --native`` and ``--sanitize`` choose."""

import platform
import tempfile
from pathlib import Path
from typing import Any

import pytest

import hatch_build
from lmu.ops import native

VARIANTS = hatch_build.variants_of(hatch_build.architecture(platform.machine()))
CHOICES = ("auto", "off", *VARIANTS)
flags: list[str] = []  # of all libraries that the tests build

_folder: tempfile.TemporaryDirectory[str]  # of the sanitized library, which it outlives


def choose(name: str, sanitize: bool) -> None:
    """Run the tests with a variant of the core, or without it, or with sanitizers."""
    global _folder
    library = None
    if sanitize:
        flags.extend(hatch_build.SANITIZE)
        _folder = tempfile.TemporaryDirectory()
        record = hatch_build.build(Path(_folder.name), flags)
        if not record["built"]:
            raise pytest.UsageError(f"--sanitize: {record['reason']}")
        library = Path(_folder.name, hatch_build.LIBRARY)
    try:
        native.use(None if name == "off" else name, library=library)
    except ValueError as error:
        raise pytest.UsageError(f"--native {name}: {error}") from None


def need(variant: str | None = None) -> None:
    """Skip a test where the core, or one of its variants, is not there."""
    status = native.native_status()
    if not status.available:
        pytest.skip(f"the compiled core is not available: {status.reason}")
    if variant is not None and variant not in native.variants():
        pytest.skip(f"the compiled core has no variant {variant!r} here")


def param(method: str) -> Any:
    """A method as a parameter of a test, which is skipped where its kernels are not there."""
    missing = "native" in method and not native.native_status().available
    return pytest.param(method, marks=pytest.mark.skipif(missing, reason="needs the compiled core"))


def compiler() -> hatch_build.Compiler:
    """The C compiler; skips a test where there is none."""
    try:
        return hatch_build.find_compiler()
    except hatch_build.BuildError as error:
        pytest.skip(str(error))
