"""Wrong calls of everything public: each is refused in words of ours, or is right after all."""

import ast
import linecache
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any

import torch

import experiments
import lmu
from tests.fuzz.targets import TARGETS
from tests.fuzz.values import spoil

OURS = tuple(str(Path(str(package.__file__)).parent) for package in (lmu, experiments))
ALLOWED = (ValueError, TypeError, NotImplementedError, ImportError, OSError)
SECONDS = 30  # an endless call is a finding


class HangError(Exception):
    """A call did not come back."""


@contextmanager
def limit(seconds: int) -> Iterator[None]:
    """Raise :class:`HangError` in a call that takes longer, where the system has alarms."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(*_: Any) -> None:
        raise HangError(f"no answer within {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@cache
def _raises(path: str) -> list[tuple[int, int]]:
    """The lines of each ``raise`` statement in a file."""
    tree = ast.parse("".join(linecache.getlines(path)))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    return [(node.lineno, node.end_lineno or node.lineno) for node in found]


def is_ours(error: BaseException) -> bool:
    """Whether an exception comes from a ``raise`` of this package, which has words for it."""
    place: TracebackType | None = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None:
        return False
    path = place.tb_frame.f_code.co_filename
    inside = any(first <= place.tb_lineno <= last for first, last in _raises(path))
    return path.startswith(OURS) and inside


def wrong_call(seed: int, number: int) -> tuple[str, Callable[..., Any], dict[str, Any]]:
    """What is called, in words, and how."""
    rng = Random(f"{seed} call {number}")
    name = list(TARGETS)[number % len(TARGETS)]
    torch.manual_seed(number)
    function, given = TARGETS[name]()
    words = []
    for argument in rng.sample(list(given), min(len(given), rng.choice([1, 1, 1, 2]))):
        how, given[argument] = spoil(given[argument], rng)
        words.append(f"{argument}: {how}")
    return f"{name}({', '.join(words)})", function, given


def check_call(seed: int, number: int) -> tuple[str, str, str]:
    """The call in words, what came of it (refused, accepted or WRONG), and the message."""
    words, function, given = wrong_call(seed, number)
    return (words, *outcome(lambda: function(**given)))


def outcome(call: Callable[[], Any]) -> tuple[str, str]:
    """Run a call and judge what it raised."""
    try:
        with limit(SECONDS):
            call()
    except ALLOWED as error:
        if isinstance(error, OSError) or is_ours(error):
            return "refused", str(error)
        return "WRONG", f"{type(error).__name__}: {error}"
    except Exception as error:  # everything else is a finding, whatever it is
        what = "refused" if is_ours(error) and isinstance(error, ArithmeticError) else "WRONG"
        return what, f"{type(error).__name__}: {error}"
    return "accepted", ""
