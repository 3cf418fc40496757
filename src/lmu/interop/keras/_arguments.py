"""Reading the arguments of a layer in Keras's configs."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lmu.interop.keras._cells import ACTIVATIONS

# Read elsewhere: where a model freezes its layers, and chooses their dtype.
_ELSEWHERE = {"name", "trainable", "dtype"}
# No number depends on them: how Keras runs the same equations, the shape of a batch, what happens
# at masked steps, which no model here has, and draws of random numbers.
_WITHOUT_EFFECT = {"unroll", "implementation", "batch_input_shape", "batch_shape", "seed"}
_WITHOUT_EFFECT |= {"zero_output_for_mask", "unit_forget_bias"}
_INITIAL = "_initializer"  # values that the weights replace
_TRAINING = ("_regularizer", "_constraint")  # they act while Keras trains

_CURES = {
    "go_backwards": ": set it to False and call the layer with x.flip(1)",
    "return_state": ": set it to False; the layers here return their state",
    "stateful": ": set it to False and feed the state that a call returns into the next one",
    "time_major": ": set it to False; the layers here take (batch, time, features)",
}
_DTYPES = {name: getattr(torch, name) for name in ("float16", "bfloat16", "float32", "float64")}


def check_form(config: Any, where: str) -> Mapping[str, Any]:
    """Return a config if it has the form in which Keras serializes a layer."""
    if not isinstance(config, Mapping) or not {"class_name", "config"} <= set(config):
        raise ValueError(
            f'{where}: expected {{"class_name": ..., "config": {{...}}}} as of '
            f"keras.layers.serialize, got {config!r}"
        )
    kind = str(config["class_name"]).rpartition(">")[2]  # older files: "keras-lmu>LMU"
    return {**config, "class_name": kind}


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
        known = name in _ELSEWHERE | _WITHOUT_EFFECT or name.endswith((_INITIAL, *_TRAINING))
        if name not in defaults and value and not known:
            raise ValueError(
                f"layer {where!r}: {name}={value!r} cannot be imported{_CURES.get(name, '')}"
            )
    return {name: arguments.get(name, default) for name, default in defaults.items()}


def warn_left_out(arguments: Mapping[str, Any], where: str) -> None:
    """Warn of what Keras would add to the training of a layer."""
    names = [name for name, value in arguments.items() if name.endswith(_TRAINING) and value]
    if names:
        warnings.warn(
            f"layer {where!r}: {', '.join(names)} act in training only and are left out: use the "
            "optimizer's weight_decay, or a term of your loss",
            stacklevel=3,
        )


def policy_of(config: Mapping[str, Any], where: str) -> str | None:
    """The name of a layer's dtype or policy of dtypes; None if it has none.

    Raises:
        ValueError: It is not one of floats, such as that of a quantized layer.
    """
    policy = config["config"].get("dtype")
    name = policy["config"].get("name") if isinstance(policy, Mapping) else policy
    if name is not None and str(name).removeprefix("mixed_") not in _DTYPES:
        raise ValueError(
            f"layer {where!r}: the dtype {name!r} cannot be imported; known are "
            f"{', '.join(_DTYPES)}, mixed_float16 and mixed_bfloat16"
        )
    return name


def dtype_of(config: Mapping[str, Any], where: str) -> torch.dtype | None:
    """The dtype of a layer's parameters, or None; warns if it computes in another one."""
    name = policy_of(config, where)
    if name is None:
        return None
    if name in _DTYPES:
        return _DTYPES[name]
    warnings.warn(
        f"layer {where!r} computes in {name[6:]} (dtype={name!r}); here in the dtype of its "
        "parameters, unless you call it under torch.autocast",
        stacklevel=3,
    )
    return torch.float32


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
