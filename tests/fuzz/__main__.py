"""``make fuzz``, or ``python -m tests.fuzz``: random layers and wrong calls, and what came of them.

``python -m tests.fuzz --seed 3 --only calls --first 17 --number 1`` repeats one of them.
"""

import argparse
import json
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.fuzz.calls import check_call
from tests.fuzz.commands import check_command
from tests.fuzz.numbers import Outcome
from tests.fuzz.numbers import run as check_numbers

FINDINGS = Path("runs/fuzz")
PARTS = {"numbers": 2000, "calls": 1000, "commands": 200}


def progress(part: str, done: int, number: int, counts: Counter[str]) -> None:
    """Say now and then how far it is."""
    if done % max(1, number // 10) == 0 or done == number:
        told = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
        print(f"{part}: {done} of {number}: {told}", flush=True)


def keep(part: str, seed: int, i: int, finding: Any) -> None:
    """Write a finding, so that it can be read, and repeated by its seed."""
    FINDINGS.mkdir(parents=True, exist_ok=True)
    path = FINDINGS / f"{part}-{seed}-{i}.json"
    path.write_text(json.dumps(finding, indent=2, default=str) + "\n", encoding="utf-8")
    print(f"  FINDING {path}: {str(finding)[:300]}")
    print(f"  again: python -m tests.fuzz --seed {seed} --only {part} --first {i} --number 1")


def run_numbers(seed: int, first: int, number: int) -> int:
    """Layers against their equations; how many are wrong."""
    counts: Counter[str] = Counter()
    errors: dict[str, list[tuple[float, int]]] = {}
    for done, i in enumerate(range(first, first + number), start=1):
        case, outcome = check_numbers(seed, i)
        counts[outcome.what] += 1
        collect(errors, case["call"]["dtype"], outcome, i)
        if outcome.what == "WRONG":
            keep("numbers", seed, i, {**case, "outcome": vars(outcome)})
        progress("numbers", done, number, counts)
    for name, found in sorted(errors.items()):
        describe(name, found)
    return counts["WRONG"]


def collect(
    errors: dict[str, list[tuple[float, int]]], dtype: str, outcome: Outcome, i: int
) -> None:
    """Sort the errors by what they are of."""
    if outcome.what == "exact":
        errors.setdefault(f"{dtype}, results", []).append((outcome.error, i))
        if outcome.gradient is not None:
            errors.setdefault(f"{dtype}, gradients", []).append((outcome.gradient, i))


def describe(name: str, found: list[tuple[float, int]]) -> None:
    """The distribution of the errors, and which configuration had the largest."""
    values = sorted(error for error, _ in found)
    high = values[min(len(values) - 1, int(0.99 * len(values)))]
    worst, i = max(found)
    print(
        f"  {name}: {len(values)} errors, median {statistics.median(values):.1e}, "
        f"99 of 100 below {high:.1e}, largest {worst:.1e} (configuration {i})"
    )


def run_calls(
    part: str, check: Callable[[int, int], tuple[str, str, str]], seed: int, first: int, number: int
) -> int:
    """Wrong calls or commands; how many ended in a traceback that is not ours."""
    counts: Counter[str] = Counter()
    for done, i in enumerate(range(first, first + number), start=1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call, what, said = check(seed, i)
        counts[what] += 1
        if what == "WRONG":
            keep(part, seed, i, {"call": call, "said": said})
        progress(part, done, number, counts)
    return counts["WRONG"]


def main() -> int:
    """Run all parts, or one; 1 if there is a finding."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(PARTS))
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--number", type=int, help="how many cases of each part")
    given = parser.parse_args()
    start, wrong = time.monotonic(), 0
    torch.set_num_threads(1)  # small products gain nothing from more
    for part in [given.only] if given.only else list(PARTS):
        number = PARTS[part] if given.number is None else given.number
        if part == "numbers":
            wrong += run_numbers(given.seed, given.first, number)
        else:
            check = check_call if part == "calls" else check_command
            wrong += run_calls(part, check, given.seed, given.first, number)
    print(f"seed {given.seed}: {wrong} findings in {time.monotonic() - start:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
