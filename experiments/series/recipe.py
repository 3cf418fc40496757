"""Data and settings of a network's training."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Part(NamedTuple):
    """Samples of training or test.

    Attributes:
        x: Series (samples, time, features).
        lengths: Steps of the series (samples,).
        y: Labels (samples,) or next values (samples, horizon).
    """

    x: Tensor
    lengths: Tensor
    y: Tensor


@dataclass(frozen=True)
class Recipe:
    """Settings of training by AdamW with a cosine schedule, gradients clipped to a norm of 1.

    Attributes:
        epochs: Passes over the training part.
        learning_rate: Learning rate of the first step; falls to zero over the epochs.
        dropout: Dropout of the hidden units before the read-out.
        noise: Standard deviation of noise added to normalized inputs.
        weight_decay: Weight decay of matrices.
        batch_size: Series per step.
    """

    epochs: int
    learning_rate: float
    dropout: float = 0.0
    noise: float = 0.0
    weight_decay: float = 0.01
    batch_size: int = 32
