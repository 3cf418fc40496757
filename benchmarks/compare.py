"""Compare the speed of two checkouts: ``python -m benchmarks.compare /path/to/other/src``.

Small cases run in new processes with the one source tree and the other, in turns, on one thread.
The exit status is 1 if a case is slower here than there by more than the tolerance.
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
from benchmarks.work import training
from lmu import LMU, LMUFFT, Stream

HERE = Path(__file__).parents[1] / "src"
# batch, time, input channels, units, order: sizes of users, and of the papers.
SIZES = {
    "user 1": (1, 64, 1, 16, 8),
    "user 2": (8, 100, 3, 32, 16),
    "user 3": (32, 128, 16, 64, 32),
    "user 4": (8, 500, 6, 128, 64),
    "user 5": (1, 1000, 1, 64, 64),
    "papers": (16, 784, 1, 212, 256),
    "papers, FFT": (16, 784, 1, 346, 468),
}
TOLERANCE = 0.03
Work = Callable[[], object]


def backward(layer: Any, x: torch.Tensor, last: bool = False) -> Work:
    """A training step; with ``last`` the layer returns the last output alone."""
    with torch.no_grad():
        outputs = layer(x)
    index = 1 if last else 0
    return training(layer, x, torch.ones_like(outputs[index]), lambda outputs: outputs[index])


def step(layer: Any, x: torch.Tensor) -> Work:
    """A step from the state after a first one, without gradients."""
    _, state = layer.step(x)
    return torch.no_grad()(lambda: layer.step(x, state))


def cases() -> dict[str, Callable[[], Work]]:
    """Functions that build the work of each case, by name."""
    builds: dict[str, Callable[[], Work]] = {}
    for size, (batch, length, channels, units, order) in SIZES.items():
        x = torch.rand(batch, length, channels)
        lmu = partial(LMU, channels, units, order, length)
        fft = partial(LMUFFT, channels, units, order, length, length)

        if size != "papers, FFT":
            builds |= {
                f"LMU, training, {size}": lambda b=lmu, x=x: backward(b(), x),
                f"LMU.step, {size}": lambda b=lmu, x=x[:, 0]: step(b(), x),
                f"Stream(LMU), {size}": lambda b=lmu, x=x[:, 0]: partial(Stream(b(), len(x)), x),
            }
        if size != "papers":
            builds |= {
                f"LMUFFT, training, {size}": lambda b=fft, x=x: backward(b(), x),
                f"LMUFFT, training, last output, {size}": lambda b=fft, x=x: backward(
                    b(return_sequences=False), x, last=True
                ),
                f"Stream(LMUFFT), {size}": lambda b=fft, x=x[:, 0]: partial(Stream(b(), len(x)), x),
            }
    return builds


def measure(words: list[str], shortest: float) -> dict[str, float]:
    """Seconds of each case whose name contains one of the words, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    times = {}
    for name, build in cases().items():
        if not words or any(word in name for word in words):
            times[name] = median(take_turns({"": build()}, 3, shortest=shortest)[""])
    return times


def child(source: Path, words: list[str], shortest: float) -> dict[str, float]:
    """The same in a new process, with the package of a source tree."""
    command = [sys.executable, "-m", "benchmarks.compare", "--measure", str(source), *words]
    environment = os.environ | {"PYTHONPATH": str(source)}
    run = subprocess.run(
        [*command, "--shortest", str(shortest)],
        cwd=HERE.parent, env=environment, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    return json.loads(run.stdout)


def main() -> None:
    """Time both source trees in rounds, and print the medians and their ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("base", type=Path, help="folder that holds the other lmu")
    parser.add_argument("words", nargs="*", help="run the cases whose names contain one of them")
    parser.add_argument("--rounds", type=int, default=7, help="processes of each source tree")
    parser.add_argument("--shortest", type=float, default=0.05, help="seconds of a measurement")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="share that is accepted")
    parser.add_argument("--output", type=Path, help="write the times as JSON")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    base = args.base.resolve()
    if not (base / "lmu" / "__init__.py").exists():
        parser.error(f"{base} holds no package lmu: name the src folder of a checkout")
    if args.measure:
        package = Path(sys.modules["lmu"].__file__ or "").parent
        assert package == base / "lmu", f"lmu comes from {package}, not from {base}"
        print(json.dumps(measure(args.words, args.shortest)))
        return
    if not any(word in name for name in cases() for word in args.words or [""]):
        parser.error(f"no case contains {', '.join(args.words)}; there are {', '.join(cases())}")
    times: dict[Path, list[dict[str, float]]] = {base: [], HERE: []}
    for turn in range(args.rounds):
        for source in (base, HERE) if turn % 2 else (HERE, base):
            times[source].append(child(source, args.words, args.shortest))
    rows, slower = [], []
    for name in times[HERE][0]:
        there, here = ([row[name] for row in times[source]] for source in (base, HERE))
        ratio = median(b / a for a, b in zip(there, here, strict=True))
        rows.append({"case": name, "base": there, "here": here, "ratio": ratio})
        slower += [name] if ratio > 1 + args.tolerance else []
        print(f"{name}: {duration(median(there))} -> {duration(median(here))}, x {ratio:.3f}")
    if args.output is not None:
        from lmu._files import write_json

        write_json(args.output, {"tolerance": args.tolerance, "rows": rows})
    if slower:
        sys.exit(f"slower by more than {args.tolerance:.0%}: {'; '.join(slower)}")


if __name__ == "__main__":
    main()
