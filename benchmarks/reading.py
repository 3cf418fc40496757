"""Count files and lines, and functions that calls pass: ``python -m benchmarks.reading``.

Files and non-blank lines of each part of the repository; and the functions, calls and files of
``src/lmu`` that a call passes once everything is built and cached. ``PYTHONPATH`` selects the
checkout that is counted; only public names are used, so that other versions can be counted too.
"""

import argparse
import contextlib
import io
import json
import runpy
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

import lmu
from lmu import LMU, LMUFFT, Stream

PACKAGE = Path(lmu.__file__).resolve().parent
ROOT = PACKAGE.parents[1]
PARTS = ("src/lmu", "tests", "benchmarks", "experiments", "docs")
SOURCES = {".py", ".pyi", ".c", ".h", ".md", ".css"}
TRAIN = ("train", "psmnist", "--epochs", "1", "--limit", "400", "--accelerator", "cpu")
Counts = dict[str, Any]


class Profile:
    """Counts the calls of functions of the package while it is started.

    Comprehensions and generator expressions count as part of their function.
    """

    def __init__(self) -> None:
        self.calls: Counter[CodeType] = Counter()

    def start(self) -> None:
        """Start counting."""
        sys.setprofile(self._event)

    def stop(self) -> None:
        """Stop counting."""
        sys.setprofile(None)

    def _event(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        inner = code.co_name.startswith("<") and code.co_name != "<lambda>"
        if event == "call" and not inner and PACKAGE in Path(code.co_filename).parents:
            self.calls[code] += 1

    def counts(self) -> Counts:
        """Return numbers of distinct functions, calls and files, and the names of the files."""
        names = {Path(code.co_filename).relative_to(PACKAGE).as_posix() for code in self.calls}
        return {
            "functions": len(self.calls),
            "calls": self.calls.total(),
            "files": len(names),
            "names": sorted(names),
        }


def passed(work: Callable[[], object]) -> Counts:
    """Count the functions that the second call of a work passes."""
    profile = Profile()
    work()
    profile.start()
    work()
    profile.stop()
    return profile.counts()


def forwards() -> dict[str, Counts]:
    """Count the functions that layers of the papers' sizes pass."""
    x = torch.rand(4, 784, 1)
    lmu, fft = LMU(1, 212, 256, 784), LMUFFT(1, 346, 468, 784, 784)
    last = LMUFFT(1, 346, 468, 784, 784, return_sequences=False)
    streams = {"LMU": Stream(lmu, 4), "LMUFFT": Stream(fft, 4)}
    return {
        "LMUFFT.forward, all outputs": passed(lambda: fft(x)),
        "LMUFFT.forward, last output": passed(lambda: last(x)),
        "LMU.forward": passed(lambda: lmu(x)),
        "Stream step, LMU": passed(lambda: streams["LMU"](x[:, 0])),
        "Stream step, LMUFFT": passed(lambda: streams["LMUFFT"](x[:, 0])),
    }


def batch_of_training() -> Counts:
    """Count the functions of ``lmu train psmnist`` between the optimizer's steps 2 and 3."""
    profile, steps = Profile(), 0

    def before_step(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 2:
            profile.start()
        elif steps == 3:
            profile.stop()

    hook = register_optimizer_step_pre_hook(before_step)
    arguments, output = sys.argv, io.StringIO()
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(output):
            sys.argv = ["lmu", *TRAIN, "--output", folder]
            with contextlib.suppress(SystemExit):
                runpy.run_module("lmu", run_name="__main__", alter_sys=True)
    finally:
        sys.argv = arguments
        hook.remove()
        profile.stop()
    if steps < 3:
        raise RuntimeError(f"lmu {' '.join(TRAIN)} took {steps} steps, not 3: {output.getvalue()}")
    return profile.counts()


def lines(texts: Iterable[bytes]) -> Counts:
    """Count files and lines that are not blank."""
    numbers = [sum(bool(line.strip()) for line in text.splitlines()) for text in texts]
    return {"files": len(numbers), "lines": sum(numbers)}


def sizes() -> dict[str, Counts]:
    """Measure the size of each part of the repository, and of the wheel."""
    counts: dict[str, Counts] = {}
    for part in PARTS:
        paths = [path for path in (ROOT / part).rglob("*") if path.suffix in SOURCES]
        counts[part] = lines(path.read_bytes() for path in paths)
    return counts | {"wheel": wheel()}


def wheel() -> Counts:
    """Measure the size of the package as it is installed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder]
        subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
        (path,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if Path(name).suffix in SOURCES]
            return lines(archive.read(name) for name in names) | {"bytes": path.stat().st_size}


def main() -> None:
    """Count everything, print it, and add it to a file if one is named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reading", description=__doc__)
    parser.add_argument("--output", type=Path, help="JSON file that keeps the counts by name")
    parser.add_argument("--name", default="after", help="name of these counts in the file")
    args = parser.parse_args()
    counts = {"sizes": sizes(), "calls": forwards() | {"lmu train, a batch": batch_of_training()}}
    for part, size in counts["sizes"].items():
        print(f"{part}: {size['files']} files, {size['lines']:,} lines")
    for work, figures in counts["calls"].items():
        counted = ", ".join(f"{figures[key]} {key}" for key in ("files", "functions", "calls"))
        print(f"{work}: {counted}")
    if args.output is not None:
        from lmu._files import write_json

        known = json.loads(args.output.read_text()) if args.output.exists() else {}
        write_json(args.output, known | {args.name: counts})


if __name__ == "__main__":
    main()
