"""Layers as plain JSON data and back, which cannot run code."""

import inspect
from reprlib import repr as short  # values may be as long as the file
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lmu.layers import LMU, LMUFFT, Bidirectional, LegendreMemory, LMUCell, LMUStack
from lmu.layers._hidden import RNN
from lmu.models._arguments import check_arguments
from lmu.models.noise import GaussianNoise

LMU_MODULES = (LMU, LMUCell, LMUFFT, LMUStack, LegendreMemory, Bidirectional, GaussianNoise)
TORCH_MODULES = (
    nn.Linear, nn.RNNCell, nn.GRUCell, nn.LSTMCell, nn.LayerNorm, nn.RMSNorm, nn.BatchNorm1d,
    nn.Dropout, nn.Identity, nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU,
    nn.PReLU, nn.Softplus,
)  # fmt: skip
MODULES = {kind.__name__: kind for kind in LMU_MODULES} | {
    f"nn.{kind.__name__}": kind for kind in TORCH_MODULES
}
FUNCTIONS = {
    "tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "sin": torch.sin,
    "gelu": F.gelu, "silu": F.silu, "elu": F.elu, "softplus": F.softplus, "F.relu": F.relu,
    "F.tanh": F.tanh, "F.sigmoid": F.sigmoid,
}  # fmt: skip
DTYPES = {
    "float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32,
    "float64": torch.float64,
}  # fmt: skip


def describe(value: Any) -> Any:
    """Describe a module, function or argument as plain data.

    Raises:
        ValueError: :func:`build` could not make it again.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    for name, dtype in DTYPES.items():
        if value is dtype:
            return {"dtype": name}
    if type(value) in {nn.Sequential, nn.ModuleList} and _numbered(value):
        kind = "nn.Sequential" if type(value) is nn.Sequential else "list"
        return {"class": kind, "items": [describe(item) for item in value]}
    if isinstance(value, (tuple, list)):
        return [describe(item) for item in value]
    for name, function in FUNCTIONS.items():
        if value is function:
            return {"function": name}
    for name, kind in MODULES.items():
        if type(value) is kind:
            return {"class": name, **_arguments(value)}
    raise ValueError(
        f"{value!r} cannot be described: only layers of lmu, nn.Sequential, "
        f"{', '.join(name for name in MODULES if name.startswith('nn.'))} and the functions "
        f"{', '.join(FUNCTIONS)} can; save the state_dict of this model in its stead"
    )


def build(value: Any, device: torch.device | str | None = None) -> Any:
    """Build the module, function or argument that :func:`describe` described.

    Parameters are initialized at random.

    Args:
        value: Result of :func:`describe`.
        device: Device of the parameters; on ``"meta"`` they have shapes and no numbers.

    Raises:
        ValueError: A name is unknown here, or an argument is wrong.
    """
    if isinstance(value, list):
        return [build(item, device) for item in value]
    if not isinstance(value, dict):
        return value
    if "dtype" in value and len(value) == 1:
        return _known(value["dtype"], DTYPES, "dtype")
    if "function" in value and len(value) == 1:
        return _known(value["function"], FUNCTIONS, "function")
    arguments = {key: build(item, device) for key, item in value.items() if key != "class"}
    kind: Any = value.get("class")
    if kind in ("LMU", "LMUCell") and arguments.get("hidden_cell") == "tanh":
        arguments["hidden_cell"] = RNN  # its name in the first edition
    if kind in ("nn.Sequential", "list"):
        items = arguments.get("items")
        if len(arguments) != 1 or not isinstance(items, list):
            raise ValueError(f"{kind} has a list of items and nothing else, got {short(value)}")
        if not all(isinstance(item, nn.Module) for item in items):
            raise ValueError(f"the items of {kind} must be layers, got {short(items)}")
        return items if kind == "list" else nn.Sequential(*items)
    module = _known(kind, MODULES, "class")
    check_arguments(kind, module, arguments)
    if device is not None and "device" in inspect.signature(module).parameters:
        arguments["device"] = device
    try:
        return module(**arguments)
    except (TypeError, ValueError, RuntimeError, OverflowError, AttributeError) as error:
        raise ValueError(f"{kind} cannot be built of {short(arguments)}: {error}") from error


def _known(name: Any, table: dict[str, Any], what: str) -> Any:
    if not isinstance(name, str) or name not in table:
        raise ValueError(f"unknown {what} {short(name)}, not one of {[*table]}")
    return table[name]


def _numbered(modules: Any) -> bool:
    """True if the parts are named by their places."""
    return [name for name, _ in modules.named_children()] == [str(i) for i in range(len(modules))]


def _dtype(module: Any) -> torch.dtype | None:
    if hasattr(module, "_like"):
        return module._like().dtype
    like = next(module.parameters(), None)
    return None if like is None else like.dtype


def _arguments(module: nn.Module) -> dict[str, Any]:
    """Return the arguments of a module's constructor, read from its attributes."""
    memory = getattr(module, "memory", module)
    if isinstance(memory, LegendreMemory) and memory._assigned:
        raise ValueError(
            f"the matrices that were assigned to the memory of {type(module).__name__} cannot be "
            "described: save the state_dict of this model, and assign them again"
        )
    arguments: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(module)).parameters.items():
        if name in {"device", "initializers"}:
            continue  # not needed when weights are loaded
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            continue  # of modules without arguments, such as nn.Tanh
        value = _dtype(module) if name == "dtype" else getattr(module, name)
        # In PyTorch's modules the argument is a flag and the attribute may be the parameter.
        if name == "bias":
            value = value is not None and value is not False
        arguments[name] = describe(value)
    return arguments
