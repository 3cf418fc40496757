"""What launches cost: eager, compiled, and as CUDA graphs, for a training step and one step."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.baselines import StepwiseLMU
from benchmarks.cases import LMU_SIZES, CalledCell
from benchmarks.gpu.layers import in_double, layer
from benchmarks.gpu.session import Builds, Session, tf32
from benchmarks.harness import Contender
from benchmarks.work import every, one_step, step_inputs, streaming, training_step
from lmu import LMU

TINY = (1, 12, 16, 30)
GRAPH = "as a CUDA graph"


def measure(s: Session) -> None:
    """Compare ways to launch the nonlinear layer."""
    with tf32(False):
        for batch in (2,) if s.quick else (1, 100):
            train(s, TINY if s.quick else LMU_SIZES, batch)
        step(s)


def compiler(s: Session, **options: Any) -> Callable:
    """The compiler; a quick run only traces, and generates no code."""
    return partial(torch.compile, **({"backend": "eager"} if s.quick else options))


def train(s: Session, sizes: tuple[int, ...], batch: int) -> None:
    """Forward and backward of all outputs."""
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
    """Figures of all contenders, of CUDA graphs only where there are any."""
    if s.cuda:
        s.left_out["memory of CUDA graphs"] = "it is taken at capture, and what is shown is replay"
    else:
        s.left_out["CUDA graphs"] = "only CUDA has them"
    return s.compare(title, builds, exact, others=graphs if s.cuda else None)


def step(s: Session) -> None:
    """One step of a stream, batch 1, without gradients."""
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
    right = one_step(lambda: textbook_cell(torch.device("cpu")).double(), by_cell).result
    assert right is not None
    s.rows.append({"title": title, "contenders": compare(s, title, builds, graphs, right())})


def textbook_cell(device: torch.device) -> nn.Module:
    """The equations' step, with the weights of all."""
    return CalledCell(layer(StepwiseLMU, LMU, LMU_SIZES, device))


def by_layer(built: Any, x: Tensor, h: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """A step of our layer."""
    return built.step(x, (h, m))[1]


def by_cell(built: Any, x: Tensor, h: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """A step of a cell that is called."""
    return built(x, h, m)


def graphed_step(build: Callable[[], nn.Module]) -> Contender:
    """A step of the layer that is captured once, with its state in place, and then replayed."""
    built: Any = build()
    x, h, m = step_inputs(built)
    start = h.clone(), m.clone()

    @torch.no_grad()
    def once() -> None:
        for old, new in zip((h, m), by_layer(built, x, h, m), strict=True):
            old.copy_(new)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what is set up at first calls must not be captured
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
