"""Noise in training, against overfitting."""

import math

import torch
from torch import Tensor, nn

from lmu._arguments import explained, number, tensor


class GaussianNoise(nn.Module):
    """Add noise in training: ``y = x + std z`` with z drawn from N(0, 1); in evaluation ``y = x``.

    After a normalization, ``std`` is the noise in units of the signal.

    Args:
        std: Standard deviation of the noise, at least 0.

    Raises:
        TypeError: ``std`` is no number.
        ValueError: ``std`` is negative or not finite.
    """

    @explained(std=number(0))
    def __init__(self, std: float) -> None:
        super().__init__()
        if not 0 <= std < math.inf:
            raise ValueError(f"std must be a number of at least 0, got {std}")
        self.std = std

    @explained(x=tensor(floating=True))
    def forward(self, x: Tensor) -> Tensor:
        """Return noisy x of the same shape, or x itself in evaluation."""
        return x + self.std * torch.randn_like(x) if self.training and self.std else x

    def extra_repr(self) -> str:
        """The standard deviation."""
        return f"std={self.std}"
