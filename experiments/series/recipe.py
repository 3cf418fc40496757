"""The data and settings of a network's training."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Part(NamedTuple):
    """Samples to train or test with.

    Attributes:
        x: Series (samples, time, features).
        lengths: Their steps (samples,).
        y: Labels (samples,) or what comes next (samples, horizon).
    """

    x: Tensor
    lengths: Tensor
    y: Tensor


@dataclass(frozen=True)
class Recipe:
    """How long and how fast a network is trained; AdamW, cosine, gradients clipped to a norm of 1.

    Attributes:
        epochs: Passes over the training part.
        learning_rate: At the first step; falls to zero over the epochs.
        dropout: Of the hidden units that are read out.
        noise: Deviation of the noise that is added to normalized inputs.
        weight_decay: Of matrices.
        batch_size: Series per step.
    """

    epochs: int
    learning_rate: float
    dropout: float = 0.0
    noise: float = 0.0
    weight_decay: float = 0.01
    batch_size: int = 32
