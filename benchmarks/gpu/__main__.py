"""Check, time and compare everything on a GPU: ``python -m benchmarks.gpu``.

Each section writes its JSON when it is done; summary.md beside them has all as tables.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.gpu import (
    ceilings,
    choice,
    compiled,
    correctness,
    layers,
    length,
    others,
    psmnist,
    summary,
)
from benchmarks.gpu.session import Session, describe
from benchmarks.machine import machine, results_folder
from lmu._files import write_whole


@dataclass(frozen=True)
class Section:
    """A function that measures, and the seconds after which it starts no more measurements."""

    measure: Callable[[Session], None]
    budget: float


SECTIONS = {
    "ceilings": Section(ceilings.measure, 20),
    "correctness": Section(correctness.measure, 300),
    "layers": Section(layers.measure, 150),
    "compiled": Section(compiled.measure, 60),
    "choice": Section(choice.measure, 80),
    "length": Section(length.measure, 60),
    "psmnist": Section(psmnist.measure, 60),
    "peers": Section(others.measure, 10),
}


def main() -> None:
    """Run the named sections; the exit status is 1 if a result was wrong or a section failed."""
    args = arguments()
    device = torch.device(args.device)
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    where = machine(device)
    folder = args.output or results_folder(where)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"device": where.get("gpu", {}).get("name", "cpu"), "quick": args.quick}
    refuse_mixture(folder, settings)
    faults = []
    for name in args.sections:
        faults += run(name, device, folder, args.rounds, where, settings)
        path = folder / "summary.md"
        write_whole(path, summary.render(folder, list(SECTIONS)).encode())
    print(f"\n{(folder / 'summary.md').read_text()}")
    for fault in faults:
        print(f"FAULT {fault}", file=sys.stderr)
    sys.exit(1 if faults else 0)


def arguments() -> argparse.Namespace:
    """Parse and check the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument(
        "--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), metavar="SECTION",
        help=f"of {', '.join(SECTIONS)}; all if none is named",
    )  # fmt: skip
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to try it")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: to try it, not results")
    parser.add_argument("--output", type=Path, help="folder; benchmarks/results/<gpu>")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each contender")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {args.rounds}")
    kind = args.device.partition(":")[0]
    if kind not in {"cuda", "cpu"}:
        parser.error(f"--device must be cuda, cuda:N or cpu, got {args.device}")
    if kind == "cuda" and not torch.cuda.is_available():
        parser.error(
            "PyTorch finds no CUDA device; to try the script without one, pass "
            "--device cpu --quick --output FOLDER"
        )
    if args.output is None and (args.quick or kind == "cpu"):
        parser.error("--quick and --device cpu need --output: figures must not replace results")
    return args


def refuse_mixture(folder: Path, settings: dict) -> None:
    """Exit if the folder holds results of another device, or of other sizes."""
    for path in sorted(folder.glob("gpu-*.json")):
        stored = json.loads(path.read_text())["settings"]
        if {key: stored[key] for key in settings} != settings:
            sys.exit(
                f"{path} holds results of {stored}, not of {settings}: choose another --output"
            )


def run(
    name: str, device: torch.device, folder: Path, rounds: int, where: dict, settings: dict
) -> list[str]:
    """Run a section and write its results, partial ones too if it fails; return its faults."""
    section, start = SECTIONS[name], time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - start:4.0f} s] {line.strip()}", flush=True)

    print(f"{name}: nothing more is begun after {section.budget:g} s", flush=True)
    s = Session(device, settings["quick"], rounds, start + section.budget, say)
    torch.manual_seed(0)
    failed = None
    try:
        section.measure(s)
    except Exception as caught:
        failed = describe(caught)
    if failed:
        s.faults.append(f"{name}: {failed}")
    path = folder / f"gpu-{name}.json"
    if s.rows or not failed or not path.exists():  # else keep results of an earlier run
        result = {
            "section": name,
            "machine": where,
            "settings": settings | {"rounds": rounds, "budget": section.budget},
            "seconds": time.monotonic() - start,
            "faults": s.faults,
            "left_out": s.left_out,
            "rows": s.rows,
        }
        write_whole(path, (json.dumps(result, indent=2) + "\n").encode())
    s.free()
    return s.faults


if __name__ == "__main__":
    main()
