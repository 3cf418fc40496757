"""The parallel layer in one pass of the compiled core, where nothing in it must be called."""

from typing import Any

import torch
from torch import Tensor

from lmu.layers._modules import is_simple
from lmu.ops import native
from lmu.ops._activations import is_fused
from lmu.ops._modes import is_autocast, is_transformed
from lmu.ops.readout.dispatch import pick_readout_of
from lmu.ops.readout.native_layer import encoded_readout

_NAMES = {torch.relu: "relu", torch.tanh: "tanh", torch.sigmoid: "sigmoid", None: "identity"}


def fused_outputs(layer: Any, x: Tensor, m_0: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Hidden units of all steps and the last memory (batch, channels, order), or None.

    None where the layer must run part by part: another method is faster or asked for, a part has
    hooks or is not what it was built as, or something watches the operations.
    """
    if layer.method not in {"auto", "native"} or layer.causal or is_transformed():
        return None
    encoder, activation = _encoder_of(layer), layer.hidden_activation
    memory, W_h = layer.memory, layer.W_h
    if encoder is None or not is_fused(activation) or not is_simple(W_h):
        return None
    if memory._own_hooks or memory._shard is not None or not len(x) or is_autocast(x.device):
        return None
    W_u, b_u, name = encoder
    weight, bias = W_h.weight, W_h.bias
    if not native.is_available(x, weight) or not x.dtype == weight.dtype == W_u.dtype:
        return None
    system = memory._system(x.device)
    if not system.constant:
        return None
    if layer.method == "auto":
        batch, length, _ = x.shape
        sizes = batch, length, len(W_u)
        if pick_readout_of(sizes, layer.memory_size, len(weight), m_0 is not None) != "native":
            return None
    return encoded_readout(x, W_u, b_u, name, system, weight, bias, m_0, activation)


def _encoder_of(layer: Any) -> tuple[Tensor, Tensor, str] | None:
    """Weight, bias and activation of the encoder, if it is a plain one."""
    name = layer.encoder_activation
    if not isinstance(name, str):
        name = _NAMES.get(name)
    if name is None or not is_fused(name) or not is_simple(layer.W_u):
        return None
    return layer.W_u.weight, layer.W_u.bias, name
