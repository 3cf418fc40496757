"""Memories whose channels have dynamics of their own."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lmu._arguments import explained, tensor, whole


def channels(
    number: int, Ad: Tensor, Bd: Tensor, H: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """``Ad``, ``Bd`` and ``H`` of each channel, whether it shares them or not."""
    for c in range(number):
        if Ad.ndim == 2:
            yield Ad, Bd, H
        else:
            yield Ad[c], Bd[c], None if H is None else H[c]


@explained(E=tensor(floating=True), Bd=tensor(floating=True), channels=whole(1))
def join_channels(E: Tensor, Bd: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Several memories as one system, block by block.

    Shapes: ``E`` (order, order) and ``Bd`` (order,), or with a first axis for the channels; returns
    (channels * order, channels * order) and (channels * order, channels).
    """
    if channels == 1:
        return E.reshape(E.shape[-2:]), Bd.reshape(-1, 1)
    d = E.shape[-1]
    eye = torch.eye(channels, dtype=E.dtype, device=E.device)
    Es, Bs = E.expand(channels, d, d), Bd.expand(channels, d)
    joined = (eye[:, None, :, None] * Es[:, :, None, :]).reshape(channels * d, channels * d)
    return joined, (Bs[:, :, None] * eye[:, None, :]).reshape(channels * d, channels)
