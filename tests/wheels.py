"""Wheels with and without the compiled core, as users install them: ``make wheel-check``."""

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent

USE = """
import torch
import lmu
import lmu.interop.ports
from lmu import LMU, LMUCell, LMUFFT
x = torch.zeros(2, 5, 1)
assert LMU(1, 4, 3, 5)(x)[0].shape == LMUFFT(1, 4, 3, 5, 5)(x)[0].shape == (2, 5, 4)
assert LMUCell(1, 4, 3, 5)(x[:, 0])[0].shape == (2, 4)
"""

# Every method of the core, by name.
NATIVE = """
from lmu.ops import LMU_METHODS, MEMORY_METHODS, READOUT_METHODS, native

def native_layers():
    for method in LMU_METHODS:
        yield method, lambda m=method: LMU(1, 4, 3, 5, method=m)(x)
    for method in READOUT_METHODS:
        yield method, lambda m=method: LMUFFT(1, 4, 3, theta=5, method=m)(x)
    for method, row in MEMORY_METHODS.items():
        if row.all_states:
            yield method, lambda m=method: lmu.LegendreMemory(3, 5, method=m)(x)

layers = [run for method, run in native_layers() if method.startswith("native")]
"""

WITH_CORE = """
status = lmu.native_status()
assert status.available and status.path.is_relative_to(SITE), status
for run in [native.require, *layers]:
    run()
"""

WITHOUT_CORE = """
status = lmu.native_status()
assert not status.available
assert status.reason.startswith("built without: no C compiler was found (CC is"), status
for run in [native.require, *layers]:
    try:
        run()
    except ValueError as error:
        assert "no C compiler was found" in str(error), error
    else:
        raise AssertionError("a method of the core ran without it")
"""


def use(core: bool, site: Path) -> str:
    """A program that uses an installed wheel, which must be in this folder."""
    where = f"SITE = {str(site)!r}\n"
    there = "assert lmu.__file__.startswith(SITE), lmu.__file__\n"
    return where + USE + there + NATIVE + (WITH_CORE if core else WITHOUT_CORE)


def build_wheel(folder: Path, *, core: bool) -> Path:
    """Build a wheel in a folder; without the core as where there is no compiler."""
    environment = {**os.environ, **({} if core else {"CC": "no-such-compiler"})}
    command = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = python(*command, env=environment)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


def python(*arguments: str, **kwargs) -> subprocess.CompletedProcess[str]:
    """Run this Python with captured output."""
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, **kwargs
    )


def check(core: bool, folder: Path) -> None:
    """Build a wheel, install it with this version of PyTorch alone, and use it without a PATH."""
    wheel = build_wheel(folder / "dist", core=core)
    print(wheel.name, flush=True)
    venv.create(folder / "venv", with_pip=True)
    executable = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    version = torch.__version__.split("+")[0]
    install = ["-m", "pip", "install", "--quiet", str(wheel), f"torch=={version}"]
    subprocess.run([executable, *install], check=True)
    program = use(core, folder / "venv") + "print(status)"
    subprocess.run([executable, "-c", program], check=True, cwd=folder, env={"PATH": ""})


if __name__ == "__main__":
    for core in (True, False):
        with tempfile.TemporaryDirectory() as name:
            check(core, Path(name).resolve())
