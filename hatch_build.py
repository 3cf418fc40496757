"""Builds the compiled core: ``python hatch_build.py`` in place, and as a hook of hatchling.

Where there is no C compiler, the wheel is pure and the package runs on PyTorch's operations alone.
Either way a record, ``_build.json``, goes beside the library, for ``lmu.native_status()``.
"""

import argparse
import hashlib
import json
import os
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a command, by a Python without hatchling
    BuildHookInterface = object

FOLDER = Path(__file__).resolve().parent / "src/lmu/ops/native"
LIBRARY, RECORD = "_core.so", "_build.json"
ONCE = ("machine.c", "parallel.c")  # the rest is compiled for each variant and precision
FLAGS = ["-O3", "-std=gnu11", "-ffp-contract=fast", "-fno-math-errno", "-fvisibility=hidden"]
WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-function"]
SANITIZE = ["-g", "-O0", "-w", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
AVX512 = "-mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mprefer-vector-width=512"
VARIANTS = {  # of each architecture, best first: bytes of a vector, and flags
    "x86_64": {"avx512": (64, AVX512), "avx2": (32, "-mavx2 -mfma"), "baseline": (16, "")},
    "aarch64": {"neon": (16, "")},
    "other": {"baseline": (16, "")},
}
PRECISIONS = {"f32": ["-DREAL=float"], "f64": ["-DREAL=double", "-DREAL_IS_DOUBLE"]}
MACOS = "11.0"  # the oldest that a wheel is built for, unless MACOSX_DEPLOYMENT_TARGET says another


class BuildError(Exception):
    """The core cannot be built here; the message says why."""


class Compiler(NamedTuple):
    """A C compiler with the flags that all its calls get, and the processor it compiles for."""

    command: list[str]
    architecture: str

    def __call__(self, *arguments: str) -> None:
        """Run it once; its warnings go to the terminal."""
        command = [*self.command, *arguments]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace")
        sys.stderr.write(done.stderr)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line]
            first = lines[0] if lines else f"exit status {done.returncode}"
            raise BuildError(f"{self.command[0]} failed: {first}")


def find_compiler() -> Compiler:
    """Return the compiler that ``CC`` names, or the first that is there, with ``CFLAGS``."""
    windows = sys.platform == "win32"
    names = ["clang"] if windows else ["cc", "gcc", "clang"]
    if os.environ.get("CC"):
        command = shlex.split(os.environ["CC"], posix=not windows)
        if shutil.which(command[0]) is None:
            raise BuildError(f"no C compiler was found (CC is {os.environ['CC']!r})")
        if windows and Path(command[0]).stem.lower() in {"cl", "clang-cl"}:
            raise BuildError("CC must be clang: cl has no vectors, and clang-cl has other options")
    else:
        there = [name for name in names if shutil.which(name)]
        if not there:
            raise BuildError(f"no C compiler was found (looked for {', '.join(names)})")
        command = there[:1]
    flags = shlex.split(os.environ.get("CFLAGS", ""))
    if sys.platform == "darwin":
        flags += shlex.split(os.environ.get("ARCHFLAGS", "")) or []
        flags.append(f"-mmacosx-version-min={deployment_target()}")
    return Compiler([*command, *flags], architecture_of([*command, *flags]))


def architecture_of(command: list[str]) -> str:
    """Return the processor that a compiler compiles for: x86_64, aarch64, or another."""
    named = [name for flag, name in pairwise(command) if flag == "-arch"]
    if len(set(named)) > 1:
        raise BuildError(f"one library is for one processor, but ARCHFLAGS names {named}")
    try:
        target = named or subprocess.run(
            [*command, "-dumpmachine"], capture_output=True, text=True, check=True
        ).stdout.split("-")
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"{command[0]} does not say what it compiles for: {error}") from None
    return architecture(target[0].strip())


def architecture(name: str) -> str:
    """Return a processor's name as this file has it: x86_64, aarch64, or another."""
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name.lower(), name.lower())


def variants_of(architecture: str) -> dict[str, tuple[int, str]]:
    """Return the variants of a processor's kind, best first."""
    return VARIANTS.get(architecture, VARIANTS["other"])


def deployment_target() -> str:
    """Return the oldest macOS that the library runs on."""
    return os.environ.get("MACOSX_DEPLOYMENT_TARGET", MACOS)


