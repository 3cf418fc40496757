"""Sizes of the grid; a fixed part of all combinations, in a fixed order."""

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

LARGEST = 2**30  # bytes that the textbook's parallel layer may take
BATCHES, LENGTHS = (1, 8, 32, 100), (16, 64, 256, 1000, 4000)
ORDERS, CHANNELS = (4, 8, 32, 128, 468), (1, 4, 16)
FFT, LMU, MEMORY = "LMUFFT", "LMU", "LegendreMemory"


@dataclass(frozen=True)
class Case:
    """Sizes of a layer and its input."""

    layer: str
    batch: int
    length: int
    order: int
    units: int = 0  # of the hidden units; 0 of a memory alone
    channels: int = 1  # memories and, for the parallel layer, input features

    def __str__(self) -> str:
        """Name the sizes."""
        text = f"{self.layer} batch {self.batch} T {self.length} order {self.order}"
        text += f" units {self.units}" if self.units else ""
        return text + (f" channels {self.channels}" if self.layer != LMU else "")

    @property
    def sizes(self) -> dict[str, Any]:
        """The fields, for records."""
        return asdict(self)


def parallel() -> Iterator[Case]:
    """Yield every other combination of the parallel layer's sizes, as on a chessboard."""
    axes = (
        (1, 8, 32, 100),
        (16, 64, 256, 1000, 4000),
        (4, 8, 32, 128, 468),
        (16, 64, 256),
        (1, 4, 16),
    )
    for case in _every(2, FFT, *axes):
        if textbook_bytes(case) <= LARGEST:
            yield case
    yield from _long(FFT, (16, 64, 346))


def recurrent() -> Iterator[Case]:
    """Yield a quarter of the combinations of the nonlinear layer's sizes, and long sequences."""
    axes = (1, 4, 16, 64), (8, 16, 32, 64, 128), (32, 64, 128, 256), (64, 128, 256, 512), (1,)
    yield from _every(4, LMU, *axes)
    for batch, (units, order) in product((1, 16, 100), ((212, 256), (64, 32))):
        yield Case(LMU, batch, 784, order, units)
    for batch, length in product((1, 16), (4, 40)):
        yield Case(LMU, batch, length, 1024, 16)


def states() -> Iterator[Case]:
    """Yield a third of the combinations of the memory's sizes."""
    for case in _every(3, MEMORY, BATCHES, LENGTHS, ORDERS, (0,), CHANNELS):
        if textbook_bytes(case) <= LARGEST:
            yield case
    yield from _long(MEMORY, (0, 0, 0))


def _long(layer: str, units: tuple[int, int, int]) -> Iterator[Case]:
    """Yield long sequences, so that the fit need not go far beyond what it has seen."""
    for length, order, n in zip((200_000, 50_000, 16_000), (16, 64, 468), units, strict=True):
        yield Case(layer, 1, length, order, n)
        yield Case(layer, 4, length // 4, order, n, 2)


def _every(step: int, layer: str, *axes: tuple[int, ...]) -> Iterator[Case]:
    """Yield the combinations whose places on the axes sum to a multiple of ``step``."""
    for places in product(*(range(len(axis)) for axis in axes)):
        if sum(places) % step == 0:
            batch, length, order, units, channels = (
                a[i] for a, i in zip(axes, places, strict=True)
            )
            yield Case(layer, batch, length, order, units, channels)


def users() -> list[Case]:
    """Return sizes that users have: sensors, audio features, machine data; and the papers'."""
    sizes = (
        (1, 64, 8, 32, 12), (8, 100, 16, 32, 3), (32, 128, 32, 64, 16), (8, 500, 64, 128, 6),
        (1, 1000, 64, 64, 1), (32, 1000, 32, 128, 4), (100, 784, 468, 346, 1),
    )  # fmt: skip
    steps = (1, 64, 32, 64), (8, 100, 32, 64), (32, 128, 64, 128), (4, 50, 256, 512)
    papers = (1, 784, 256, 212), (16, 784, 256, 212), (100, 784, 256, 212)
    return [Case(FFT, *s) for s in sizes] + [Case(LMU, *s) for s in steps + papers]


def textbook_bytes(case: Case) -> float:
    """Memory of the textbook's forward and backward: spectra and signals of states, and outputs."""
    return case.batch * case.length * (24.0 * case.channels * case.order + 12.0 * case.units)


def grid(quick: bool = False) -> list[Case]:
    """Return all cases in a fixed random order, so that any first part is a fair sample."""
    cases = list(dict.fromkeys([*users(), *parallel(), *recurrent(), *states()]))
    random.Random(17).shuffle(cases)
    if quick:
        small = [c for c in cases if c.batch * c.length * c.order * c.channels <= 1 << 20]
        return small[:40]
    return cases
