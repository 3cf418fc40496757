"""Sizes of a problem, the estimated cost of a method, and the choice of one.

Each algorithm has its cost function in its own file, beside what it runs, and beside that its
terms: what its time is made of, such as calls, arithmetic and memory traffic. What a unit of each
takes is measured: see :mod:`lmu.ops.rates`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import log2
from typing import NamedTuple, Protocol

import torch

from lmu._arguments import flag, instance, whole, word
from lmu.ops import native, rates


@dataclass(frozen=True)
class Cost:
    """Arithmetic of a forward pass, and its peak memory beyond the arguments."""

    flops: float
    bytes: float  # of float32


@dataclass(frozen=True)
class MethodChoice:
    """The chosen method, the reason in words, and the cost where it is known.

    Attributes:
        method: A key of the family's table.
        reason: Why it was chosen.
        cost: Of a forward pass.
        machine: Threads, whether the compiled core can run and if not why, and where the estimates
            of time come from; empty where time did not decide.
    """

    method: str
    reason: str
    cost: Cost | None = None
    machine: str = ""


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


class Machine(NamedTuple):
    """What the time of a method depends on besides the sizes, on one machine."""

    threads: int  # of PyTorch within an operation
    core: bool  # whether the compiled core can run
    rates: int = 0  # which tables of rates are in use: a number that changes with them


def present_machine() -> Machine:
    """Return what holds for this process now."""
    return Machine(torch.get_num_threads(), native.is_available(), rates.version())


CostFunction = Callable[[Problem], Cost]
# Amounts of what a method's forward and backward take, by the names of `rates.TYPICAL`.
Terms = Callable[[Problem, Machine], Mapping[str, float]]


class Method(Protocol):
    """A row of a table of methods, as far as the choice reads it."""

    @property
    def terms(self) -> Terms | None:
        """What its time is made of; None if it is not chosen by time."""
        ...

    @property
    def needs(self) -> str:
        """``"core"``, ``"triton"``, or ``""`` if it runs everywhere."""
        ...


_problem = instance(Problem)


def check_choice(problem: Problem, **flags: bool) -> None:
    """Refuse arguments of a choice that are of the wrong type."""
    _problem("problem", problem)
    for name, value in flags.items():
        flag(name, value)


def can_run(needs: str, device: str, machine: Machine) -> bool:
    """True if what a method needs is there."""
    return not needs or (device == "cpu" and machine.core if needs == "core" else device == "cuda")


def compare(
    family: str, methods: Mapping[str, Method], problem: Problem, machine: Machine
) -> dict[str, float]:
    """Estimated seconds of methods that can run, forward and backward, the fastest first.

    Args:
        family: ``"memory"``, ``"readout"`` or ``"lmu"``.
        methods: Rows of its table; those without terms are left out.
        problem: Its sizes.
        machine: Where it runs.
    """
    seconds = {
        name: seconds_of(family, name, method.terms, problem, machine)
        for name, method in methods.items()
        if method.terms and can_run(method.needs, problem.device, machine)
    }
    return dict(sorted(seconds.items(), key=lambda item: item[1]))


def seconds_of(family: str, name: str, terms: Terms, problem: Problem, machine: Machine) -> float:
    """Estimated seconds of a method, forward and backward."""
    rate = rates.rates(family, name, problem.device, *machine)
    return sum(rate[term] * amount for term, amount in terms(problem, machine).items())


def explain_machine(machine: Machine, device: str) -> str:
    """Say in words where methods run, and where their estimates come from."""
    text = device
    if device == "cpu":
        status = native.native_status()
        core = f"compiled core {status.variant}"
        core = core if machine.core else f"no compiled core: {status.reason}"
        text = f"{machine.threads} thread{'s' if machine.threads > 1 else ''}, {core}"
    return f"{text}; {rates.source(device, machine.threads, machine.core)}"


def explain_comparison(seconds: Mapping[str, float]) -> str:
    """Return the reason for the first of some methods, in words."""
    (_, best), *others = seconds.items()
    if not others:
        return "no other method can run"
    name, second = others[0]
    if not best or second / best < 1.05:  # the estimates tell no more; an empty batch costs nothing
        return f"about as fast as by method {name!r}"
    return f"about {second / best:.1f} times as fast as by method {name!r}"


def doublings(size: float, cache: float = 1 << 20) -> float:
    """Doublings by which ``size`` bytes, those of one sequence's transforms, leave a cache."""
    return max(0.0, log2(size / cache)) if size else 0.0


def beyond(size: float, cache: float) -> float:
    """Bytes of ``size`` that do not stay in a cache of ``cache`` bytes."""
    return max(0.0, size - cache)
