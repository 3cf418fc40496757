"""Run benchmark cases and write their results: ``python -m benchmarks [case ...]``."""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from benchmarks import peers
from benchmarks.cases import CASES
from benchmarks.harness import run
from benchmarks.machine import machine, results_folder
from benchmarks.measure import peak_of
from lmu._files import write_json


def main() -> None:
    """Run the named cases, print and store their results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; all if none is named")
    parser.add_argument("--rounds", type=int, help="interleaved measurements of each contender")
    parser.add_argument("--output", type=Path, help="folder for the JSON; benchmarks/results/...")
    parser.add_argument("--memory", nargs=2, metavar=("CASE", "CONTENDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        name, contender = args.memory
        torch.manual_seed(0)
        print(json.dumps(peak_of(CASES[name].contenders[contender]().work)))
        return
    unknown = set(args.cases) - CASES.keys()
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}; choose from {', '.join(CASES)}")
    if args.rounds is not None and args.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {args.rounds}")
    where = machine()
    folder = args.output or results_folder(where)
    folder.mkdir(parents=True, exist_ok=True)
    for name in args.cases or CASES:
        start = time.perf_counter()
        figures = run(name, CASES[name], args.rounds)
        result = {"case": name, "machine": where, "peers": peers.status(), **figures}
        path = folder / f"{name}.json"
        write_json(path, result)
        print(f"{result['title']} ({time.perf_counter() - start:.0f} s)")
        first = next(iter(result["contenders"].values()))["seconds"]
        for key, figures in result["contenders"].items():
            error = "" if figures["error"] is None else f", error {figures['error']:.1e}"
            print(
                f"  {key}: {figures['seconds'] * 1e3:.3g} ms (x {figures['seconds'] / first:.3g}), "
                f"{figures['peak_mib']:.0f} MiB{error}"
            )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
