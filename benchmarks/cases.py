"""Registry of benchmark cases, :data:`CASES`; a new case is one entry."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from benchmarks import peers
from benchmarks.baselines import NaiveLMUFFT, StepwiseLMU, TextbookLMUFFT
from benchmarks.harness import Case
from benchmarks.work import (
    LENGTH,
    Build,
    Contender,
    Pick,
    every,
    forward,
    in_double,
    incomparable,
    last,
    one_step,
    streaming,
    training_step,
    with_weights_of,
)
from lmu import LMU, LMUFFT

FFT_SIZES = (1, 346, 468, 784, 784)  # input, hidden, memory, seq_len, theta: Chilkuri & Eliasmith
LMU_SIZES = (1, 212, 256, 784)  # input, hidden, memory, theta: Voelker et al.


def lmu_fft(kind: type[nn.Module] = LMUFFT, **kwargs: bool) -> nn.Module:
    """Build a parallel layer of the paper's size; all contenders have the same weights."""
    return with_weights_of(LMUFFT, kind, FFT_SIZES, **kwargs)


def lmu(kind: type[nn.Module] = LMU) -> nn.Module:
    """Build a nonlinear layer of the paper's size; all contenders have the same weights."""
    return with_weights_of(LMU, kind, LMU_SIZES)


def others(hidden: int, pick: Pick, batch: int) -> dict[str, Callable[[], Contender]]:
    """Return PyTorch's recurrent layers, which users would take instead."""
    kinds = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
    builds = {name: partial(kind, 1, hidden, batch_first=True) for name, kind in kinds.items()}
    return {
        f"nn.{name}(1, {hidden})": partial(incomparable, build, pick, batch)
        for name, build in builds.items()
    }


def fft_case(pick: Pick, rounds: int, title: str, build: Build, *, rivals: bool = False) -> Case:
    """Make a case of the parallel layer."""
    contenders = {"LMUFFT": partial(training_step, build, pick, 100)}
    textbook = partial(lmu_fft, TextbookLMUFFT)
    contenders["textbook: FFT of all states, read-out at all steps"] = partial(
        training_step, textbook, pick, 100
    )
    if rivals:
        contenders |= others(FFT_SIZES[1], pick, 100)
        contenders |= peers.parallel(FFT_SIZES[1], FFT_SIZES[2], 100)
    step = partial(training_step, pick=pick, batch=100)
    exact = partial(in_double, partial(lmu_fft, NaiveLMUFFT), step)
    # Whatever the algorithm, rounding moves a few of millions of hidden units across the kink of
    # the relu, and their gradients then differ completely.
    return Case(title, contenders, exact, rounds, tolerance=5e-3)


LMU_TITLE = "LMU 212/256, T 784, batch {}, all outputs, {}"
TEXTBOOK_LMU = "textbook: the equations in a loop"


def lmu_case(batch: int, rounds: int, *, rivals: bool = False) -> Case:
    """Make a case of the nonlinear layer."""
    stepwise = partial(lmu, StepwiseLMU)
    contenders = {
        "LMU": partial(training_step, lmu, every, batch),
        TEXTBOOK_LMU: partial(training_step, stepwise, every, batch),
    }
    if rivals:
        contenders |= others(LMU_SIZES[1], every, batch)
        contenders |= peers.recurrent(LMU_SIZES[1], LMU_SIZES[2], batch)
    exact = partial(in_double, stepwise, partial(training_step, pick=every, batch=batch))
    return Case(LMU_TITLE.format(batch, "forward + backward"), contenders, exact, rounds)


def forward_case(batch: int) -> Case:
    """Make a case of the nonlinear layer's forward pass, with the rate of matrix products."""
    stepwise = partial(lmu, StepwiseLMU)
    contenders = {
        "LMU": partial(forward, lmu, every, batch),
        TEXTBOOK_LMU: partial(forward, stepwise, every, batch),
    }
    exact = partial(in_double, stepwise, partial(forward, pick=every, batch=batch))
    _, n, d, _ = LMU_SIZES
    flops = 2.0 * batch * LENGTH * (n * n + n * d + d * d)
    return Case(LMU_TITLE.format(batch, "forward"), contenders, exact, flops=flops)


class CalledCell(nn.Module):
    """A step of the textbook layer as a callable cell."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, h: Tensor, m: Tensor) -> tuple:
        """Return the new state."""
        step: Any = self.layer.step
        return step(x, h, m)


def by_layer(layer: Any, x: Tensor, h: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Return the new state by ``step`` of a layer of lmu."""
    return layer.step(x, (h, m))[1]


def by_cell(cell: Any, x: Tensor, h: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Return the new state by calling a cell."""
    return cell(x, h, m)


def step_case() -> Case:
    """Make a case of the latency of one step of a stream."""

    def cell() -> nn.Module:
        return CalledCell(lmu(StepwiseLMU))

    textbook = partial(one_step, step=by_cell)
    contenders = {
        "Stream": partial(streaming, lmu),
        "LMU.step": partial(one_step, lmu, step=by_layer),
        "textbook: a cell with the equations": partial(textbook, cell),
    }
    exact = partial(in_double, cell, textbook)
    return Case("LMU 212/256, one step, batch 1, inference", contenders, exact)


FFT_TITLE = "LMUFFT 346/468, T 784, batch 100, {}, forward + backward"
CASES: dict[str, Case] = {
    "lmufft-last": fft_case(
        last, 9, FFT_TITLE.format("last output"), partial(lmu_fft, return_sequences=False)
    ),
    "lmufft-all": fft_case(every, 5, FFT_TITLE.format("all outputs"), lmu_fft, rivals=True),
    "lmu-batch-1": lmu_case(1, 9),
    "lmu-batch-16": lmu_case(16, 9),
    "lmu-batch-100": lmu_case(100, 5, rivals=True),
    "lmu-forward-100": forward_case(100),
    "lmu-step": step_case(),
}
