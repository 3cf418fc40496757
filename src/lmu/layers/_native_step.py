"""Steps of layers in the compiled core, where no gradients are needed."""

from typing import Any

import torch
from torch import Tensor

from lmu.ops import System
from lmu.ops._modes import has_kernels, is_autocast, is_transformed
from lmu.ops.native import cell
from lmu.ops.native.steps import Reader, StepWeights, core_name

_OF_LMU = ("e_x", "e_h", "e_m", "b_u", "W_x", "W_h", "W_m", "b_h")


def can_step(x: Tensor, m: Tensor, *weights: Tensor | None) -> bool:
    """True if the core can run on these, all of the dtype of ``x`` but for the memory ``m``."""
    tensors = [w for w in weights if w is not None]
    if is_transformed() or not (has_kernels(x, *tensors) and has_kernels(m)):
        return False
    return not (torch.is_grad_enabled() and any(t.requires_grad for t in (x, m, *tensors)))


def step_memory(u: Tensor, m: Tensor, system: System) -> Tensor | None:
    """The memory (batch, channels, order) after a step; None if the core cannot compute it."""
    if not can_step(u, m, system.Ad.new_empty(0, dtype=u.dtype)) or _is_trained(system):
        return None
    return cell.step(u, None, m, StepWeights(*system.stepping(u.dtype)))[1]


def step_lmu(layer: Any, x: Tensor, h: Tensor, m: Tensor) -> tuple[Tensor, Tensor] | None:
    """``h`` and ``m`` after a step of an LMU; None if the core cannot compute them.

    Its recurrence must be the published one, up to the activation.
    """
    activation = core_name(layer.hidden_activation)
    # A parameter that hooks or parametrizations make at a call is no parameter now.
    names = layer._parameters
    if activation is None or any(name not in names for name in _OF_LMU):
        return None
    weights = [names[name] for name in _OF_LMU]
    system = layer._system()
    if not can_step(x, m, h, *weights) or _is_trained(system):
        return None
    e_x, e_h, e_m, b_u, W_x, W_h, W_m, b_h = weights
    if not layer.encode_input:
        e_x = torch.eye(layer.memory_channels, dtype=x.dtype)
    E, Bd = system.stepping(x.dtype)
    encoder, read_out = Reader(e_x, e_h, e_m, b_u), Reader(W_x, W_h, W_m, b_h)
    step = StepWeights(E, Bd, encoder, read_out, activation=activation)
    m = m.unflatten(1, (layer.memory_channels, layer.memory_size))
    h, m = cell.step(x, h, m, step, layer.hidden_size)
    return h, m.flatten(1)


def step_fft(layer: Any, x: Tensor, m: Tensor) -> tuple[Tensor, Tensor, bool] | None:
    """Hidden units and memory after a step of an LMUFFT; None if the core cannot compute them.

    Its weights must be those of plain modules. The third is False if the hidden units lack their
    activation still.
    """
    encoder = None if is_autocast(x.device) else core_name(layer.encoder_activation)
    W_h, W_u, system = layer.W_h, layer.W_u, layer._system()
    of_u = (None, None) if W_u is None else (W_u.weight, W_u.bias)
    if encoder is None or not can_step(x, m, W_h.weight, W_h.bias, *of_u) or _is_trained(system):
        return None
    size, W = layer._state_size, W_h.weight
    read_out = Reader(W[:, size:] if layer.input_to_hidden else None, None, W[:, :size], W_h.bias)
    reader = None if W_u is None else Reader(W_u.weight, None, None, W_u.bias)
    name = core_name(layer.hidden_activation)
    E, Bd = system.stepping(x.dtype)
    step = StepWeights(E, Bd, reader, read_out, encoder, name or "identity")
    return *cell.step(x, None, m, step, layer.hidden_size), name is not None


def _is_trained(system: System) -> bool:
    wanted = system.Ad.requires_grad or system.Bd.requires_grad
    return not system.Ad.is_cpu or (torch.is_grad_enabled() and wanted)
