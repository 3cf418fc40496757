"""Sizes of a problem, the estimated cost of a method, and the choice of one.

Each algorithm has its cost function in its own file, beside what it runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import log2

import torch
from torch import Tensor

from lmu._arguments import flag, instance, whole, word

GEMM = 3e11  # FLOPs a second of matrix products, fitted on two cores; see docs/engine.md


@dataclass(frozen=True)
class Cost:
    """Arithmetic of a forward pass, and its peak memory beyond the arguments."""

    flops: float
    bytes: float  # of float32


@dataclass(frozen=True)
class MethodChoice:
    """The chosen method, the reason in words, and the cost where it is known."""

    method: str
    reason: str
    cost: Cost | None = None


_ONE, _NONE = whole(1), whole(0)
_RULES = (
    ("length", _ONE),
    ("order", _ONE),
    ("channels", _ONE),
    ("rows", _NONE),
    ("batch", _NONE),
    ("device", word),
)


@dataclass(frozen=True)
class Problem:
    """The sizes of a memory, or of hidden units that read it, over a sequence.

    Attributes:
        length: Time steps.
        order: Order of the memory.
        rows: Hidden units; 0 if only states are needed.
        batch: Number of sequences.
        channels: Number of memories.
        device: Type of the device, such as ``"cpu"``.
    """

    length: int
    order: int
    rows: int = 0
    batch: int = 1
    channels: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        if torch.compiler.is_compiling():
            return
        for name, rule in _RULES:
            rule(name, getattr(self, name))


cached_problem = lru_cache(maxsize=4096)(Problem)


def problem_of(u: Tensor, Bd: Tensor, rows: int = 0) -> Problem:
    """Return the sizes of the memory of an input (batch, time, channels), cached."""
    batch, length, channels = u.shape
    return cached_problem(length, Bd.shape[-1], rows, batch, channels, u.device.type)


CostFunction = Callable[[Problem], Cost]
Seconds = Callable[[Problem], float]


_problem = instance(Problem)


def check_choice(problem: Problem, **flags: bool) -> None:
    """Refuse arguments of a choice that are of the wrong type."""
    _problem("problem", problem)
    for name, value in flags.items():
        flag(name, value)


def compare(problem: Problem, estimates: Mapping[str, Seconds]) -> dict[str, float]:
    """Estimated seconds of each method, forward and backward, the fastest first.

    Only their ratios matter.
    """
    seconds = {name: estimate(problem) for name, estimate in estimates.items()}
    return dict(sorted(seconds.items(), key=lambda item: item[1]))


def explain_comparison(seconds: Mapping[str, float]) -> str:
    """Return the reason for the first of some methods, in words."""
    (_, best), (name, second), *_ = seconds.items()
    if not best or second / best < 1.05:  # the estimates tell no more; an empty batch costs nothing
        return f"about as fast as by method {name!r}"
    return f"about {second / best:.1f} times as fast as by method {name!r}"


def out_of_cache(size: float, slower: float) -> float:
    """Factor by which transforms of a sequence of ``size`` bytes are slower than in the cache.

    Args:
        size: Bytes that one sequence takes.
        slower: Slowdown of a doubling beyond a mebibyte.
    """
    return 1 + slower * max(0.0, log2(size / 2**20))
