"""Weights and functions of a trained layer for an exported graph, in float64."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lmu import LMU, LMUFFT, __version__
from lmu.layers._modules import is_hooked, is_simple, name_of
from lmu.models import SequenceClassifier
from lmu.ops._activations import activation_of
from lmu.ops._modes import compute_dtype, widen

Activation = Callable[[Tensor], Tensor]
_CELLS = (nn.RNNCell, nn.GRUCell)  # their state is their output


@dataclass(frozen=True)
class Parts:
    """Weights and functions of a layer, on the CPU.

    ``u_t = f(x_t e_x + h_{t-1} e_h + m_{t-1} e_m + b_u)``, ``m_t = m_{t-1} + m_{t-1} E + u_t B``
    for each channel, ``h_t = g(x_t W_x + h_{t-1} W_h + m_t W_m + b_h)``; and with a classifier
    ``y_t = h_t W_y + b_y``.

    Attributes:
        weights: These matrices, (inputs, outputs) each, and vectors; those that a layer lacks are
            absent. ``E`` is (order, order) and ``B`` (order,), with a leading axis for the channels
            if their windows differ.
        encoder: The function f.
        hidden: The function g, if the hidden cell is dense.
        cell: Otherwise a module of ``[m_t; x_t]``, or None for the identity.
        recurrent: Whether ``cell`` also takes its last output.
        joins_input: Whether ``cell`` also takes x.
    """

    layer: LMU | LMUFFT
    weights: dict[str, Tensor]
    encoder: Activation | None
    hidden: Activation | None
    cell: nn.Module | None = None
    recurrent: bool = False
    joins_input: bool = True
    last_only: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the arithmetic: the layer's, but at least float32."""
        return compute_dtype(self.layer._like().dtype)

    @property
    def is_linear(self) -> bool:
        """True if the memory is a linear filter of u, and the read-out has no state."""
        feedback = {"e_h", "e_m", "W_h"} & self.weights.keys()
        return not feedback and self.hidden is not None


def take_apart(model: nn.Module) -> Parts:
    """Read a layer, or a classifier over one.

    Args:
        model: :class:`lmu.LMU`, :class:`lmu.LMUFFT`, or a
            :class:`lmu.models.SequenceClassifier` over one of them.

    Raises:
        TypeError: The model is of another kind.
        ValueError: The layer has a hidden cell that cannot be exported.
    """
    layer = model.layer if isinstance(model, SequenceClassifier) else model
    if not isinstance(layer, (LMU, LMUFFT)):
        name = type(layer).__name__
        raise TypeError(f"LMU, LMUFFT and SequenceClassifier over them are exported, got {name}")
    if is_hooked(layer):
        raise ValueError(_NOT_READ.format(name_of(layer)))
    with torch.no_grad():
        parts = _lmu(layer) if isinstance(layer, LMU) else _fft(layer)
        if isinstance(model, SequenceClassifier):
            parts.weights.update(_dense(model.classifier, "W_y", "b_y"))
            return Parts(**{**vars(parts), "last_only": True})
    return parts


def describe(model: nn.Module, form: str) -> dict[str, str]:
    """Return the metadata of an exported file, as texts."""
    layer: Any = model.layer if isinstance(model, SequenceClassifier) else model
    name = type(layer).__name__
    theta = layer.theta if isinstance(layer.theta, tuple) else (layer.theta,)
    facts = {
        "producer": f"torch-lmu {__version__}",
        "model": f"SequenceClassifier({name})" if layer is not model else name,
        "form": form,
        "input_size": layer.input_size,
        "hidden_size": layer.hidden_size,
        "memory_size": layer.memory_size,
        "memory_channels": layer.memory_channels,
        "theta": " ".join(f"{value:g}" for value in theta),
        "discretizer": layer.discretizer,
    }
    if isinstance(model, SequenceClassifier):
        facts["num_classes"] = model.classifier.out_features
    return {f"lmu.{key}": str(value) for key, value in facts.items()}


