"""Measure sequence parallelism, for docs/scale.md: ``python -m benchmarks.sequence_parallel``.

Measures bytes and seconds of states carried between processes, the time of a training step of a
layer, and errors.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from benchmarks.measure import peak_of, relative_error, seconds, spread
from benchmarks.work import training
from lmu import LMUFFT
from lmu._files import write_json
from lmu.distributed import sequence_parallel, split
from lmu.distributed.carry import ALGORITHMS, carry
from lmu.ops import System
from lmu.theory import discretize, legt

OUTPUT = Path(__file__).parent.parent / "results" / "sequence-parallel.json"
SENT = Path("/sys/class/net/lo/statistics/tx_bytes")  # of all processes here


@dataclass(frozen=True)
class Settings:
    """Sizes of all measurements."""

    processes: tuple[int, ...] = (2, 4, 8, 16)
    states: tuple[tuple[int, int], ...] = ((1, 64), (32, 256), (100, 512))  # batch, order
    steps: int = 1000  # of each process, which states are advanced by
    calls: int = 20
    rounds: int = 7
    layer: tuple[int, int, int] = (64, 64, 1 << 20)  # hidden, order, time
    layer_processes: tuple[int, ...] = (1, 2, 4)
    exact: tuple[int, int, int] = (16, 64, 40_000)
    theta: float = 4096.0
    powers: tuple[tuple[int, float], ...] = tuple(
        (order, theta) for order in (64, 256) for theta in (1e5, 1e7, 1e9)
    )


QUICK = Settings((2, 3), ((1, 8),), 10, 2, 2, (4, 8, 64), (1, 2), (4, 8, 60), 20.0, ((4, 100.0),))


def groups_of(settings: Settings) -> dict[int, Any]:
    """Make a group of the first processes, for each measured number of them."""
    sizes = sorted({*settings.processes, *settings.layer_processes})
    return {size: dist.new_group(list(range(size))) for size in sizes}


def timed(group: Any, work: Callable[[], object], calls: int) -> tuple[float, float]:
    """Measure seconds of a call, and bytes that a process sends in it, with sockets' overhead."""

    def together() -> None:
        for _ in range(calls):
            work()
        dist.barrier(group)

    work()
    dist.barrier(group)
    before = int(SENT.read_text())
    spent = seconds(together, 1)
    sent = int(SENT.read_text()) - before
    return spent / calls, sent / calls / dist.get_world_size(group)


def payload(algorithm: str, size: int, state: int) -> float:
    """Compute the mean bytes that a process sends, for a state of ``state`` bytes."""
    if algorithm == "gather":
        return (size - 1) * state
    messages, ahead = size - 1, 1
    while algorithm == "scan" and ahead < size:
        messages += max(0, size - 1 - ahead)  # all but the first, if there is a process ahead
        ahead *= 2
    return messages * state / size


def carries(settings: Settings, groups: dict[int, Any], rank: int) -> list[dict[str, Any]]:
    """Time each algorithm that carries states, for each number of processes, in turns."""
    cases = [
        (n, s, algorithm)
        for n in settings.processes for s in settings.states for algorithm in ALGORITHMS
    ]  # fmt: skip
    measured: dict[Any, list[tuple[float, float]]] = {case: [] for case in cases}
    for _ in range(settings.rounds):
        for case in cases:
            size, (batch, order), algorithm = case
            if rank < size:
                Ad = discretize(*legt(order, settings.theta))[0]
                values = torch.rand(batch, 1, order)
                steps = torch.full((size,), settings.steps)
                name = groups[size].group_name

                def work(v=values, A=Ad, s=steps, g=name, a=algorithm) -> Tensor:
                    return carry(v, A, s, g, a, False)

                measured[case].append(timed(groups[size], work, settings.calls))
            dist.barrier()
    rows = []
    for (size, (batch, order), algorithm), times in measured.items():
        if not times:
            continue
        spent, sent = (list(values) for values in zip(*times, strict=True))
        state = 4 * batch * order
        rows.append({
            "processes": size, "batch": batch, "order": order, "way": algorithm, **spread(spent),
            "state_bytes": state, "payload_bytes": payload(algorithm, size, state),
            "sent_bytes": statistics.median(sent),
        })  # fmt: skip
    return rows


def layers(settings: Settings, groups: dict[int, Any], rank: int) -> list[dict[str, Any]]:
    """Time a training step of a layer over one long sequence, spread over processes."""
    hidden, order, length = settings.layer
    times: dict[int, list[float]] = {size: [] for size in settings.layer_processes}
    peaks = {}
    for turn in range(settings.rounds):
        for size in settings.layer_processes:
            if rank < size:
                work = shared_step(groups[size], hidden, order, length, settings.theta)
                if turn == 0:
                    peaks[size] = peak_of(work)
                times[size].append(timed(groups[size], work, 1)[0])
            dist.barrier()
    return [
        {"processes": size, **spread(times[size]), "peak_mib": peaks[size]}
        for size in settings.layer_processes
        if times[size]
    ]


