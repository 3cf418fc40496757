"""Measure time and memory against length, order and batch: ``python -m benchmarks.scaling``."""

import argparse
import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from benchmarks.baselines import StepwiseLMU, TextbookLMUFFT
from benchmarks.machine import machine, results_folder
from benchmarks.measure import peak_memory, peak_of, spread, take_turns
from benchmarks.work import training, with_weights_of
from lmu import LMU, LMUFFT
from lmu._files import write_json

Work = Callable[[], object]


@dataclass(frozen=True)
class Line:
    """A contender of a sweep, which builds its work at a point, up to a largest point."""

    build: Callable[[int], Work]
    largest: int = sys.maxsize


@dataclass(frozen=True)
class Sweep:
    """Contenders over points of one axis."""

    title: str
    axis: str
    points: tuple[int, ...]
    lines: dict[str, Line] = field(default_factory=dict)
    quick: tuple[int, ...] = (2, 4)  # enough to check that everything runs


def run_layer(layer: nn.Module, shape: tuple[int, ...], *, train: bool) -> Work:
    """Build inference over, or a training step on, random input, with all outputs."""
    x = torch.rand(shape)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return layer(x)[0]

    if not train:
        return forward
    return training(layer, x, torch.rand_like(forward()))


def over_length(build: Callable[[int], nn.Module]) -> Callable[[int], Work]:
    """Build inference over one sequence, by its length."""
    return lambda length: run_layer(build(length), (1, length, 1), train=False)


def over_order(build: Callable[[int], nn.Module]) -> Callable[[int], Work]:
    """Build a training step, by the order of the memory."""
    return lambda order: run_layer(build(order), (16, 1024, 1), train=True)


def over_batch(build: Callable[[], nn.Module]) -> Callable[[int], Work]:
    """Build a training step on sequences of psMNIST's length, by the batch."""
    return lambda batch: run_layer(build(), (batch, 784, 1), train=True)


def train_long(length: int) -> Work:
    """Build a training step over one long sequence."""
    return run_layer(LMUFFT(1, 64, 64, None, 4096.0), (1, length, 1), train=True)


SWEEPS = {
    "length": Sweep(
        "all outputs, order 64, hidden 64, theta 4096, batch 1, inference",
        "time steps",
        tuple(4**k for k in range(6, 11)),
        {
            "LMUFFT": Line(over_length(lambda _: LMUFFT(1, 64, 64, None, 4096.0))),
            "textbook FFT": Line(
                over_length(lambda T: TextbookLMUFFT(1, 64, 64, T, 4096.0)), largest=262144
            ),
            "nn.LSTM": Line(over_length(lambda _: nn.LSTM(1, 64, batch_first=True))),
        },
    ),
    "order": Sweep(
        "all outputs, hidden 128, T 1024, batch 16, forward + backward",
        "order of the memory",
        (32, 64, 128, 256, 512, 1024),
        {
            "LMUFFT": Line(over_order(lambda d: LMUFFT(1, 128, d, 1024, 1024.0))),
            "textbook FFT": Line(over_order(lambda d: TextbookLMUFFT(1, 128, d, 1024, 1024.0))),
            "LMU": Line(over_order(lambda d: LMU(1, 128, d, 1024.0))),
            "step loop": Line(over_order(lambda d: stepwise(128, d, 1024.0))),
        },
    ),
    "batch": Sweep(
        "all outputs, T 784, forward + backward; LMU 212/256, LMUFFT 346/468",
        "sequences",
        (1, 4, 16, 64, 256),
        {
            "LMUFFT": Line(over_batch(lambda: LMUFFT(1, 346, 468, 784, 784.0))),
            "textbook FFT": Line(
                over_batch(lambda: TextbookLMUFFT(1, 346, 468, 784, 784.0)), largest=64
            ),
            "LMU": Line(over_batch(lambda: LMU(1, 212, 256, 784.0))),
            "step loop": Line(over_batch(lambda: stepwise(212, 256, 784.0))),
            "nn.LSTM(1, 212)": Line(over_batch(lambda: nn.LSTM(1, 212, batch_first=True))),
        },
    ),
    "long": Sweep(
        "LMUFFT over one long sequence, order 64, hidden 64, forward + backward",
        "time steps",
        (65536,),
        {"training step": Line(train_long)},
        quick=(512,),
    ),
    "build": Sweep(
        "building LMUFFT with theta and seq_len of so many steps, order 256",
        "time steps",
        (65536,),
        {"building": Line(lambda T: lambda: LMUFFT(1, 8, 256, seq_len=T, theta=T))},
        quick=(512,),
    ),
}


def stepwise(hidden: int, order: int, theta: float) -> nn.Module:
    """Build the textbook loop with the initial weights of :class:`lmu.LMU`."""
    return with_weights_of(LMU, StepwiseLMU, (1, hidden, order, theta))


def run(name: str, points: tuple[int, ...] | None = None, rounds: int = 5) -> dict:
    """Time all contenders at all points; every round has a random order.

    Work is built for each measurement and dropped after it, as all together would fill the memory.
    """
    sweep = SWEEPS[name]
    jobs = [
        (line, point)
        for point in points or sweep.points
        for line in sweep.lines
        if point <= sweep.lines[line].largest
    ]
    times: dict[tuple[str, int], list[float]] = {job: [] for job in jobs}
    for _ in range(rounds):
        for job in random.sample(jobs, len(jobs)):
            work = sweep.lines[job[0]].build(job[1])
            times[job] += take_turns({"": work}, rounds=1, shortest=0.05)[""]
    rows = {
        line: [
            {
                "x": point,
                **spread(times[line, point]),
                "peak_mib": peak_memory("benchmarks.scaling", name, line, str(point)),
            }
            for key, point in jobs
            if key == line
        ]
        for line in sweep.lines
    }
    return {
        "sweep": name, "title": sweep.title, "axis": sweep.axis, "rounds": rounds, "lines": rows,
    }  # fmt: skip


def main() -> None:
    """Run the named sweeps, print and store their results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("sweeps", nargs="*", help=f"of {', '.join(SWEEPS)}; all if none is named")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="tiny points: to try it, not results")
    parser.add_argument("--output", type=Path, help="folder for the JSON; benchmarks/results/...")
    parser.add_argument(
        "--memory",
        nargs=3,
        metavar=("SWEEP", "LINE", "POINT"),
        help=argparse.SUPPRESS,
    )
    args = parser.parse_args()
    if args.memory:
        sweep, line, point = args.memory
        print(json.dumps(peak_of(SWEEPS[sweep].lines[line].build(int(point)))))
        return
    unknown = set(args.sweeps) - SWEEPS.keys()
    if unknown:
        parser.error(
            f"no such sweep: {', '.join(sorted(unknown))}; choose from {', '.join(SWEEPS)}"
        )
    if args.quick and args.output is None:
        parser.error("--quick needs --output: its figures must not replace results")
    where = machine()
    folder = args.output or results_folder(where)
    folder.mkdir(parents=True, exist_ok=True)
    for name in args.sweeps or SWEEPS:
        points = SWEEPS[name].quick if args.quick else None
        result = {"machine": where, **run(name, points, args.rounds)}
        path = folder / f"scaling-{name}.json"
        write_json(path, result)
        for line, rows in result["lines"].items():
            figures = ", ".join(
                f"{row['x']}: {row['seconds'] * 1e3:.3g} ms {row['peak_mib']:.0f} MiB"
                for row in rows
            )
            print(f"{name}: {line}: {figures}", flush=True)


if __name__ == "__main__":
    main()
