"""The work that contenders do: a training step, a forward, a step of a stream."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import Contender
from lmu import LMU, Stream

LENGTH = 784
STEP_SIZES = (1, 212, 256)  # input, hidden, memory

Build = Callable[[], nn.Module]
Pick = Callable[[tuple], Tensor]


def pixels(batch: int, dtype: torch.dtype, length: int = LENGTH) -> Tensor:
    """A batch as psMNIST gives it: (batch, length, 1), values from 0 to 1."""
    g = torch.Generator().manual_seed(0)
    return torch.rand(batch, length, 1, dtype=torch.float64, generator=g).to(dtype)


def training_step(
    build: Build, pick: Pick, batch: int, length: int = LENGTH, copies: int = 1
) -> Contender:
    """Forward and backward of what ``pick`` takes from the layer's output, on its device.

    Backward starts from a fixed gradient: a loss would cost as much as some layers do. With
    ``copies`` the batch and its gradient come so many times over, which leaves outputs as they are
    and multiplies gradients of weights.
    """
    layer = build()
    weight = next(layer.parameters())
    x = pixels(batch, weight.dtype, length).repeat(copies, 1, 1).to(weight.device)
    with torch.no_grad():
        shape = pick(layer(x[:batch])).shape
    g = torch.Generator().manual_seed(1)
    grad = torch.randn(shape, dtype=torch.float64, generator=g).to(x)
    grad = grad.repeat(copies, *[1] * (grad.ndim - 1))

    def result() -> list[Tensor]:
        layer.zero_grad()
        output = pick(layer(x))
        output.backward(grad)
        return [output.detach()] + [p.grad for p in layer.parameters() if p.grad is not None]

    return Contender(result, result)


def incomparable(build: Build, pick: Pick, batch: int, length: int = LENGTH) -> Contender:
    """The same work of a layer that computes another function: timed, not checked."""
    return Contender(training_step(build, pick, batch, length).work)


def forward(build: Build, pick: Pick, batch: int) -> Contender:
    """Forward alone, without gradients."""
    layer = build()
    x = pixels(batch, next(layer.parameters()).dtype)

    @torch.no_grad()
    def result() -> list[Tensor]:
        return [pick(layer(x))]

    return Contender(result, result)


def step_inputs(layer: nn.Module) -> list[Tensor]:
    """An input and a state (1, size) for one step, of the layer's dtype and on its device."""
    like = next(layer.parameters())
    g = torch.Generator().manual_seed(0)
    return [torch.rand(1, size, dtype=torch.float64, generator=g).to(like) for size in STEP_SIZES]


def one_step(build: Build, step: Callable[[Any, Tensor, Tensor, Tensor], tuple]) -> Contender:
    """A step of a stream, batch 1, without gradients."""
    layer = build()
    x, h, m = step_inputs(layer)

    def result() -> list[Tensor]:
        with torch.no_grad():
            return list(step(layer, x, h, m))

    return Contender(result, result)


def streaming(build: Build) -> Contender:
    """A step of a :class:`lmu.Stream`; many in turn, as its work is not the same at each."""
    layer = build()
    assert isinstance(layer, LMU)
    stream = Stream(layer)
    x, h, m = step_inputs(layer)

    def result() -> list[Tensor]:
        stream.state = h, m
        stream(x)
        return list(stream.state)

    return Contender(lambda: stream(x), result)


def every(outputs: tuple) -> Tensor:
    """The hidden states of all steps."""
    return outputs[0]


def last(outputs: tuple) -> Tensor:
    """The last hidden state, which the parallel layers return in the second place."""
    return outputs[1]
