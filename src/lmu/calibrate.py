"""Measure on this machine what methods take: ``python -m lmu.calibrate``, in about a minute.

``"auto"`` then chooses methods by what was measured, with this number of threads, this version of
PyTorch and this compiled core. ``explain()`` names the file.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from math import exp, log
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lmu._machine import hardware
from lmu.layers import LMU, LMUFFT, LegendreMemory
from lmu.ops import LMU_METHODS, MEMORY_METHODS, READOUT_METHODS, Problem, calibration, rates
from lmu.ops.cost import Machine, can_run, present_machine
from lmu.ops.fit import Sample, fit_rates

LONGEST = 0.4  # seconds of a training step; where a method takes longer, it is left out
ENOUGH = 0.12  # seconds of the measurements of a method at a size
TRUST = 0.5  # samples that the package's rates count as, in each term
READOUTS = (  # batch, time, order, units, channels
    (1, 32, 8, 32, 1), (1, 256, 64, 32, 1), (1, 2000, 16, 16, 1), (1, 1000, 256, 64, 1),
    (1, 100, 8, 32, 12), (8, 64, 32, 64, 4), (8, 500, 128, 64, 1), (16, 128, 16, 128, 8),
    (32, 32, 256, 64, 1), (32, 300, 8, 32, 2), (64, 100, 64, 128, 1), (16, 784, 32, 256, 1),
)  # fmt: skip
LMUS = (
    (1, 16, 64, 64, 1), (1, 100, 128, 128, 1), (1, 50, 256, 256, 1), (8, 40, 32, 64, 1),
    (16, 100, 64, 128, 1), (32, 50, 128, 256, 1), (64, 30, 64, 64, 1), (4, 10, 256, 64, 1),
)  # fmt: skip


class Family(NamedTuple):
    """A table of methods, how to build a layer that runs one, and the sizes to measure."""

    methods: Any
    build: Callable[[Problem, str], nn.Module]
    sizes: tuple[tuple[int, int, int, int, int], ...]


def _memory(p: Problem, method: str) -> nn.Module:
    return LegendreMemory(p.order, p.length, p.channels, method=method)


def _parallel(p: Problem, method: str) -> nn.Module:
    c = p.channels
    return LMUFFT(c, p.rows, p.order, p.length, p.length, memory_channels=c, method=method)


def _nonlinear(p: Problem, method: str) -> nn.Module:
    return LMU(1, p.rows, p.order, p.length, method=method)


# In this order: read-outs from all states take the memory's estimate.
FAMILIES = {
    "memory": Family(MEMORY_METHODS, _memory, tuple((b, T, d, 0, c) for b, T, d, _, c in READOUTS)),
    "readout": Family(READOUT_METHODS, _parallel, READOUTS),
    "lmu": Family(LMU_METHODS, _nonlinear, LMUS),
}


def calibrate(show: Callable[[str], object] = lambda _: None) -> dict[str, Any]:
    """Measure all families and return a table of rates for :mod:`lmu.ops.rates`.

    Args:
        show: Called with a line for each size that was measured.
    """
    where, machine = hardware(), present_machine()
    table: dict[str, Any] = {
        "device": "cpu", "threads": machine.threads, "core": machine.core, "rates": {},
        "source": {"cpu": where["cpu"], "torch": torch.__version__, "date": where["date"]},
    }  # fmt: skip
    for family, (methods, build, sizes) in FAMILIES.items():
        samples: dict[str, list[Sample]] = {}
        with rates.using([table, *rates.packaged()]):  # with what is measured so far
            current = present_machine()
            for problem in _problems(sizes):
                show(f"{family}: {problem}")
                for name, sample in _measured(problem, methods, build, current):
                    samples.setdefault(name, []).append(sample)
            table["rates"][family] = {
                name: _fit(family, name, some, machine) for name, some in samples.items()
            }
    return table


def _problems(sizes: tuple[tuple[int, int, int, int, int], ...]) -> Iterator[Problem]:
    for batch, length, order, units, channels in sizes:
        yield Problem(length, order, units, batch, channels)


def _measured(
    problem: Problem, methods: Any, build: Callable[[Problem, str], nn.Module], machine: Machine
) -> Iterator[tuple[str, Sample]]:
    """Time the methods that are chosen by time, in turns."""
    names = [k for k, m in methods.items() if m.terms and can_run(m.needs, "cpu", machine)]
    x = torch.rand(problem.batch, problem.length, problem.channels)
    steps = {name: _step(build(problem, name), x) for name in names}
    once = {name: _time(step) for name, step in steps.items()}
    steps = {name: step for name, step in steps.items() if once[name] < LONGEST}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(3):
        for name, step in steps.items():
            for _ in range(max(1, min(50, round(ENOUGH / 3 / max(once[name], 1e-5))))):
                times[name].append(_time(step))
    for name, measured in times.items():
        yield name, Sample(methods[name].terms(problem, machine), median(measured))


def _step(layer: nn.Module, x: Tensor) -> Callable[[], None]:
    """Return a training step, which has been run once."""
    if isinstance(layer, LegendreMemory):  # which has no parameters
        x = x.requires_grad_()
    gradient = torch.ones_like(layer(x)[0])

    def step() -> None:
        layer.zero_grad()
        x.grad = None
        layer(x)[0].backward(gradient)

    step()
    return step


def _time(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _fit(family: str, name: str, samples: list[Sample], machine: Machine) -> dict[str, float]:
    """The package's rates times the machine's speed, and from there towards the times."""
    known = rates.rates(family, name, "cpu", machine.threads, machine.core, rates.version())
    estimates = [sum(known[t] * v for t, v in s.amounts.items()) for s in samples]
    pairs = zip(samples, estimates, strict=True)
    scale = exp(sum(log(s.seconds / e) for s, e in pairs) / len(samples))
    return fit_rates(samples, {t: r * scale for t, r in known.items()}, TRUST)


def main() -> None:
    """Measure, store and show the rates; or remove them."""
    parser = argparse.ArgumentParser(prog="python -m lmu.calibrate", description=__doc__)
    parser.add_argument("--threads", type=int, help="of PyTorch; as it has chosen if left out")
    parser.add_argument("--reset", action="store_true", help="remove what was measured before")
    args = parser.parse_args()
    if args.reset:
        removed = calibration.reset()
        print(f"{'removed' if removed else 'there is no'} {calibration.path()}")
        return
    if args.threads is not None:
        if args.threads < 1:
            parser.error(f"--threads must be at least 1, got {args.threads}")
        torch.set_num_threads(args.threads)
    start = time.perf_counter()
    table = calibrate(lambda line: print(line, file=sys.stderr))
    file = calibration.write(table)
    rates.use(None)
    seconds = time.perf_counter() - start
    print(f"measured with {table['threads']} threads in {seconds:.0f} s, written to {file}")


if __name__ == "__main__":
    main()
