"""Checks of the arguments in a model's config, before anything is built."""

import inspect
import math
from collections.abc import Iterator, Mapping
from numbers import Real
from reprlib import repr as short
from typing import Any

# Arguments of PyTorch's modules, many of which check nothing until they are called. Those of lmu
# check their own.
_SIZES = {"in_features", "out_features", "num_features", "num_parameters"}
_SIZES |= {"input_size", "hidden_size"}
_NUMBERS = {"p", "eps", "momentum", "alpha", "negative_slope", "init", "beta", "threshold"}
_OPTIONAL = {"eps", "momentum"}
_TEXTS = {"nonlinearity": ("tanh", "relu"), "approximate": ("none", "tanh")}
_NEVER = {"device", "initializers"}  # in no config

_ORDER = 4096  # largest order of a memory, whose matrices grow with the square
_MATRICES = 1 << 26  # largest count of numbers in the matrices of all memories
_WINDOWS = 4096
_MODULES = 10_000
_LARGEST = 1 << 31


def check_arguments(kind: str, module: type, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that a module does not have, or whose type a PyTorch module does not take.

    Raises:
        ValueError: The message names the module and the argument.
    """
    parameters = inspect.signature(module).parameters.values()
    variable = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    known = {p.name for p in parameters if p.kind not in variable} - _NEVER
    for name, value in arguments.items():
        if name not in known:
            raise ValueError(
                f"{kind} has no argument {short(name)}; known are {', '.join(sorted(known))}. The "
                "config is damaged, or of another version of torch-lmu or PyTorch"
            )
        if kind.startswith("nn.") and name != "dtype":
            _check_kind(kind, name, value)


def _check_kind(kind: str, name: str, value: Any) -> None:
    if name in _SIZES:
        fits, expected = _is_size(value), "an integer of at least 1 and below 2**31"
    elif name == "normalized_shape":
        sizes = value if isinstance(value, list) else [value]
        fits = bool(sizes) and all(_is_size(size) for size in sizes)
        expected = "integers of at least 1 and below 2**31"
    elif name in _NUMBERS:
        fits = _is_number(value) or (value is None and name in _OPTIONAL)
        expected = "a finite number"
    elif name in _TEXTS:
        fits, expected = value in _TEXTS[name], f"one of {', '.join(_TEXTS[name])}"
    else:  # flags
        fits, expected = isinstance(value, bool), "true or false"
    if not fits:
        raise ValueError(f"{kind}: {name} must be {expected}, got {short(value)}")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < _LARGEST


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_bounds(config: Any) -> None:
    """Refuse a config whose layers are out of bounds, before their weights are read.

    Raises:
        ValueError: It has too many layers, or memories whose matrices are too large.
    """
    described = [value for value in _mappings(config) if "class" in value]
    if len(described) > _MODULES:
        raise ValueError(
            f"the config has {len(described):,} layers; at most {_MODULES:,} are built"
        )
    total = count = 0
    for value in described:
        order, theta = value.get("memory_size"), value.get("theta")
        if not isinstance(order, int):
            continue  # refused when it is built
        windows = len(theta) if isinstance(theta, list) else 1
        total, count = total + windows * order**2, count + windows
        if order > _ORDER or total > _MATRICES or count > _WINDOWS:
            raise ValueError(
                f"{short(value['class'])}: memory_size={order} with {windows} windows is out of "
                f"bounds: a config may have {_ORDER}, {_WINDOWS:,} windows, and {_MATRICES:,} "
                "numbers in the matrices of all memories. Build the model yourself, and load its "
                "state_dict"
            )


def _mappings(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, (dict, list)):
            yield from _mappings(item)
