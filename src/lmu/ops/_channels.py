"""Memories whose channels have dynamics of their own."""

from collections.abc import Iterator

from torch import Tensor


def channels(
    number: int, Ad: Tensor, Bd: Tensor, H: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """``Ad``, ``Bd`` and ``H`` of each channel, whether it shares them or not."""
    for c in range(number):
        if Ad.ndim == 2:
            yield Ad, Bd, H
        else:
            yield Ad[c], Bd[c], None if H is None else H[c]
