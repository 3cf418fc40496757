"""The registry of cases: a new one is one entry of :data:`CASES`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.baselines import StepwiseLMU, TextbookLMUFFT
from benchmarks.harness import Case, Contender
from benchmarks.work import (
    LENGTH,
    Build,
    Pick,
    every,
    forward,
    incomparable,
    last,
    one_step,
    streaming,
    training_step,
)
from lmu import LMU, LMUFFT
from lmu.ops import memory

FFT_SIZES = (1, 346, 468, 784, 784)  # input, hidden, memory, seq_len, theta: Chilkuri & Eliasmith
LMU_SIZES = (1, 212, 256, 784)  # input, hidden, memory, theta: Voelker et al.


class ExactLMUFFT(LMUFFT):
    """The layer with its memory run step by step."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """All hidden states and the last."""
        m, _ = memory(torch.relu(self.W_u(x)), self.Ad, self.Bd, method="naive")
        h = torch.relu(self.W_h(torch.cat([m[:, :, 0], x], dim=2)))
        return h, h[:, -1]


def lmu_fft(kind: type[nn.Module] = LMUFFT, **kwargs: bool) -> nn.Module:
    """A parallel layer of the paper's size, with the weights that all contenders share."""
    torch.manual_seed(0)
    weights = LMUFFT(*FFT_SIZES).state_dict()
    layer = kind(*FFT_SIZES, **kwargs)
    layer.load_state_dict(weights)
    return layer


def lmu(kind: type[nn.Module] = LMU) -> nn.Module:
    """A nonlinear layer of the paper's size, with the weights that all contenders share."""
    torch.manual_seed(0)
    weights = LMU(*LMU_SIZES).state_dict()
    layer = kind(*LMU_SIZES)
    layer.load_state_dict(weights)
    return layer


def others(hidden: int, pick: Pick, batch: int) -> dict[str, Callable[[], Contender]]:
    """What a user would have taken instead."""
    kinds = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
    builds = {name: partial(kind, 1, hidden, batch_first=True) for name, kind in kinds.items()}
    return {
        f"nn.{name}(1, {hidden})": partial(incomparable, build, pick, batch)
        for name, build in builds.items()
    }


def exact(contender: Callable[[], Contender]) -> list[Tensor]:
    """What a contender gets."""
    result = contender().result
    assert result is not None
    return result()


def double(build: Build) -> nn.Module:
    """The layer in float64."""
    return build().double()


def fft_case(pick: Pick, rounds: int, title: str, ours: Build, *, rivals: bool = False) -> Case:
    """A case of the parallel layer."""
    contenders = {"LMUFFT": partial(training_step, ours, pick, 100)}
    textbook = partial(lmu_fft, TextbookLMUFFT)
    contenders["textbook: FFT of all states, read-out at all steps"] = partial(
        training_step, textbook, pick, 100
    )
    if rivals:
        contenders |= others(FFT_SIZES[1], pick, 100)
        contenders |= peers.parallel(FFT_SIZES[1], FFT_SIZES[2], 100)
    right = partial(training_step, partial(double, partial(lmu_fft, ExactLMUFFT)), pick, 100)
    # Of millions of hidden units, rounding takes a few across the kink of the relu, whatever the
    # algorithm, and their gradients then differ altogether.
    return Case(title, contenders, partial(exact, right), rounds, tolerance=5e-3)


LMU_TITLE = "LMU 212/256, T 784, batch {}, all outputs, {}"
TEXTBOOK_LMU = "textbook: the equations in a loop"


def lmu_case(batch: int, rounds: int, *, rivals: bool = False) -> Case:
    """A case of the nonlinear layer."""
    stepwise = partial(lmu, StepwiseLMU)
    contenders = {
        "LMU": partial(training_step, lmu, every, batch),
        TEXTBOOK_LMU: partial(training_step, stepwise, every, batch),
    }
    if rivals:
        contenders |= others(LMU_SIZES[1], every, batch)
        contenders |= peers.recurrent(LMU_SIZES[1], LMU_SIZES[2], batch)
    right = partial(training_step, partial(double, stepwise), every, batch)
    title = LMU_TITLE.format(batch, "forward + backward")
    return Case(title, contenders, partial(exact, right), rounds)


def forward_case(batch: int) -> Case:
    """Forward of the nonlinear layer, beside the rate of this machine's matrix products."""
    stepwise = partial(lmu, StepwiseLMU)
    contenders = {
        "LMU": partial(forward, lmu, every, batch),
        TEXTBOOK_LMU: partial(forward, stepwise, every, batch),
    }
    right = partial(forward, partial(double, stepwise), every, batch)
    _, n, d, _ = LMU_SIZES
    flops = 2.0 * batch * LENGTH * (n * n + n * d + d * d)
    title = LMU_TITLE.format(batch, "forward")
    return Case(title, contenders, partial(exact, right), flops=flops)


class CalledCell(nn.Module):
    """The textbook's step as a cell that is called."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, h: Tensor, m: Tensor) -> tuple:
        """The new state."""
        step: Any = self.layer.step
        return step(x, h, m)


def step_case() -> Case:
    """The latency of one step of a stream."""

    def by_layer(layer: Any, x: Tensor, h: Tensor, m: Tensor) -> tuple:
        return layer.step(x, (h, m))[1]

    def by_cell(layer: Any, x: Tensor, h: Tensor, m: Tensor) -> tuple:
        return layer(x, h, m)

    def cell(kind: type[nn.Module] = StepwiseLMU) -> nn.Module:
        return CalledCell(lmu(kind))

    textbook = partial(one_step, step=by_cell)
    contenders = {
        "Stream": partial(streaming, lmu),
        "LMU.step": partial(one_step, lmu, step=by_layer),
        "textbook: a cell with the equations": partial(textbook, cell),
    }
    right = partial(textbook, partial(double, cell))
    return Case("LMU 212/256, one step, batch 1, inference", contenders, partial(exact, right))


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
