"""The parallel layer in one pass of the compiled core, where nothing in it must be called."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmu.layers._modules import is_simple
from lmu.ops._activations import is_fused
from lmu.ops._modes import has_kernels, is_autocast, is_transformed
from lmu.ops.native.last import can_run
from lmu.ops.readout.dispatch import pick_readout_of
from lmu.ops.readout.native_last import encoded_last
from lmu.ops.readout.native_layer import encoded_readout
from lmu.ops.system import System

_NAMES = {torch.relu: "relu", torch.tanh: "tanh", torch.sigmoid: "sigmoid", None: "identity"}


class _Parts(NamedTuple):
    """What the core reads of a layer."""

    W_u: Tensor
    b_u: Tensor
    encoder_activation: str
    system: System
    W_h: Tensor
    b_h: Tensor


def fused_outputs(layer: Any, x: Tensor, m_0: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Hidden units of all steps and the last memory (batch, channels, order), or None.

    None where the layer must run part by part: another method is faster or asked for, a part has
    hooks or is not what it was built as, or something watches the operations.
    """
    if layer.method not in {"auto", "native"}:
        return None
    parts = _parts_of(layer, x)
    if parts is None:
        return None
    if layer.method == "auto":
        sizes = x.shape[0], x.shape[1], parts.W_u.shape[0]
        rows, started = parts.W_h.shape[0], m_0 is not None
        if pick_readout_of(sizes, layer.memory_size, rows, started) != "native":
            return None
    return encoded_readout(x, *parts, m_0, layer.hidden_activation)


def fused_last(layer: Any, x: Tensor, m_0: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """The hidden units of the last step and the memory then, or None as :func:`fused_outputs`."""
    if m_0 is not None:
        return None
    parts = _parts_of(layer, x)
    if parts is None or not can_run(x.shape[1], parts.system, x.shape[0]):
        return None
    return encoded_last(x, *parts, layer.hidden_activation, layer.seq_len)


def _parts_of(layer: Any, x: Tensor) -> _Parts | None:
    """The layer's weights and system, if the core computes what calls of its parts would."""
    if layer.causal or is_transformed() or not is_fused(layer.hidden_activation):
        return None
    name, memory, W_u, W_h = layer.encoder_activation, layer.memory, layer.W_u, layer.W_h
    if not isinstance(name, str):
        name = _NAMES.get(name)
    if name is None or not (is_fused(name) and is_simple(W_u) and is_simple(W_h)):
        return None
    if memory._own_hooks or memory._shard is not None or not x.shape[0] or is_autocast(x.device):
        return None
    weights = W_u.weight, W_h.weight
    if not has_kernels(x, *weights):
        return None
    system = memory._system(x.device)
    if not system.constant:
        return None
    return _Parts(weights[0], W_u.bias, name, system, weights[1], W_h.bias)
