"""Comparison of the automatic choice of a method with the best one, over a grid of sizes.

The constants of the cost model in :mod:`lmu.ops` were fitted on a CPU; these times can replace
them.
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.session import Session, tf32
from benchmarks.work import Contender
from lmu.ops import (
    MEMORY_METHODS,
    READOUT_METHODS,
    Problem,
    choose_memory,
    choose_readout,
    memory,
    readout,
)
from lmu.ops.cost import can_run, present_machine
from lmu.theory import discretize, impulse_response, legt

LARGEST = 2**27  # states: a float32 of each takes half a GiB
TOLERANCE = 1e-4


def grid(quick: bool) -> list[Problem]:
    """Return read-outs (with rows) and states alone (without), the smallest first."""
    if quick:
        return [Problem(40, 8, rows, 2, channels) for rows in (6, 0) for channels in (1, 2)]
    sizes = product((1, 16, 100), (256, 784, 4096, 16384), ((64, 64), (256, 256), (468, 346)))
    works = [
        Problem(T, d, rows, b, c)
        for (b, T, (d, r)), c, rows_too in product(sizes, (1, 4), (True, False))
        for rows in ((r,) if rows_too else (0,))
        if b * T * c * d <= LARGEST and (c == 1 or d == 64)
    ]
    return sorted(works, key=states)


def states(work: Problem) -> int:
    """Count the numbers in all memory states."""
    return work.batch * work.length * work.channels * work.order


def measure(s: Session) -> None:
    """Time all methods at each point of the grid."""
    with tf32(False):
        for work in grid(s.quick):
            what = (
                f"{'read-out' if work.rows else 'states'} batch {work.batch}, T {work.length}, "
                f"order {work.order}, channels {work.channels}, rows {work.rows}"
            )
            if not s.late(what):
                s.rows.append(compare(s, what, work))


def compare(s: Session, what: str, work: Problem) -> dict:
    """Measure all methods at a point, and the chosen one's time over the best."""
    where = Problem(work.length, work.order, work.rows, work.batch, work.channels, s.device.type)
    if work.rows:
        table, chosen = dict[str, Any](READOUT_METHODS), choose_readout(where)
    else:
        table = {k: m for k, m in MEMORY_METHODS.items() if m.all_states and m.terms}
        chosen = choose_memory(where, all_states=True)
    machine = present_machine()
    names = [
        k
        for k, m in table.items()
        if m.needs == "triton" or can_run(m.needs, where.device, machine)
    ]
    arguments, why = s.attempt(what, lambda: draw(work, s.device))
    row = {
        "batch": work.batch, "length": work.length, "order": work.order, "rows": work.rows,
        "channels": work.channels, "chosen": chosen,
    }  # fmt: skip
    if why:
        return row | {"status": why}
    exact, why = s.attempt(what, lambda: last_outputs(work, arguments))
    if why:
        s.left_out[f"check of {what}"] = why
    builds: dict[str, Callable[[], Contender]] = {
        name: partial(contender, work, arguments, name) for name in names if s.can_run(name)
    }
    figures = s.compare(what, builds, exact, TOLERANCE)
    times = {key: f["seconds"] for key, f in figures.items() if "seconds" in f}
    if times:
        row["best"] = min(times, key=lambda key: times[key])
        # A choice that was not timed has no ratio.
        row["ratio"] = times[chosen] / times[row["best"]] if chosen in times else None
    return row | {"contenders": figures}


def draw(work: Problem, device: torch.device) -> dict[str, Tensor]:
    """Draw arguments of both functions on the device, with the impulse response, as layers do."""
    g = torch.Generator().manual_seed(0)
    b, T, c, d, r = work.batch, work.length, work.channels, work.order, work.rows

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=g) * scale).to(device)

    Ad, Bd = (t.to(device) for t in discretize(*legt(d, float(T))))
    drawn = {"u": normal(b, T, c), "x": normal(b, T, 1), "W_m": normal(r, c * d, scale=1 / c / d)}
    drawn |= {"W_x": normal(r, 1), "bias": normal(r)}
    for t in drawn.values():
        t.requires_grad_()
    return {**drawn, "Ad": Ad, "Bd": Bd, "H": impulse_response(Ad, Bd, T).float()}


def outputs(work: Problem, a: dict[str, Tensor], name: str) -> Tensor:
    """Compute hidden units, or states."""
    H = None if name == "chunked" else a["H"]
    if not work.rows:
        return memory(a["u"], a["Ad"], a["Bd"], method=name, H=H)[0]
    names = ("u", "x", "Ad", "Bd", "W_m", "W_x", "bias")
    return readout(*[a[key] for key in names], method=name, H=H)[0]


@torch.no_grad()
def last_outputs(work: Problem, a: dict[str, Tensor]) -> list[Tensor]:
    """Compute the last outputs by the naive reference in float64, on the device for speed."""
    _, m = memory(a["u"].double(), a["Ad"], a["Bd"], method="naive")
    if not work.rows:
        return [m.cpu()]
    z = m.flatten(1) @ a["W_m"].double().mT + a["x"][:, -1].double() @ a["W_x"].double().mT
    return [torch.relu(z + a["bias"].double()).cpu()]


def contender(work: Problem, a: dict[str, Tensor], name: str) -> Contender:
    """Build forward and backward of a method, checked at the last step."""
    inputs = [a[key] for key in (("u", "W_m", "W_x", "bias") if work.rows else ("u",))]
    shape = (work.batch, work.length, *((work.rows,) if work.rows else ()))
    shape += () if work.rows else (work.channels, work.order)
    gradient = torch.randn(shape, device=a["u"].device)

    def step() -> None:
        torch.autograd.grad(outputs(work, a, name), inputs, gradient)

    def result() -> list[Tensor]:
        with torch.no_grad():
            return [outputs(work, a, name)[:, -1]]

    return Contender(step, result)