def shared_step(
    group: Any, hidden: int, order: int, length: int, theta: float
) -> Callable[[], object]:
    """Build a training step of the layer on the time steps of this process."""
    torch.manual_seed(0)
    layer = sequence_parallel(LMUFFT(1, hidden, order, None, theta), group)
    x = split(torch.rand(1, length, 1), group).clone()
    return training(layer, x, torch.rand(1, x.shape[1], hidden))


def exactness(settings: Settings, group: Any, dtype: torch.dtype) -> dict[str, float]:
    """Measure largest relative errors of outputs and gradients, against one process in float64."""
    hidden, order, length = settings.exact
    torch.manual_seed(0)
    whole = LMUFFT(1, hidden, order, None, settings.theta, learn_theta=True).double()
    x = torch.rand(2, length, 1, dtype=torch.float64)
    gradient = torch.rand(2, length, hidden, dtype=torch.float64) / length
    exact, y = gradients(whole, x, gradient)
    shared = LMUFFT(1, hidden, order, None, settings.theta, learn_theta=True)
    shared.load_state_dict(whole.state_dict())
    shared.to(dtype)
    sequence_parallel(shared, group)
    grads, y_here = gradients(shared, split(x, group).to(dtype), split(gradient, group).to(dtype))
    worst = {"outputs": relative_error(y_here, split(y, group))}
    worst["x"] = relative_error(grads.pop(), split(exact.pop(), group))
    for gradient in grads:
        dist.all_reduce(gradient, group=group)
    worst["weights"] = max(relative_error(a, b) for a, b in zip(grads, exact, strict=True))
    errors = torch.tensor(list(worst.values()), dtype=torch.float64)
    dist.all_reduce(errors, dist.ReduceOp.MAX, group)
    return dict(zip(worst, errors.tolist(), strict=True))


def gradients(layer: LMUFFT, x: Tensor, gradient: Tensor) -> tuple[list[Tensor], Tensor]:
    """Compute gradients of the weights and, as the last, of the input; and the outputs."""
    x = x.clone().requires_grad_()
    y = layer(x)[0]
    y.backward(gradient)
    grads = [p.grad for p in layer.parameters()] + [x.grad]
    return [grad for grad in grads if grad is not None], y.detach()


def powers(settings: Settings) -> list[dict[str, float]]:
    """Measure errors of states advanced by half a window, against one matrix exponential."""
    rows = []
    for order, theta in settings.powers:
        A, B = legt(order, theta)
        steps = int(theta) // 2
        system = System(*discretize(A, B), constant=True)
        power = system.advance(torch.eye(order, dtype=A.dtype)[:, None], steps)
        exact = torch.linalg.matrix_exp(A * steps).mT
        rows.append({"order": order, "theta": theta, "error": relative_error(power[:, 0], exact)})
    return rows


def worker(rank: int, size: int, folder: str, settings: Settings) -> None:
    """Run all measurements in one of the processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=size)
    groups = groups_of(settings)
    rows = {"carry": carries(settings, groups, rank), "layer": layers(settings, groups, rank)}
    most, rows["errors"] = max(settings.layer_processes), []
    for dtype, number in ((torch.float64, most), (torch.float32, most), (torch.float32, 1)):
        if rank < number:
            name = {"dtype": str(dtype).removeprefix("torch."), "processes": number}
            rows["errors"].append(name | exactness(settings, groups[number], dtype))
    if rank == 0:
        write_json(Path(folder) / "rows.json", rows)
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Start the processes and write their results."""
    from experiments.record import write_record  # imports Lightning, which processes do not need

    parser = argparse.ArgumentParser(prog="python -m benchmarks.sequence_parallel")
    parser.add_argument("--quick", action="store_true", help="tiny: to try it, not results")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if args.quick and args.output is None:
        parser.error("--quick needs --output: its figures must not replace results")
    settings = QUICK if args.quick else Settings()
    size = max(*settings.processes, *settings.layer_processes)
    with tempfile.TemporaryDirectory() as folder:
        spawn(worker, (size, folder, settings), nprocs=size)
        rows = json.loads((Path(folder) / "rows.json").read_text())
    rows["powers"] = powers(settings)
    torch.set_num_threads(1)
    write_record(args.output or OUTPUT, "sequence-parallel", asdict(settings), **rows)
    for row in rows["carry"] + rows["layer"] + rows["errors"] + rows["powers"]:
        sys.stdout.write(f"{row}\n")


if __name__ == "__main__":
    main()