def compile_library(
    target: Path,
    sources: Iterable[Path],
    compiler: Compiler,
    extra: Iterable[str] = (),
) -> None:
    """Compile C files for every variant and precision, and link them to one shared library.

    Args:
        target: The library, which is replaced whole.
        sources: C files; those named in ``ONCE`` are compiled once.
        compiler: From ``find_compiler``.
        extra: More flags for compiler and linker.
    """
    variants = variants_of(compiler.architecture)
    windows = sys.platform == "win32"
    common = [*FLAGS, *WARNINGS, *([] if windows else ["-fPIC"]), *extra, f"-I{FOLDER / 'c'}"]
    with tempfile.TemporaryDirectory() as folder:
        commands: list[list[str]] = []

        def add(source: Path, suffix: str, *flags: str) -> None:
            output = Path(folder, f"{len(commands)}_{source.stem}{suffix}.o")
            commands.append([*common, *flags, "-c", str(source), "-o", str(output)])

        for source in sources:
            if source.name in ONCE:
                add(source, "", *_facts(variants, source.parent))
                continue
            for variant, (size, instructions) in variants.items():
                for precision, real in PRECISIONS.items():
                    suffix = f"{precision}_{variant}"
                    kind = [f"-DSUFFIX={suffix}", f"-DVECTOR_BYTES={size}", *instructions.split()]
                    add(source, "_" + suffix, *real, *kind)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda command: compiler(*command), commands))
        objects = [command[-1] for command in commands]
        linked = Path(folder, "linked.so")
        flags = shlex.split(os.environ.get("LDFLAGS", "")) + ([] if windows else ["-lm"])
        compiler("-shared", *extra, *objects, "-o", str(linked), *flags)
        _replace(target, linked.read_bytes())


def _facts(variants: Iterable[str], folder: Path) -> list[str]:
    return [f'-DLMU_VARIANTS="{" ".join(variants)}"', f'-DLMU_SOURCES="{_digest(folder)}"']


def _digest(folder: Path) -> str:
    return runpy.run_path(str(FOLDER / "_sources.py"))["digest"](folder)


def _replace(target: Path, content: bytes) -> None:
    temporary = target.with_name(f"{target.name}.{os.getpid()}.new")
    temporary.write_bytes(content)
    try:
        temporary.replace(target)
    except PermissionError as error:  # Windows keeps libraries that are in use
        temporary.unlink()
        raise BuildError(f"{target} cannot be replaced, close what uses it: {error}") from None


def build(folder: Path = FOLDER, extra: Iterable[str] = ()) -> dict[str, Any]:
    """Build the core into a folder and return the record that is written beside it.

    A library in this checkout that the same compiler built from the same sources is taken as it is.
    """
    try:
        compiler = find_compiler()
        record = {"built": True, "architecture": compiler.architecture}
        record["variants"] = list(variants_of(compiler.architecture))
        record["key"] = _key(compiler, extra)
        if not _is_in_place(record):
            sources = sorted((FOLDER / "c").glob("*.c"))
            compile_library(folder / LIBRARY, sources, compiler, extra)
        elif folder != FOLDER:
            _replace(folder / LIBRARY, (FOLDER / LIBRARY).read_bytes())
    except BuildError as error:
        (folder / LIBRARY).unlink(missing_ok=True)
        record = {"built": False, "reason": str(error)}
    _replace(folder / RECORD, json.dumps(record).encode() + b"\n")
    return record


def _key(compiler: Compiler, extra: Iterable[str]) -> str:
    """Return a number of all that a library depends on."""
    version = subprocess.run([*compiler.command, "--version"], capture_output=True).stdout
    flags = [*compiler.command, os.environ.get("LDFLAGS", ""), *extra, _digest(FOLDER / "c")]
    text = Path(__file__).read_bytes() + version + "\n".join(flags).encode()
    return hashlib.sha256(text).hexdigest()[:16]


def _is_in_place(record: dict[str, Any]) -> bool:
    try:
        return (FOLDER / LIBRARY).exists() and json.loads((FOLDER / RECORD).read_text()) == record
    except (OSError, ValueError):
        return False


def platform_tag(architecture: str) -> str:
    """Return the platform of a wheel that holds a library for this processor."""
    if sys.platform == "darwin":
        name = {"aarch64": "arm64"}.get(architecture, architecture)
        return f"macosx_{deployment_target().replace('.', '_')}_{name}"
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


class CoreHook(BuildHookInterface):  # pyright: ignore[reportGeneralTypeIssues]
    """Puts the core into the wheel, which then is for one platform and any Python 3."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the core, in place for an editable installation."""
        if version == "editable":
            say(build())
            return
        self.folder = tempfile.TemporaryDirectory()
        record = build(Path(self.folder.name))
        say(record)
        if record["built"]:
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform_tag(record['architecture'])}"
        for path in Path(self.folder.name).iterdir():
            build_data["force_include"][str(path)] = f"lmu/ops/native/{path.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was built for the wheel."""
        if version != "editable":
            self.folder.cleanup()


def say(record: dict[str, Any]) -> None:
    """Print how a build went, where it does not disturb what reads the output."""
    built = record["built"]
    result = f"built for {', '.join(record['variants'])}" if built else "left out: "
    print("compiled core", result + record.get("reason", ""), file=sys.stderr)


def main() -> int:
    """Build the core as a command; 1 if it cannot be."""
    parser = argparse.ArgumentParser(description="Build the compiled core.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the library goes")
    parser.add_argument("--sanitize", action="store_true", help="check addresses and arithmetic")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    record = build(options.folder, SANITIZE if options.sanitize else ())
    say(record)
    return 0 if record["built"] else 1


if __name__ == "__main__":
    sys.exit(main())
