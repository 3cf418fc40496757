"""The package as users install it."""

import ast
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import hatch_build
import lmu
from docs.figures.tables import PAGES, render
from tests import cores, wheels
from tests.wheels import python

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "lmu"

# A module imports from its own room or those to its left. The public names of the package itself
# (__init__) are those of the layers.
ROOMS = (
    "_arguments",
    "_files",
    "_archive",
    "_extras",
    "_json",
    "_machine",
    "theory",
    "ops",
    "layers",
    "__init__",
    "calibrate",
    "distributed",
    "plots",
    "models",
)
ROOMS += ("training", "tasks", "interop", "cli", "__main__")


@pytest.fixture(scope="module", params=[True, False], ids=["core", "pure"])
def core(request) -> bool:
    """Whether a wheel is built with the compiled core."""
    if request.param:
        cores.compiler()
    return request.param


@pytest.fixture(scope="module")
def wheel(core, tmp_path_factory) -> Path:
    return wheels.build_wheel(tmp_path_factory.mktemp("wheel"), core=core)


def test_wheel_holds_the_package_and_nothing_else(wheel, core):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    sources = {p.relative_to(ROOT / "src").as_posix() for p in (ROOT / "src").rglob("*.py")}
    built = {"lmu/ops/native/_build.json", "lmu/ops/rates.json"}
    built |= {"lmu/ops/native/_core.so"} if core else set()
    package = {name for name in names if name.startswith("lmu/")}
    assert package == sources | built | {"lmu/py.typed"}
    others = {name.split("/")[0] for name in names} - {"lmu"}
    assert others == {f"torch_lmu-{lmu.__version__}.dist-info"}


def test_wheels_are_for_any_python_and_with_the_core_for_one_platform(wheel, core):
    tag = hatch_build.platform_tag(cores.compiler().architecture) if core else "any"
    assert wheel.name == f"torch_lmu-{lmu.__version__}-py3-none-{tag}.whl"
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"torch_lmu-{lmu.__version__}.dist-info/WHEEL").decode()
    assert f"Root-Is-Purelib: {str(not core).lower()}" in text


def test_installed_wheel_runs(wheel, core, tmp_path):
    target = tmp_path / "site"
    installed = python("-m", "pip", "install", "--no-deps", "--target", str(target), str(wheel))
    assert installed.returncode == 0, installed.stderr
    environment = {"PYTHONPATH": str(target), "PATH": ""}
    used = python("-c", wheels.use(core, target), cwd=tmp_path, env=environment)
    assert used.returncode == 0, used.stderr
    version = python("-m", "lmu", "--version", cwd=tmp_path, env=environment)
    assert version.stdout == f"torch-lmu {lmu.__version__}\n", version.stderr
    script = shutil.which("lmu", path=target / "bin")
    assert script is not None
    command = subprocess.run(
        [script, "--version"], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert command.stdout == f"torch-lmu {lmu.__version__}\n", command.stderr


def test_a_source_distribution_holds_what_builds_the_core(tmp_path):
    built = python("-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(ROOT))
    assert built.returncode == 0, built.stderr
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {p.relative_to(ROOT).as_posix() for p in (hatch_build.FOLDER / "c").iterdir()}
    assert sources | {"hatch_build.py"} <= names
    assert not [name for name in names if name.endswith(("_core.so", "_build.json"))]


def test_core_needs_torch_only():
    # Whatever the extras bring, and NumPy, cannot be imported here.
    block = """
import sys
for name in ("numpy", "scipy", "lightning", "typer", "rich", "matplotlib", "pooch"):
    sys.modules[name] = None
import warnings
warnings.filterwarnings("ignore", "Failed to initialize NumPy")
"""
    used = python("-c", block + wheels.USE)
    assert used.returncode == 0, used.stderr


def test_importing_the_layers_imports_nothing_that_they_do_not_need():
    code = """
import sys, torch
before = set(sys.modules)
import lmu
new = {name.split(".")[0] for name in set(sys.modules) - before}
unwanted = new & {"triton", "lightning", "matplotlib", "pooch", "rich", "typer"}
assert not unwanted, unwanted
"""
    used = python("-c", code)
    assert used.returncode == 0, used.stderr


def imported_rooms(source: str) -> Iterator[str]:
    """The rooms of the package that a module imports from, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for package, *rest in (name.split(".") for name in names):
            if package == "lmu":
                yield rest[0] if rest and rest[0] in ROOMS else "__init__"


@pytest.mark.parametrize(
    ("source", "rooms"),
    [
        ("import lmu", ["__init__"]),
        ("from lmu import LMU, tasks", ["__init__", "tasks"]),
        ("import lmu.ops.memory.fft, torch", ["ops"]),
        ("def f():\n    from lmu.cli import app", ["cli"]),
        ("import torch\nfrom torch import nn", []),
    ],
)
def test_imports_are_found(source, rooms):
    assert list(imported_rooms(source)) == rooms


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_imports_point_one_way(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    allowed = ROOMS[: ROOMS.index(own) + 1]
    rooms = set(imported_rooms(path.read_text()))
    assert rooms <= set(allowed), f"{own} may import from {', '.join(allowed)}"


def test_the_package_needs_nothing_of_the_repository_around_it():
    outside = {path.parent.name for path in ROOT.glob("*/__init__.py")} | {"tests", "docs"}
    assert {"benchmarks", "experiments"} <= outside
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not outside & {name.split(".")[0] for name in names}, path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_the_committed_results(page):
    text = page.read_text()
    assert render(text) == text
