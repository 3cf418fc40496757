"""Compare the speed of two checkouts: ``python -m benchmarks.compare /path/to/other/src``.

Two processes, one with each source tree, time small cases in turns, on one thread. The exit status
is 1 if a case is slower here than there by more than the tolerance, in the median of the ratios and
in the ratio of the fastest times, which other work on the machine changes least.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.measure import duration, take_turns
from benchmarks.work import Pick, every, last, training
from lmu import LMU, LMUFFT, Stream

HERE = Path(__file__).parents[1] / "src"
SIZES = {  # batch, time, input channels, units, order
    "user 1": (1, 64, 1, 16, 8),
    "user 2": (8, 100, 3, 32, 16),
    "user 3": (32, 128, 16, 64, 32),
    "user 4": (8, 500, 6, 128, 64),
    "user 5": (1, 1000, 1, 64, 64),
    "papers": (16, 784, 1, 212, 256),
    "papers, FFT": (16, 784, 1, 346, 468),
}
Work = Callable[[], object]


def backward(layer: Any, x: torch.Tensor, pick: Pick = every) -> Work:
    """Build a training step on the outputs that ``pick`` takes."""
    with torch.no_grad():
        gradient = torch.ones_like(pick(layer(x)))
    return training(layer, x, gradient, pick)


def step(layer: Any, x: torch.Tensor) -> Work:
    """Build a step from the state after a first one, without gradients."""
    _, state = layer.step(x)
    return torch.no_grad()(lambda: layer.step(x, state))


def cases() -> dict[str, Callable[[], Work]]:
    """Return functions that build the work of each case, by name."""
    builds: dict[str, Callable[[], Work]] = {}
    for size, (batch, length, channels, units, order) in SIZES.items():
        x = torch.rand(batch, length, channels)
        lmu = partial(LMU, channels, units, order, length)
        fft = partial(LMUFFT, channels, units, order, length, length)
        end = partial(fft, return_sequences=False)
        if size != "papers, FFT":
            builds |= {
                f"LMU, training, {size}": lambda b=lmu, x=x: backward(b(), x),
                f"LMU.step, {size}": lambda b=lmu, x=x[:, 0]: step(b(), x),
                f"Stream(LMU), {size}": lambda b=lmu, x=x[:, 0]: partial(Stream(b(), len(x)), x),
            }
        if size != "papers":
            builds |= {
                f"LMUFFT, training, {size}": lambda b=fft, x=x: backward(b(), x),
                f"LMUFFT, last, training, {size}": lambda b=end, x=x: backward(b(), x, last),
                f"Stream(LMUFFT), {size}": lambda b=fft, x=x[:, 0]: partial(Stream(b(), len(x)), x),
            }
    return builds


def serve(source: Path, shortest: float) -> None:
    """Read names of cases and write their seconds, until the input ends."""
    package = Path(sys.modules["lmu"].__file__ or "").parent
    assert package == source / "lmu", f"lmu comes from {package}, not from {source}"
    torch.set_num_threads(1)
    torch.manual_seed(0)
    builds, works = cases(), {}
    for name in map(str.strip, sys.stdin):
        works[name] = works.get(name) or builds[name]()
        print(take_turns({"": works[name]}, rounds=1, shortest=shortest)[""][0], flush=True)


def start(source: Path, shortest: float) -> subprocess.Popen[str]:
    """Start a process that serves times of a source tree's package."""
    command = [sys.executable, "-m", "benchmarks.compare", "--serve", "--shortest", str(shortest)]
    return subprocess.Popen(
        [*command, str(source)], cwd=HERE.parent, env=os.environ | {"PYTHONPATH": str(source)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def ask(process: subprocess.Popen[str], name: str) -> float:
    """Request the seconds of a case from a process."""
    assert process.stdin is not None
    assert process.stdout is not None
    print(name, file=process.stdin, flush=True)
    if not (line := process.stdout.readline()):
        sys.exit(f"{name} failed with {process.args}")
    return float(line)


def main() -> None:
    """Time both source trees in rounds, and print the medians and their ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("base", type=Path, help="folder that holds the other lmu")
    parser.add_argument("words", nargs="*", help="run the cases whose names contain one of them")
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each case")
    parser.add_argument("--shortest", type=float, default=0.05, help="seconds of a measurement")
    parser.add_argument("--tolerance", type=float, default=0.03, help="share that is accepted")
    parser.add_argument("--output", type=Path, help="write the times as JSON")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    base = args.base.resolve()
    if not (base / "lmu" / "__init__.py").exists():
        parser.error(f"{base} holds no package lmu: name the src folder of a checkout")
    if args.serve:
        serve(base, args.shortest)
        return
    names = [name for name in cases() if any(word in name for word in args.words or [""])]
    if not names:
        parser.error(f"no case contains {', '.join(args.words)}; there are {', '.join(cases())}")
    sources = {"base": base, "here": HERE}
    processes = {key: start(source, args.shortest) for key, source in sources.items()}
    times: dict[str, dict[str, list[float]]] = {n: {key: [] for key in sources} for n in names}
    for turn in range(args.rounds):
        for name in names:
            for key in sorted(sources, reverse=turn % 2 == 1):
                times[name][key].append(ask(processes[key], name))
    for process in processes.values():
        process.communicate()
    rows, slower = [], []
    for name, pair in times.items():
        ratio = median(b / a for a, b in zip(pair["base"], pair["here"], strict=True))
        fastest = min(pair["here"]) / min(pair["base"])
        slower += [name] if min(ratio, fastest) > 1 + args.tolerance else []
        medians = " -> ".join(duration(median(seconds)) for seconds in pair.values())
        print(f"{name}: {medians}, x {ratio:.3f}, fastest x {fastest:.3f}")
        rows.append({"case": name, **pair, "ratio": ratio, "fastest": fastest})
    if args.output is not None:
        args.output.write_text(json.dumps({"tolerance": args.tolerance, "rows": rows}, indent=2))
    if slower:
        sys.exit(f"slower by more than {args.tolerance:.0%}: {'; '.join(slower)}")


if __name__ == "__main__":
    main()
