"""Timed work of contenders: a training step, a forward pass, a step of a stream."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lmu import LMU, Stream

LENGTH = 784
STEP_SIZES = (1, 212, 256)  # input, hidden, memory

Build = Callable[[], nn.Module]
Pick = Callable[[tuple], Tensor]


@dataclass(frozen=True)
class Contender:
    """An implementation of a case: ``work`` is timed, ``result`` is checked."""

    work: Callable[[], object]
    result: Callable[[], list[Tensor]] | None = None  # None: another function, not compared


def every(outputs: tuple) -> Tensor:
    """Pick the hidden states of all steps."""
    return outputs[0]


def last(outputs: tuple) -> Tensor:
    """Pick the last hidden state, the second output of the parallel layers."""
    return outputs[1]


def pixels(batch: int, dtype: torch.dtype, length: int = LENGTH) -> Tensor:
    """Draw a batch like those of psMNIST: (batch, length, 1), values from 0 to 1."""
    g = torch.Generator().manual_seed(0)
    return torch.rand(batch, length, 1, dtype=torch.float64, generator=g).to(dtype)


def with_weights_of(
    like: Callable[..., nn.Module], kind: Callable[..., nn.Module], sizes: tuple, **kwargs: Any
) -> nn.Module:
    """Build ``kind(*sizes, **kwargs)`` with the initial weights of ``like(*sizes)``, seed 0."""
    torch.manual_seed(0)
    weights = like(*sizes).state_dict()
    layer = kind(*sizes, **kwargs)
    layer.load_state_dict(weights)
    return layer


def training(
    layer: nn.Module, x: Tensor, gradient: Tensor, pick: Pick = every
) -> Callable[[], list[Tensor]]:
    """Build a training step: forward of ``x`` and backward from a fixed gradient of the output.

    The gradient is fixed because a loss would cost as much as some layers. A call returns the
    output that ``pick`` takes and the gradients of the parameters.
    """

    def step() -> list[Tensor]:
        layer.zero_grad()
        output = pick(layer(x))
        output.backward(gradient)
        return [output.detach()] + [p.grad for p in layer.parameters() if p.grad is not None]

    return step


def training_step(
    build: Build, pick: Pick, batch: int, length: int = LENGTH, copies: int = 1
) -> Contender:
    """Build a training step on pixels, on the device and in the dtype of the layer.

    With ``copies`` the batch and its gradient are repeated, which repeats the outputs and
    multiplies the gradients of the weights.
    """
    layer = build()
    weight = next(layer.parameters())
    x = pixels(batch, weight.dtype, length).repeat(copies, 1, 1).to(weight.device)
    with torch.no_grad():
        shape = pick(layer(x[:batch])).shape
    g = torch.Generator().manual_seed(1)
    gradient = torch.randn(shape, dtype=torch.float64, generator=g).to(x)
    gradient = gradient.repeat(copies, *[1] * (gradient.ndim - 1))
    step = training(layer, x, gradient, pick)
    return Contender(step, step)


def incomparable(build: Build, pick: Pick, batch: int, length: int = LENGTH) -> Contender:
    """Build the same work of a layer that computes another function: timed, not checked."""
    return Contender(training_step(build, pick, batch, length).work)


def forward(build: Build, pick: Pick, batch: int) -> Contender:
    """Build a forward pass on pixels, without gradients."""
    layer = build()
    x = pixels(batch, next(layer.parameters()).dtype)

    @torch.no_grad()
    def result() -> list[Tensor]:
        return [pick(layer(x))]

    return Contender(result, result)


def step_inputs(layer: nn.Module) -> list[Tensor]:
    """Draw an input and a state (1, size) for one step, in the layer's dtype, on its device."""
    like = next(layer.parameters())
    g = torch.Generator().manual_seed(0)
    return [torch.rand(1, size, dtype=torch.float64, generator=g).to(like) for size in STEP_SIZES]


def one_step(build: Build, step: Callable[[Any, Tensor, Tensor, Tensor], tuple]) -> Contender:
    """Build a step at batch 1, without gradients."""
    layer = build()
    x, h, m = step_inputs(layer)

    def result() -> list[Tensor]:
        with torch.no_grad():
            return list(step(layer, x, h, m))

    return Contender(result, result)


def streaming(build: Build) -> Contender:
    """Build successive steps of a :class:`lmu.Stream`, whose costs differ."""
    layer = build()
    assert isinstance(layer, LMU)
    stream = Stream(layer)
    x, h, m = step_inputs(layer)

    def result() -> list[Tensor]:
        stream.state = h, m
        stream(x)
        return list(stream.state)

    return Contender(lambda: stream(x), result)


def in_double(build: Build, work: Callable[[Build], Contender]) -> list[Tensor]:
    """Return the result of a work by a layer in float64."""
    result = work(lambda: build().double()).result
    assert result is not None
    return result()
