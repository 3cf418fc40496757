"""Argument checks by rules for named arguments; messages give the value and the fix.

``@checked`` checks before each call. ``@explained``, for functions that run at every step, costs
nothing until a call fails, and then finds the wrong argument.
"""

import functools
import inspect
import math
import os
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
Rule = Callable[[str, Any], Any]

LARGEST = 2**31 - 1  # of sizes and lengths: larger ones fit into no memory

# Errors of Python, NumPy and PyTorch for wrong arguments.
_FOREIGN = (
    ArithmeticError, AttributeError, LookupError, RecursionError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip


def whole(least: int | None = None, most: int = LARGEST) -> Rule:
    """Rule: an integer in bounds."""
    bottom = -math.inf if least is None else least

    def rule(name: str, value: Any) -> None:
        if (type(value) is int and bottom <= value <= most) or isinstance(value, torch.SymInt):
            return
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{name} must be an int, got {shown(value)}")
        if least is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
        if int(value) > most:
            raise ValueError(f"{name} must be at most {most}, got {shown(value)}")

    return rule


def number(least: float = -math.inf, *, above: float = -math.inf, below: float = math.inf) -> Rule:
    """Rule: a finite number in bounds."""

    def rule(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name} must be a number, got {shown(value)}")
        try:
            real = float(value)
        except OverflowError:
            real = math.inf
        if not math.isfinite(real):
            raise ValueError(f"{name} must be a finite number, got {shown(value)}")
        if real < least or real <= above or real >= below:
            bounds = [f"at least {least:g}"] * (least > -math.inf)
            bounds += [f"above {above:g}"] * (above > -math.inf)
            bounds += [f"below {below:g}"] * (below < math.inf)
            raise ValueError(f"{name} must be {' and '.join(bounds)}, got {shown(value)}")

    return rule


def flag(name: str, value: Any) -> None:
    """Rule: True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")


def one_of(choices: Sequence[str]) -> Rule:
    """Rule: one of some words."""

    def rule(name: str, value: Any) -> None:
        if not isinstance(value, str) or value not in choices:
            kind = ValueError if isinstance(value, str) else TypeError
            raise kind(f"{name} must be one of {', '.join(choices)}, got {shown(value)}")

    return rule


def word(name: str, value: Any) -> None:
    """Rule: a str."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {shown(value)}")


def path(name: str, value: Any) -> None:
    """Rule: a path of a file or folder."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path, got {shown(value)}")


def instance(*kinds: type) -> Rule:
    """Rule: an instance of one of some classes."""
    names = " or ".join(kind.__name__ for kind in kinds)

    def rule(name: str, value: Any) -> None:
        if not isinstance(value, kinds):
            raise TypeError(f"{name} must be of {names}, got {shown(value)}")

    return rule


def tensor(
    *axes: str, floating: bool = False, whole: bool = False, finite: bool = False,
    filled: bool = False,
) -> Rule:  # fmt: skip
    """Rule: a dense tensor, with these axes if any are named.

    Args:
        axes: Names of all axes.
        floating: Of a floating dtype.
        whole: Of integers.
        finite: Without NaN and infinities.
        filled: With at least one number.
    """

    def rule(name: str, value: Any) -> None:
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
        if value.layout is not torch.strided:
            raise TypeError(f"{name} must be dense, got {value.layout}: give {name}.to_dense()")
        if floating and not value.is_floating_point():
            raise TypeError(f"{name} must be floating, got {value.dtype}")
        if whole and (value.dtype == torch.bool or value.is_floating_point() or value.is_complex()):
            raise TypeError(f"{name} must hold integers, got {value.dtype}")
        if axes and value.ndim != len(axes):
            text = ", ".join(axes) + "," * (len(axes) == 1)
            raise ValueError(f"{name} must have the shape ({text}), got {tuple(value.shape)}")
        if filled and not value.numel():
            raise ValueError(f"{name} must not be empty, got the shape {tuple(value.shape)}")
        if finite and value.is_meta:
            raise ValueError(f"{name} has no values: it is on the meta device")
        if finite and not value.isfinite().all():
            raise ValueError(f"{name} has values that are missing or not finite")

    return rule


def dtype(name: str, value: Any) -> None:
    """Rule: a dtype."""
    if not isinstance(value, torch.dtype):
        raise TypeError(f"{name} must be a torch.dtype, got {shown(value)}")


def optional(rule: Rule) -> Rule:
    """Rule: None, or a value that another rule allows."""
    return lambda name, value: None if value is None else rule(name, value)


def shown(value: Any) -> str:
    """Format a value for a message, briefly; a tensor by its shape, dtype and device."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype} on {value.device}"
    try:
        text = repr(value)
    except ValueError:  # an int with more digits than Python writes
        return f"an {type(value).__name__} of {value.bit_length()} bits"
    return text if len(text) <= 60 else f"{text[:40]}... ({type(value).__name__})"


def checked(**rules: Rule) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Check the named arguments before each call."""
    return functools.partial(_guard, rules, True)


def explained(**rules: Rule) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """If a call fails, name the wrong argument, or say that the arguments do not fit together."""
    return functools.partial(_guard, rules, False)


def _is_of_the_machine(error: BaseException) -> bool:
    """True if memory ran out, or a transform is active: then no argument is wrong."""
    # On a CPU a lack of memory has no error type of its own.
    lacks = isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
    return lacks or torch._C._are_functorch_transforms_active()


def _guard(rules: dict[str, Rule], early: bool, function: Callable[P, R]) -> Callable[P, R]:
    signature = inspect.signature(function)
    places = [(name, list(signature.parameters).index(name), rule) for name, rule in rules.items()]

    def check_early(args: Any, kwargs: Any) -> None:
        for name, place, rule in places:  # without binding, which takes microseconds
            if place < len(args):
                rule(name, args[place])
            elif name in kwargs:
                rule(name, kwargs[name])

    def check(args: Any, kwargs: Any) -> dict[str, Any]:
        arguments = signature.bind(*args, **kwargs).arguments
        for name, rule in rules.items():
            if name in arguments:
                rule(name, arguments[name])
        return arguments

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():  # sizes may be symbols
            return function(*args, **kwargs)
        if early:
            check_early(args, kwargs)
        try:
            return function(*args, **kwargs)
        except _FOREIGN as error:
            arguments = check(args, kwargs)
            if isinstance(error, (ValueError, TypeError)) or _is_of_the_machine(error):
                raise
            values = ", ".join(f"{k}: {shown(v)}" for k, v in arguments.items() if k != "self")
            raise ValueError(
                f"{function.__qualname__}() was given what does not fit together, {values}: {error}"
            ) from error

    return guarded
