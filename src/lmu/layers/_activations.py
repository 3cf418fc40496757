"""Activations of layers: names or functions."""

from typing import Any

import torch
from torch import Tensor

ACTIVATIONS = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda z: z,
    "gelu": torch.nn.functional.gelu,
}


def apply_activation(activation: Any, z: Tensor) -> Tensor:
    return (ACTIVATIONS[activation] if isinstance(activation, str) else activation)(z)


def describe_function(activation: Any) -> str:
    """An activation's name, for ``extra_repr``."""
    if isinstance(activation, str):
        return repr(activation)
    return getattr(activation, "__name__", repr(activation))
