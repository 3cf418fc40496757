"""Arguments of a layer in Keras's configs."""

import math
import warnings
from collections.abc import Mapping
from numbers import Integral, Real
from reprlib import repr as short  # values may be as long as the file
from typing import Any

import torch
from torch import nn

from lmu.interop.keras._cells import ACTIVATIONS

# Read by other functions, which freeze layers and choose their dtype.
_ELSEWHERE = {"name", "trainable", "dtype"}
# Without influence on results: how Keras runs the same equations, the shape of a batch, masked
# steps, which no model here has, and random seeds.
_WITHOUT_EFFECT = {"unroll", "implementation", "batch_input_shape", "batch_shape", "seed"}
_WITHOUT_EFFECT |= {"zero_output_for_mask", "unit_forget_bias"}
_INITIAL = "_initializer"  # initial values, which the weights replace
_TRAINING = ("_regularizer", "_constraint")  # they act in training only

_CURES = {
    "go_backwards": ": set it to False and call the layer with x.flip(1)",
    "return_state": ": set it to False; the layers here return their state",
    "stateful": ": set it to False and feed the state that a call returns into the next one",
    "time_major": ": set it to False; the layers here take (batch, time, features)",
}
_DTYPES = {name: getattr(torch, name) for name in ("float16", "bfloat16", "float32", "float64")}


def check_form(config: Any, where: str) -> Mapping[str, Any]:
    """Return a config if it has the form of a layer serialized by Keras; else refuse it."""
    is_form = (
        isinstance(config, Mapping)
        and isinstance(config.get("class_name"), str)
        and isinstance(config.get("config"), Mapping)
        and isinstance(config["config"].get("name"), (str, type(None)))
    )
    if not is_form:
        raise ValueError(
            f'{where}: expected {{"class_name": ..., "config": {{...}}}} as of '
            f"keras.layers.serialize, got {short(config)}"
        )
    kind = config["class_name"].rpartition(">")[2]  # older files: "keras-lmu>LMU"
    return {**config, "class_name": kind}


def name_of(config: Mapping[str, Any]) -> str:
    """Return the layer's name, or its class if it has none."""
    return config.get("config", {}).get("name") or config.get("class_name", "?")


def read(arguments: Mapping[str, Any], where: str, **defaults: Any) -> dict[str, Any]:
    """Return known arguments, with defaults for missing ones; ``...`` marks a required one.

    Raises:
        ValueError: A required argument is missing, or an unknown one is set.
    """
    for name, default in defaults.items():
        if default is ... and name not in arguments:
            raise ValueError(f"layer {where!r}: the argument {name} is missing")
    for name, value in arguments.items():
        ignored = name in _ELSEWHERE | _WITHOUT_EFFECT or name.endswith((_INITIAL, *_TRAINING))
        if name not in defaults and value and not ignored:
            raise ValueError(
                f"layer {where!r}: {name}={short(value)} cannot be imported{_CURES.get(name, '')}"
            )
    known = {name: arguments.get(name, default) for name, default in defaults.items()}
    for name, value in known.items():
        _check_kind(name, value, where)
    return known


_SIZES = {"units", "memory_d", "order", "input_d"}
_FLAGS = {"trainable_theta", "hidden_to_memory", "memory_to_memory", "input_to_hidden", "use_bias"}
_FLAGS |= {"return_sequences", "reset_after", "center", "scale"}
_NUMBERS = {"theta", "truncate_ir"}
_RATES = {"dropout", "recurrent_dropout", "rate", "epsilon"}
_OPTIONAL = {"input_d", "truncate_ir"}
_TEXTS = {"discretizer", "conv_mode"}


def _check_kind(name: str, value: Any, where: str) -> None:
    """Refuse an argument of a type or range that KerasLMU cannot have written."""
    if value is None and name in _OPTIONAL:
        return
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    number: Any = value if is_number else math.nan  # fails every comparison
    is_size = isinstance(value, Integral) and 0 < number < 1 << 31
    if name in _SIZES and not is_size:
        expected = "an integer of at least 1 and below 2**31"
    elif name in _FLAGS and not isinstance(value, bool):
        expected = "true or false"
    elif name in _RATES and not 0 <= number < 1:
        expected = "a number of at least 0 and below 1"
    elif name in _NUMBERS and not abs(number) < 1e300:
        expected = "a finite number"
    elif name in _TEXTS and not isinstance(value, str):
        expected = "a text"
    else:
        return
    raise ValueError(
        f"layer {where!r}: {name} must be {expected}, got {short(value)}; correct it, or save the "
        "model again"
    )


def warn_left_out(arguments: Mapping[str, Any], where: str) -> None:
    """Warn of regularizers and constraints that Keras would apply in training."""
    names = [name for name, value in arguments.items() if name.endswith(_TRAINING) and value]
    if names:
        warnings.warn(
            f"layer {where!r}: {', '.join(names)} act in training only and are left out: use the "
            "optimizer's weight_decay, or a term of your loss",
            stacklevel=3,
        )


def policy_of(config: Mapping[str, Any], where: str) -> str | None:
    """Return the name of a layer's dtype or dtype policy; None if it has none.

    Raises:
        ValueError: It is not floating, such as that of a quantized layer.
    """
    policy = config["config"].get("dtype")
    inner = policy.get("config") if isinstance(policy, Mapping) else None
    name: Any = inner.get("name") if isinstance(inner, Mapping) else policy
    if name is not None and str(name).removeprefix("mixed_") not in _DTYPES:
        raise ValueError(
            f"layer {where!r}: the dtype {short(name)} cannot be imported; known are "
            f"{', '.join(_DTYPES)}, mixed_float16 and mixed_bfloat16"
        )
    return name


def dtype_of(config: Mapping[str, Any], where: str) -> torch.dtype | None:
    """Return the dtype of a layer's parameters, or None; warn if it computes in another one."""
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
    """Build the module of an activation, by Keras's name.

    Raises:
        ValueError: It has no counterpart here, or is a user's function.
    """
    name = "linear" if value is None else value
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(
            f"layer {where!r}: the activation {short(value)} cannot be imported; known are "
            f"{', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]()
