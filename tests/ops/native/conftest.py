"""The variants of the core, and a library of kernels for tests alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import hatch_build
from lmu.ops import native
from tests import cores

HERE = Path(__file__).parent


@pytest.fixture(params=cores.VARIANTS)
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each variant of the core that this machine can run, in use."""
    cores.need(request.param)
    with native.use(request.param):
        yield request.param


@pytest.fixture(params=[torch.float32, torch.float64], ids=["f32", "f64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(scope="session")
def checks_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels in ``c/`` of this folder, built as the core is."""
    path = tmp_path_factory.mktemp("checks") / "checks.so"
    sources = [*(HERE / "c").glob("*.c"), *(hatch_build.FOLDER / "c" / n for n in hatch_build.ONCE)]
    hatch_build.compile_library(path, sources, cores.compiler(), cores.flags)
    return path


@pytest.fixture(params=cores.VARIANTS)
def checks(request: pytest.FixtureRequest, checks_library: Path) -> Iterator[str]:
    """Each variant of the kernels for tests, in place of the core's."""
    with native.use("auto", library=checks_library):
        cores.need(request.param)
        native.use(request.param)
        yield request.param
