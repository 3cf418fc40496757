"""Cost of kernel launches: training and one step, eager, compiled and as CUDA graphs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.baselines import StepwiseLMU
from benchmarks.cases import LMU_SIZES, CalledCell, by_cell, by_layer
from benchmarks.gpu.layers import layer
from benchmarks.gpu.session import Builds, Session, tf32
from benchmarks.work import (
    Contender,
    every,
    in_double,
    one_step,
    step_inputs,
    streaming,
    training_step,
)
from lmu import LMU

TINY = (1, 12, 16, 30)
GRAPH = "as a CUDA graph"


def measure(s: Session) -> None:
    """Compare the nonlinear layer eager, compiled and as CUDA graphs."""
    with tf32(False):
        for batch in (2,) if s.quick else (1, 100):
            train(s, TINY if s.quick else LMU_SIZES, batch)
        step(s)


def compiler(s: Session, **options: Any) -> Callable:
    """Return the compiler; a quick run only traces, and generates no code."""
    return partial(torch.compile, **({"backend": "eager"} if s.quick else options))


def train(s: Session, sizes: tuple[int, ...], batch: int) -> None:
    """Time forward and backward of all outputs."""
    title = f"LMU {sizes[1]}/{sizes[2]}, T {sizes[3]}, batch {batch}, forward + backward"
    if s.late(title):
        return
    contender = partial(training_step, pick=every, batch=batch, length=sizes[3])
    build = partial(layer, LMU, LMU, sizes, s.device)
    x = torch.rand(batch, sizes[3], 1, device=s.device)

    def graphed() -> Any:
        return torch.cuda.make_graphed_callables(build(), (x,))

    builds = {
        "eager": partial(contender, build),
        "torch.compile": partial(contender, lambda: compiler(s)(build())),
    }
    graphs = {
        "torch.compile, reduce-overhead": partial(
            contender, lambda: compiler(s, mode="reduce-overhead")(build())
        ),
        GRAPH: partial(contender, graphed),
    }
    torch.compiler.reset()
    exact = in_double(partial(layer, StepwiseLMU, LMU, sizes, "cpu"), contender)
    s.rows.append({"title": title, "contenders": compare(s, title, builds, graphs, exact)})


def compare(
    s: Session, title: str, builds: Builds, graphs: Builds, exact: list[Tensor]
) -> dict[str, dict[str, Any]]:
    """Measure all contenders, CUDA graphs only on CUDA."""
    if s.cuda:
        s.left_out["memory of CUDA graphs"] = "it is taken at capture, and replay is shown"
    else:
        s.left_out["CUDA graphs"] = "only CUDA has them"
    return s.compare(title, builds, exact, others=graphs if s.cuda else None)


def step(s: Session) -> None:
    """Time one step of a stream, batch 1, without gradients."""
    title = "LMU 212/256, one step, batch 1, inference"
    if s.late(title):
        return
    build = partial(layer, LMU, LMU, LMU_SIZES, s.device)
    textbook = partial(textbook_cell, s.device)
    builds = {
        "Stream": partial(streaming, build),
        "LMU.step": partial(one_step, build, step=by_layer),
        "LMU.step, torch.compile": partial(one_step, build, step=compiler(s)(by_layer)),
        "textbook: a cell with the equations": partial(one_step, textbook, step=by_cell),
        "textbook, torch.compile": partial(one_step, textbook, step=compiler(s)(by_cell)),
    }
    graphs = {f"LMU.step, {GRAPH}": partial(graphed_step, build)}
    s.left_out[f"Stream, {GRAPH}"] = "its steps differ within a block, and a graph is one of them"
    torch.compiler.reset()
    cpu = partial(textbook_cell, torch.device("cpu"))
    exact = in_double(cpu, partial(one_step, step=by_cell))
    s.rows.append({"title": title, "contenders": compare(s, title, builds, graphs, exact)})


def textbook_cell(device: torch.device) -> nn.Module:
    """Build a step of the equations, with the weights of all contenders."""
    return CalledCell(layer(StepwiseLMU, LMU, LMU_SIZES, device))


def graphed_step(build: Callable[[], nn.Module]) -> Contender:
    """Capture a step of the layer once, with its state in place, and replay it."""
    built: Any = build()
    x, h, m = step_inputs(built)
    start = h.clone(), m.clone()

    @torch.no_grad()
    def once() -> None:
        for old, new in zip((h, m), by_layer(built, x, h, m), strict=True):
            old.copy_(new)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # the setup of the first calls must not be captured
        for _ in range(3):
            once()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once()

    def result() -> list[Tensor]:
        h.copy_(start[0])
        m.copy_(start[1])
        graph.replay()
        return [h.clone(), m.clone()]

    return Contender(graph.replay, result)
