"""The nonlinear LMU by its equations, step by step: the reference of all methods."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lmu.ops._activations import activation_of


class LMUWeights(NamedTuple):
    """Everything that multiplies a signal in the LMU; all of one dtype and on one device.

    Several memory channels are one system of ``order = channels * memory_size`` states: ``E`` has a
    block on its diagonal for each channel, ``Bd`` a column.
    """

    e_x: Tensor  # (channels, input)
    e_h: Tensor  # (channels, hidden)
    e_m: Tensor  # (channels, order)
    W_x: Tensor  # (hidden, input)
    W_h: Tensor  # (hidden, hidden)
    W_m: Tensor  # (hidden, order)
    E: Tensor  # (order, order), Ad - I: see lmu_step
    Bd: Tensor  # (order, channels)


def naive(
    x: Tensor,
    h: Tensor,
    m: Tensor,
    weights: LMUWeights,
    activation: str | Callable[[Tensor], Tensor] = "tanh",
) -> tuple[Tensor, Tensor, Tensor]:
    """All hidden states (batch, time, hidden) and the last ``h`` and ``m``, by autograd.

    Shapes: ``x`` (batch, time, input), ``h`` (batch, hidden) and ``m`` (batch, order) before the
    first step; all in the dtype of the weights, float64 for the truth.

    Cost: 2 b T (d^2 + n^2 + n d) FLOPs in T sequential steps.

    Source: Voelker et al., NeurIPS 2019, equations 4, 6 and 7.
    """
    w, f = weights, activation_of(activation).function
    outputs = []
    for x_t in x.unbind(1):
        u = x_t @ w.e_x.mT + h @ w.e_h.mT + m @ w.e_m.mT
        m = m + m @ w.E.mT + u @ w.Bd.mT
        h = f(x_t @ w.W_x.mT + h @ w.W_h.mT + m @ w.W_m.mT)
        outputs.append(h)
    return torch.stack(outputs, dim=1), h, m
