"""Measure streams on one core, for docs/scale.md: ``taskset -c 1 python -m benchmarks.streams``.

Measures steps a second of many streams at once, the contenders in turns on one thread; errors
against float64; and the memory of ``examples/stream_server.py`` over many ticks, while streams
join, leave and reset.
"""

import argparse
import copy
import gc
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.baselines import StepwiseLMU, TextbookLMUFFT
from benchmarks.machine import machine
from benchmarks.measure import gemm_rate, relative_error, resident, take_turns
from examples.stream_server import StreamServer
from lmu import LMU, LMUFFT, Stream
from lmu._files import write_json

OUTPUT = Path(__file__).parent.parent / "results" / "streams.json"
ORDER, HIDDEN, THETA = 64, 64, 100
SERVED = 1024


def forgetful() -> LMU:
    """Build a layer whose state decays; with initial weights rounding errors often stay."""
    layer = LMU(1, HIDDEN, ORDER, THETA)
    assert layer.e_h is not None
    assert layer.W_h is not None
    with torch.no_grad():
        layer.W_h.mul_(0.5)
        layer.e_h.mul_(0.5)
    return layer


LAYERS: dict[str, Callable[[], Any]] = {
    "LMUFFT": lambda: LMUFFT(1, HIDDEN, ORDER, THETA, THETA),
    "LMU": forgetful,
}
# FLOPs of a step of a stream by the equations: encoder, memory, read-out.
FLOPS = {
    "LMUFFT": 2 * (1 + ORDER**2 + ORDER + HIDDEN * (ORDER + 1)),
    "LMU": 2 * (1 + HIDDEN + ORDER + ORDER**2 + ORDER + HIDDEN * (1 + HIDDEN + ORDER)),
}
HOUR = 360_000  # ticks, at 100 a second
WATCHED = 4  # streams that stay from beginning to end, and are checked then
TOLERANCE = 1e-4  # largest relative error of a contender that is timed
Work = Callable[[], Tensor]


def textbook(kind: str, layer: Any, x: Tensor) -> Work:
    """Build a step of the equations of the papers."""
    state = [torch.zeros(len(x), ORDER)]
    if kind == "LMUFFT":
        cell = TextbookLMUFFT(1, HIDDEN, ORDER, THETA, THETA)
    else:
        cell = StepwiseLMU(1, HIDDEN, ORDER, THETA)
        state.insert(0, torch.zeros(len(x), HIDDEN))
    cell.load_state_dict(layer.state_dict())

    def work() -> Tensor:
        h, m = cell.step(x, *state)
        state[:] = [h, m][-len(state) :]  # without feedback, h is not a state
        return h

    return work


def lstm_cell(x: Tensor) -> Work:
    """Build a step of an LSTM with as many hidden units: another function, for comparison."""
    cell = nn.LSTMCell(1, HIDDEN)
    state = [(torch.zeros(len(x), HIDDEN),) * 2]

    def work() -> Tensor:
        state[0] = cell(x, state[0])
        return state[0][0]

    return work


def serve(layer: Any, x: Tensor, half: Tensor) -> tuple[Work, Work]:
    """Build a push and a tick of the server without its network: of all streams, and of half."""
    server = StreamServer(layer, len(x))
    ids = torch.tensor([server.join() for _ in range(len(x))])
    half_ids, half_x = ids[half], x[half]

    def work(ids: Tensor, x: Tensor) -> Tensor:
        server.push(ids, x)
        return server.tick()[1]

    return lambda: work(ids, x), lambda: work(half_ids, half_x)


def check(what: str, error: float) -> None:
    """Refuse an error that is too large."""
    if not error < TOLERANCE:
        raise ArithmeticError(f"{what}: off by {error:.2g}, more than {TOLERANCE:.2g}")


