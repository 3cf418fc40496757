"""The kernels on an ARM processor, emulated: calls made here, run again there (make arm)."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import hatch_build
from lmu.ops import LMU_METHODS, MEMORY_METHODS, READOUT_METHODS, native
from tests import cores
from tests.ops.native import recorded, test_activations, test_gemm, test_odd_sizes
from tests.ops.native.test_odd_sizes import SIZES, native_methods

CC, QEMU, ROOT = "aarch64-linux-gnu-gcc", "qemu-aarch64", "/usr/aarch64-linux-gnu"
HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which(CC) and shutil.which(QEMU)) or platform.machine() != "x86_64",
        reason=f"needs {CC} and {QEMU} (Debian: gcc-aarch64-linux-gnu, qemu-user) on x86_64",
    ),
]
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])


@pytest.fixture(scope="module")
def arm(tmp_path_factory) -> Path:
    """A folder with the core, the kernels for tests, and the program that calls them, for ARM."""
    folder = tmp_path_factory.mktemp("arm")
    compiler = hatch_build.Compiler([CC], hatch_build.architecture_of([CC]))
    assert compiler.architecture == "aarch64"
    c = hatch_build.FOLDER / "c"
    hatch_build.compile_library(folder / "core.so", sorted(c.glob("*.c")), compiler, ["-Werror"])
    checks = [*(HERE / "c").glob("*.c"), *(c / name for name in hatch_build.ONCE)]
    hatch_build.compile_library(folder / "checks.so", checks, compiler, ["-Werror"])
    program = str(HERE / "replay" / "replay.c")
    compiler("-O1", "-Wall", "-Werror", f"-I{c}", program, "-o", str(folder / "replay"), "-ldl")
    return folder


def replay(arm: Path, library: str, calls: list[recorded.Call]) -> None:
    """Run calls on ARM and compare what they write."""
    assert calls
    given, got = arm / "calls", arm / "results"
    given.write_bytes(recorded.encode(calls, "neon"))
    command = [QEMU, "-L", ROOT, arm / "replay", arm / library, given, got]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert recorded.compare(calls, got.read_bytes()) > 0


@dtypes
def test_products_and_activations(arm, checks_library, dtype, monkeypatch):
    # Vectors of the baseline are as long as those of NEON, and so are padded rows.
    with native.use("baseline", library=checks_library):
        recorder = recorded.Recorder(monkeypatch)
        for shape in (
            (m, v, k) for m in test_gemm.ROWS for v in (1, 2, 3, 5, 9) for k in (0, 1, 7)
        ):
            m, vectors, k = shape
            n = vectors * test_gemm.lanes("baseline", dtype)
            test_gemm.check(m, n, k, dtype, transposed=m % 2 == 1, add=k == 1)
        test_gemm.test_rounding_is_that_of_the_precision("baseline", dtype)
        test_gemm.test_pack_pads_rows_to_whole_vectors("baseline", dtype, True)
        for kind in native.ACTIVATION_NUMBERS:
            test_activations.test_relative_error("baseline", dtype, kind)
            test_activations.test_ends_of_the_range("baseline", dtype, kind)
            test_activations.test_slopes("baseline", dtype, kind, 61)
    replay(arm, "checks.so", recorder.calls)


@dtypes
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_kernels_of_the_core(arm, dtype, size, monkeypatch):
    cores.need("baseline")
    with native.use("baseline"):
        recorder = recorded.Recorder(monkeypatch)
        for method in native_methods(LMU_METHODS):
            test_odd_sizes.test_lmu("baseline", dtype, method, size)
        for method in native_methods(MEMORY_METHODS):
            test_odd_sizes.test_memory("baseline", dtype, method, size, True)
        for method in native_methods(READOUT_METHODS):
            test_odd_sizes.test_readout("baseline", dtype, method, size, True)
        for kind in test_odd_sizes.LAYERS:
            test_odd_sizes.test_layers_and_their_steps("baseline", dtype, kind, size)
    if size[0]:
        replay(arm, "core.so", recorder.calls)