# With adapters, pruning or weight norms a call computes with other weights than would be read.
_NOT_READ = (
    "the weights of a {} cannot be read: merge or remove what was added to it first, as by "
    "merge_and_unload(), prune.remove() or remove_parametrizations()"
)


def _lmu(layer: LMU) -> Parts:
    cell, recurrent = layer.hidden_cell, False
    if isinstance(cell, nn.Module):
        cell, recurrent = _exportable(cell)
    names = ("e_x", "e_h", "e_m", "W_x", "W_h", "W_m")
    weights = {name: p.mT for name in names if (p := getattr(layer, name)) is not None}
    weights |= {n: p for n in ("b_u", "b_h") if (p := getattr(layer, n)) is not None}
    dense = isinstance(cell, str)
    if dense and "W_x" not in weights:
        assert layer.W_h is not None
        weights["W_x"] = layer.W_h.new_zeros(layer.input_size, layer.hidden_size)
    return Parts(
        layer,
        _wide(weights) | _dynamics(layer),
        encoder=_function(layer.encoder_activation),
        hidden=_function(layer.hidden_activation) if dense else None,
        cell=None if dense else cell,
        recurrent=recurrent,
        joins_input=layer.input_to_hidden,
        last_only=not layer.return_sequences,
    )


def _exportable(cell: nn.Module) -> tuple[nn.Module, bool]:
    from lmu.layers._hidden import is_recurrent

    recurrent = is_recurrent(cell)
    if recurrent and type(cell) not in _CELLS:
        raise ValueError(
            f"a hidden cell of the type {type(cell).__name__} cannot be exported, as its state is "
            "not one tensor: use nn.GRUCell, nn.RNNCell, or a module without a state"
        )
    return _copied(cell), recurrent


def _function(activation: Any) -> Activation | None:
    """Return an activation as a function that can be traced, or None."""
    if isinstance(activation, nn.Module):
        return _copied(activation)
    return activation if activation is None else activation_of(activation).function


def _copied(module: nn.Module) -> nn.Module:
    """Copy a module to the CPU, in evaluation mode and with constant parameters.

    Tracing a loop that can be differentiated adds what its gradient needs, such as sizes, which
    exporters cannot handle.
    """
    if hooked := [part for part in module.modules() if is_hooked(part)]:
        raise ValueError(_NOT_READ.format(name_of(hooked[0])))
    return copy.deepcopy(module).to("cpu").eval().requires_grad_(False)


def _fft(layer: LMUFFT) -> Parts:
    weights: dict[str, Tensor] = {}
    if layer.W_u is not None:
        weights |= _dense(layer.W_u, "e_x", "b_u")
    read = _dense(layer.W_h, "W", "b_h")
    size = layer.memory_channels * layer.memory_size
    W = read.pop("W")
    weights |= read | {"W_m": W[:size]}
    weights["W_x"] = W[size:] if len(W) > size else W.new_zeros(layer.input_size, W.shape[1])
    return Parts(
        layer,
        weights | _dynamics(layer),
        encoder=_function(layer.encoder_activation),
        hidden=_function(layer.hidden_activation),
        last_only=not layer.return_sequences,
    )


def _dense(linear: nn.Linear, weight: str, bias: str) -> dict[str, Tensor]:
    if not is_simple(linear):
        raise ValueError(_NOT_READ.format(name_of(linear)))
    weights = {weight: linear.weight.mT}
    if linear.bias is not None:
        weights[bias] = linear.bias
    return _wide(weights)


def _dynamics(layer: LMU | LMUFFT) -> dict[str, Tensor]:
    """Return ``E``, transposed, and ``B``, with present values if they are learned."""
    system = layer._system()
    Ad, Bd = (widen(t.detach().to("cpu")) for t in (system.Ad, system.Bd))
    return {"E": (Ad - torch.eye(layer.memory_size, dtype=Ad.dtype)).mT, "B": Bd}


def _wide(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: widen(t.detach().to("cpu")) for name, t in tensors.items()}