@torch.no_grad()
def rates(kind: str, streams: int, rounds: int) -> dict[str, Any]:
    """Measure steps of streams a second, and their share of the matrix product rate."""
    layer, x = LAYERS[kind](), torch.randn(streams, 1)
    half = torch.randperm(streams)[: max(1, streams // 2)]
    together, apart = Stream(layer, streams), Stream(layer, streams)
    x_half = x[half]
    served, served_half = serve(layer, x, half)
    works: dict[str, tuple[int, Work]] = {
        "Stream": (streams, lambda: together(x)),
        "Stream, half": (len(half), lambda: apart(x_half, streams=half)),
        "server": (streams, served),
        "server, half": (len(half), served_half),
        "textbook": (streams, textbook(kind, layer, x)),
        "nn.LSTMCell": (streams, lstm_cell(x)),
    }
    exact = copy.deepcopy(layer).double()(x.double()[:, None].expand(-1, 3, -1))[0][:, -1]
    for key, (_, work) in works.items():
        y = [work() for _ in range(3)][-1]
        if key in ("Stream", "server", "textbook"):
            check(f"{kind} of {streams} streams, {key}", relative_error(y, exact))
    gemm: list[float] = []
    times = take_turns(
        {key: work for key, (_, work) in works.items()}, rounds, lambda: gemm.append(gemm_rate())
    )
    rate = statistics.median(gemm)
    contenders = {}
    for key, (number, _) in works.items():
        steps = number / statistics.median(times[key])
        contenders[key] = {
            "steps_per_second": steps,
            "slowest": number / max(times[key]),
            "fastest": number / min(times[key]),
        }
        if key != "nn.LSTMCell":
            contenders[key]["share"] = steps * FLOPS[kind] / rate
    return {"gemm_rate": rate, "flops": FLOPS[kind], "contenders": contenders}


@torch.no_grad()
def errors(kind: str, streams: int, length: int) -> dict[str, float]:
    """Measure relative errors of all outputs against the layer on whole sequences in float64."""
    layer = LAYERS[kind]()
    x = torch.randn(streams, length, 1)
    together = Stream(layer, streams)
    outputs = {"all": torch.stack([together(x_t) for x_t in x.unbind(1)], dim=1)}
    apart, at = Stream(layer, streams), torch.zeros(streams, dtype=torch.long)
    outputs["half"] = torch.zeros_like(outputs["all"])
    while (behind := (at < length).nonzero().view(-1)).numel():
        rows = behind[torch.randperm(len(behind))[: max(1, streams // 2)]]
        outputs["half"][rows, at[rows]] = apart(x[rows, at[rows]], streams=rows)
        at[rows] += 1
    exact = layer.double()(x.double())[0]
    errors = {key: relative_error(y, exact) for key, y in outputs.items()}
    for key, error in errors.items():
        check(f"{kind}, {key}", error)
    return errors


def memory() -> dict[str, float]:
    """Measure resident memory and the number of live tensors."""
    gc.collect()
    live = sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())
    return {"mib": resident("VmRSS") / 1024, "tensors": live}


@torch.no_grad()
def endurance(kind: str, streams: int, ticks: int, first: int) -> dict[str, Any]:
    """Run a server for ``ticks`` ticks, every second one of all streams, the others of about half.

    At each tick one stream leaves and another joins; at every tenth, one is reset. Memory is read
    after ``first`` ticks and ten times later. At the end, the outputs of the streams that stayed
    are compared with those of the layer over their whole input, in float64.
    """
    layer = LAYERS[kind]()
    server = StreamServer(layer, streams)
    ids = torch.tensor([server.join() for _ in range(streams)])
    signal = torch.randn(97, streams, 1)  # again and again
    watched = torch.arange(WATCHED)
    orders = [
        torch.cat([watched, WATCHED + torch.randperm(streams - WATCHED)[: streams // 2 - WATCHED]])
        for _ in range(61)
    ]
    readings, steps, spent = {}, 0, 0.0
    named = y = torch.empty(0)
    start = time.perf_counter()
    for t in range(ticks):
        changing = random.randrange(WATCHED, streams)
        server.leave(int(ids[changing]))
        ids[changing] = server.join()
        if t % 10 == 0:
            server.reset(int(ids[random.randrange(WATCHED, streams)]))
        rows = orders[t % len(orders)] if t % 2 else slice(None)
        server.push(ids[rows], signal[t % len(signal)][rows])
        named, y = server.tick()
        steps += len(named)
        if t + 1 == first or (t + 1) % max(1, ticks // 10) == 0:
            spent += time.perf_counter() - start
            readings[t + 1] = memory()
            start = time.perf_counter()
    spent += time.perf_counter() - start
    last = y[[named.tolist().index(id_) for id_ in ids[:WATCHED].tolist()]]
    exact = hidden_after(layer.double(), signal[:, :WATCHED].transpose(0, 1).double(), ticks)
    error = relative_error(last, exact)
    check(f"{kind} after {ticks} ticks", error)
    return {
        "streams": streams,
        "ticks": ticks,
        "steps": steps,
        "steps_per_second": steps / spent,
        "memory": readings,
        "error": error,
    }


def hidden_after(layer: Any, signal: Tensor, ticks: int) -> Tensor:
    """Compute hidden states after ``ticks`` steps of a repeated signal (batch, time, 1)."""
    kwargs = {"return_state": True} if isinstance(layer, LMUFFT) else {}
    several, state, y = signal.repeat(1, 100, 1), None, torch.empty(0)
    for begin in range(0, ticks, several.shape[1]):
        y, state = layer(several[:, : ticks - begin], state, **kwargs)
    return y[:, -1]


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each contender")
    parser.add_argument("--quick", action="store_true", help="tiny: to try it, not results")
    parser.add_argument("--output", type=Path, help=f"where to write the JSON; {OUTPUT.name}")
    options = parser.parse_args()
    if options.quick and options.output is None:
        parser.error("--quick needs --output: its figures must not replace results")
    quick = options.quick
    sizes, served = ((1, 16), 16) if quick else ((1, 64, SERVED, 16_384), SERVED)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    result: dict[str, Any] = {"machine": machine(), "order": ORDER, "hidden": HIDDEN, "layers": {}}
    for kind in LAYERS:
        figures: dict[str, Any] = {"rates": {}}
        for streams in sizes:
            row = figures["rates"][streams] = rates(kind, streams, options.rounds)
            print(kind, streams, json.dumps(row, indent=1), flush=True)
        figures["errors"] = errors(kind, *((4, 30) if quick else (64, 5_000)))
        figures["endurance"] = endurance(kind, served, *((300, 100) if quick else (HOUR, 1_000)))
        print(kind, json.dumps([figures["errors"], figures["endurance"]], indent=1), flush=True)
        result["layers"][kind] = figures
    write_json(options.output or OUTPUT, result)


if __name__ == "__main__":
    main()
