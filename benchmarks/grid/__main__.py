"""Measure the grid: ``python -m benchmarks.grid [--quick]``, into ``results/grid.json``.

It is continued by a rerun. Nothing else should run on the machine.
"""

import argparse
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch

from benchmarks.grid import summary
from benchmarks.grid.cases import Case, grid
from benchmarks.grid.record import Record
from benchmarks.grid.timing import measure
from lmu.ops import native

RESULTS = Path(__file__).parents[2] / "results"


def main() -> None:
    """Measure all cases, print their ratios and the summary."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grid", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="40 small cases")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, help="of PyTorch; as it has chosen if left out")
    parser.add_argument("--no-core", action="store_true", help="without the compiled core")
    parser.add_argument("--layer", help="one of LMUFFT, LMU, LegendreMemory; all if left out")
    parser.add_argument("--minutes", type=float, help="stop after so long; a rerun goes on")
    parser.add_argument("--output", type=Path, help="JSON; results/grid.json if left out")
    parser.add_argument("--fresh", action="store_true", help="start over, and not go on")
    parser.add_argument("--summary", action="store_true", help="only print what the file says")
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    with native.use(None) if args.no_core else nullcontext():
        try:
            record = Record(args.output or default(args), args.device, args.fresh)
        except ValueError as error:
            parser.error(str(error))
        if not args.summary:
            cases = [c for c in grid(args.quick) if args.layer in {None, c.layer}]
            fill(record, cases, args.device, args.minutes)
    report(record)


def default(args: argparse.Namespace) -> Path:
    """Return the file of these conditions."""
    marks = [str(args.device.type)] if args.device.type != "cpu" else []
    marks += [f"{args.threads}-threads"] if args.threads else []
    marks += ["no-core"] if args.no_core else []
    marks += ["quick"] if args.quick else []
    return RESULTS / f"{'-'.join(['grid', *marks])}.json"


def fill(record: Record, cases: list[Case], device: torch.device, minutes: float | None) -> None:
    """Measure the cases that the record does not have."""
    start = time.perf_counter()
    left = [case for case in cases if not record.has(case)]
    for number, case in enumerate(left, start=1):
        if minutes is not None and time.perf_counter() - start > 60 * minutes:
            print(f"stopped after {minutes:g} minutes: {len(left) - number + 1} cases are left")
            return
        try:
            row = measure(case, device)
        except (MemoryError, torch.OutOfMemoryError) as error:
            record.leave_out(case, f"{type(error).__name__}: {error}")
            continue
        record.add(row)
        times = ", ".join(f"{k} {t * 1e3:.3g}" for k, t in row["seconds"].items())
        print(f"{number}/{len(left)} {case}: {row['chosen']}; ms: {times}")
        sys.stdout.flush()


def report(record: Record) -> None:
    """Print the summary, and the cases where the choice is worst."""
    rows = record.content["cases"]
    print(summary.text(rows))
    print("worst choices:")
    print(summary.worst(rows, summary.over_best, 10, high=False))
    print("furthest behind the textbook:")
    print(summary.worst(rows, summary.ahead_of("textbook"), 10, high=True))


if __name__ == "__main__":
    main()
