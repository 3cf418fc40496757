"""Hidden cells from Keras's arguments."""

import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from lmu.interop.keras._arguments import activation, check_form, name_of, read
from lmu.interop.keras._cells import ResetFirstGRUCell
from lmu.ops._activations import ACTIVATIONS

Config = Mapping[str, Any]

_CLASSES = ("Dense", "SimpleRNNCell", "LSTMCell", "GRUCell")
_CELL_ARGUMENTS = {
    "units": ...,
    "activation": "tanh",
    "recurrent_activation": "sigmoid",
    "use_bias": True,
    "reset_after": True,
    "dropout": 0,
    "recurrent_dropout": 0,
}


def units_of(config: Any, where: str) -> int:
    """Return the units of a hidden cell, 0 if it is None; refuse one that cannot be imported."""
    if config is None:
        return 0
    kind = check_form(config, f"layer {where!r}, hidden_cell")["class_name"]
    if kind not in _CLASSES:
        raise ValueError(
            f"layer {where!r} has a hidden cell of the class {kind}; {', '.join(_CLASSES)} can be "
            "imported"
        )
    return read(config["config"], f"{where}/{name_of(config)}", **_CELL_ARGUMENTS)["units"]


def hidden_cell(
    config: Config | None, inputs: int, where: str, factory: dict[str, Any]
) -> dict[str, Any]:
    """Return the arguments of lmu's layers for a hidden cell."""
    if config is None:
        return {"hidden_size": None, "hidden_cell": None}
    where = f"{where}/{name_of(config)}"
    kind, o = (
        check_form(config, where)["class_name"],
        read(config["config"], where, **_CELL_ARGUMENTS),
    )
    arguments: dict[str, Any] = {"hidden_size": o["units"]}
    if o["dropout"] or o["recurrent_dropout"]:
        warnings.warn(f"layer {where!r}: its dropout is left out", stacklevel=4)
    if kind == "Dense":
        return arguments | {"hidden_cell": dense(config["config"], inputs, where, factory)}
    if kind == "SimpleRNNCell":  # the default cell, fast with an activation known by name
        own = own_activation(o["activation"], where)
        return arguments | {"hidden_bias": o["use_bias"], "hidden_activation": own}
    cell = _recurrent(kind, o, inputs, where, factory)
    if isinstance(cell, nn.LSTMCell) and cell.bias:
        cell.bias_hh.requires_grad_(False)  # Keras has one bias; two would learn twice as fast
        arguments["initializers"] = {"hidden_cell.bias_hh": nn.init.zeros_}
    return arguments | {"hidden_cell": cell}


def _recurrent(
    kind: str, o: dict[str, Any], inputs: int, where: str, factory: dict[str, Any]
) -> nn.Module:
    sizes = inputs, o["units"]
    reset_first = kind == "GRUCell" and not o["reset_after"]
    if o["recurrent_activation"] != "sigmoid":
        raise ValueError(f"layer {where!r}: recurrent_activation must be sigmoid")
    if reset_first:
        function = activation(o["activation"], where)
        return ResetFirstGRUCell(*sizes, function, o["use_bias"], **factory)
    if o["activation"] != "tanh":
        raise ValueError(f"layer {where!r}: the activation of {kind} must be tanh")
    return (nn.GRUCell if kind == "GRUCell" else nn.LSTMCell)(*sizes, o["use_bias"], **factory)


def own_activation(value: Any, where: str) -> str | nn.Module:
    """Return lmu's name of an activation, if it has one, or its module."""
    function = activation(value, where)
    name = "identity" if isinstance(function, nn.Identity) else value
    return name if name in ACTIVATIONS else function


def dense(arguments: Config, inputs: int, where: str, factory: dict[str, Any]) -> nn.Module:
    """Build Keras's Dense, a linear layer and its activation."""
    o = read(arguments, where, units=..., activation="linear", use_bias=True)
    linear = nn.Linear(inputs, o["units"], o["use_bias"], **factory)
    function = activation(o["activation"], where)
    return linear if isinstance(function, nn.Identity) else nn.Sequential(linear, function)
