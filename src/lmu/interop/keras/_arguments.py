"""Reading the arguments of a layer in Keras's configs."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from lmu.interop.keras._cells import ACTIVATIONS

# What says how a layer was made, is trained or runs, but not what it computes.
_IGNORED = {"name", "trainable", "dtype", "seed", "unroll", "implementation", "unit_forget_bias"}
_IGNORED |= {"zero_output_for_mask", "batch_input_shape", "batch_shape"}
_IGNORED_ENDS = ("_initializer", "_regularizer", "_constraint")


def check_form(config: Any, where: str) -> Mapping[str, Any]:
    """Return a config if it has the form in which Keras serializes a layer."""
    if not isinstance(config, Mapping) or not {"class_name", "config"} <= set(config):
        raise ValueError(
            f'{where}: expected {{"class_name": ..., "config": {{...}}}} as of '
            f"keras.layers.serialize, got {config!r}"
        )
    return config


def name_of(config: Mapping[str, Any]) -> str:
    """The layer's name, or its class if it has none."""
    return config.get("config", {}).get("name") or config.get("class_name", "?")


def read(arguments: Mapping[str, Any], where: str, **defaults: Any) -> dict[str, Any]:
    """Take known arguments, with defaults for those missing; ``...`` stands for a required one.

    Raises:
        ValueError: A required argument is missing, or one that is not known here is on.
    """
    for name, default in defaults.items():
        if default is ... and name not in arguments:
            raise ValueError(f"layer {where!r}: the argument {name} is missing")
    for name, value in arguments.items():
        ignored = name in _IGNORED or name.endswith(_IGNORED_ENDS)
        if name not in defaults and value and not ignored:
            raise ValueError(f"layer {where!r}: {name}={value!r} cannot be imported")
    return {name: arguments.get(name, default) for name, default in defaults.items()}


def activation(value: Any, where: str) -> nn.Module:
    """The module of an activation, by Keras's name.

    Raises:
        ValueError: It has no counterpart here, or is a function of the user's.
    """
    name = "linear" if value is None else value
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(
            f"layer {where!r}: the activation {value!r} cannot be imported; known are "
            f"{', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]()
