"""Isolation of tests from the terminal, the clock, other tests and processes; their options."""

import functools
import gc
import os
import random
from collections.abc import Callable
from pathlib import Path

# The tensors here are small: threads that wait for each other cost more than they give, above all
# where the processors have other work. Read when PyTorch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

import hypothesis
import pytest
import torch

from lmu.ops import rates
from tests import cores, devices

# Its own limits are of wall-clock time.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--device cuda`` runs the conformance tests there, ``--native`` all with that core."""
    parser.addoption(
        "--device", choices=devices.CHOICES, default="cpu",
        help="where the conformance tests in tests/ops run",
    )  # fmt: skip
    parser.addoption(
        "--native", choices=cores.CHOICES, default="auto",
        help="the variant of the compiled core, or off to run without it",
    )  # fmt: skip
    parser.addoption(
        "--sanitize", action="store_true",
        help="build the core so that it checks addresses and arithmetic (make sanitize)",
    )  # fmt: skip


@pytest.fixture
def device() -> torch.device:
    """The device that ``--device`` names."""
    return devices.current


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Text in boxes is not wrapped, however long the paths in it are, and has no colours."""
    devices.choose(str(config.getoption("--device")))
    cores.choose(str(config.getoption("--native")), bool(config.getoption("--sanitize")))
    rates.use(rates.packaged())  # whatever the user's machine was calibrated to
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:  # whose own lines are as wide as the terminal
        writer = config.get_terminal_writer()
        writer.fullwidth = writer.fullwidth
    # Processes that the tests start inherit it.
    os.environ |= {"COLUMNS": "1000", "LINES": "100", "TERMINAL_WIDTH": "1000", "NO_COLOR": "1"}
    for forced in (
        "FORCE_COLOR", "CLICOLOR_FORCE", "PY_COLORS", "GITHUB_ACTIONS", "TTY_COMPATIBLE",
    ):  # fmt: skip
        os.environ.pop(forced, None)


@pytest.fixture
def quick_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training without what takes most of a small run, of which most tests look at nothing.

    No pictures are drawn, and MNIST is unpacked and checked once. Runs that fixtures of modules
    and of the session make come before this, and are whole.
    """
    from lmu.tasks import mnist
    from lmu.training import report

    read = mnist.read_bytes

    def read_once(name: str, path: Path) -> bytes:
        return _unpacked(read, name, path) if path.parent == mnist.CHECKOUT else read(name, path)

    monkeypatch.setattr(mnist, "read_bytes", read_once)
    monkeypatch.setattr(report, "write_figure", lambda path, figure: None)


@functools.cache
def _unpacked(read: Callable[[str, Path], bytes], name: str, path: Path) -> bytes:
    return read(name, path)


def pytest_collection_finish() -> None:
    _leave_out_of_collections()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Numbers that a test draws do not depend on the tests that ran before it."""
    global _path
    if item.path != _path:
        _path = item.path
        _leave_out_of_collections()
    random.seed(0)
    torch.manual_seed(0)


_path = None


def _leave_out_of_collections() -> None:
    """The more modules and tests there are, the longer takes each collection of garbage."""
    gc.collect()
    gc.freeze()
