"""Layers from the arguments of KerasLMU's."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lmu.interop.keras._arguments import check_form, dtype_of, name_of, read
from lmu.interop.keras._hidden import hidden_cell, own_activation
from lmu.interop.keras._options import read_options
from lmu.interop.keras._plans import assign, plan_of
from lmu.layers import LMU, LMUFFT, LMUCell

Config = Mapping[str, Any]
_OF_CELL = {"hidden_cell", "W_x", "W_h", "W_m", "b_h"}


def from_config(
    config: Config,
    weights: Mapping[str, Any] | None = None,
    *,
    input_size: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> LMU | LMUFFT | LMUCell:
    r"""Build the layer that computes the equations of a KerasLMU layer.

    .. math::
        u_t &= K [x_t; h_{t-1}] + R m_{t-1} + b \\
        m_t &= \bar A m_{t-1} + \bar B u_t \\
        h_t &= \mathrm{cell}([m_t; x_t], h_{t-1})

    It is an :class:`lmu.LMUFFT` if nothing is fed back and the hidden cell is a Dense with a bias
    and an activation that LMUFFT knows by name; for the class ``LMUCell`` an :class:`lmu.LMUCell`;
    otherwise an :class:`lmu.LMU`.

    Differences: a convolution with ``conv_mode="raw"`` cuts off the impulse response, lmu's are
    exact. Dropout acts in training only, but not exactly where KerasLMU drops: training continues
    with other random numbers and slightly other rules. The dropout of a hidden cell is left out, as
    are regularizers and constraints. A memory of Euler's method that lmu refuses is built with
    ``discretizer="euler-unchecked"``, and if its powers explode as an LMU that runs step by step.
    All of these warn.

    Args:
        config: As Keras serializes a layer: ``{"class_name": "LMU", "config": {...}}`` with the
            arguments in ``"config"``, those missing having KerasLMU's defaults. The class is
            ``LMU``, ``LMUFeedforward``, ``LMUCell``, or ``RNN`` around an LMUCell; the argument
            ``hidden_cell`` is None or has the same form, its class Dense, SimpleRNNCell, LSTMCell
            or GRUCell.
        weights: Arrays or tensors under the names ``kernel`` (input_size + hidden with
            hidden_to_memory, memory_d), ``bias`` (memory_d,), ``theta_inv`` (),
            ``recurrent_kernel`` (memory_d * order, memory_d), ``hidden.kernel``,
            ``hidden.recurrent_kernel``, ``hidden.bias``, as far as the layer has them. None draws
            initial values as lmu's layers do.
        input_size: Number of input features; needed only if neither the weights nor the config
            (``input_d``, ``build_config``) determine it.
        device: Device of the parameters.
        dtype: Dtype of the parameters; None takes that of the config, if it has one.

    Raises:
        ValueError: A part has no counterpart here, or a name or shape does not fit.

    Source: Voelker et al., NeurIPS 2019, equations 4, 6 and 7; numbers of KerasLMU 0.9.0.
    """
    arrays = None
    if weights is not None:
        arrays = {k: torch.as_tensor(v, dtype=torch.float64) for k, v in weights.items()}
        if "kernel" in arrays and arrays["kernel"].ndim != 2:
            raise ValueError(f"kernel must be a matrix, got {tuple(arrays['kernel'].shape)}")
    rows = len(arrays["kernel"]) if arrays and "kernel" in arrays else None
    config = check_form(config, "config")
    in_config = dtype_of(config, name_of(config))
    factory = {"device": device, "dtype": dtype or in_config}
    inverse = (arrays or {}).get("theta_inv", torch.zeros(()))
    theta = 1 / inverse.item() if inverse.numel() == 1 and inverse.any() else None
    numbers = None if arrays is None else sum(array.numel() for array in arrays.values())
    layer = build(config, rows, input_size, factory, theta, numbers)
    if arrays is not None:
        plan = plan_of(layer)
        plan.check(arrays, f"layer {name_of(config)!r}")
        assign(layer, plan, arrays)
    return layer


def build(
    config: Config,
    rows: int | None,
    input_size: int | None,
    factory: dict[str, Any],
    theta: float | None = None,
    numbers: int | None = None,
) -> LMU | LMUFFT | LMUCell:
    """Build a layer.

    If known, ``rows`` is the height of its kernel, ``theta`` its trained window, and ``numbers``
    the count of numbers in its arrays.
    """
    o = read_options(config, rows, input_size, theta, numbers)
    name, hidden = o["name"], o["hidden_cell"]
    read_out = o["memory_d"] * o["order"] + (o["input_size"] if o["input_to_hidden"] else 0)
    if o["class_name"] != "LMUCell" and _is_lmu_fft(o, name):
        layer = _lmu_fft(o, factory)
    else:
        cell = hidden_cell(hidden, read_out, name, factory)
        layer = _lmu(LMUCell if o["class_name"] == "LMUCell" else LMU, o, cell, factory)
    for parameter, value in layer.named_parameters():
        of_cell = parameter.split(".")[0] in _OF_CELL
        if o["frozen"] or (of_cell and not hidden["config"].get("trainable", True)):
            value.requires_grad_(False)
    return layer


def _is_lmu_fft(o: dict[str, Any], name: str) -> bool:
    """True for a layer of Chilkuri & Eliasmith: no feedback, and a read-out with a bias."""
    cell = o["hidden_cell"] and check_form(o["hidden_cell"], name)
    if o["hidden_to_memory"] or o["memory_to_memory"] or cell is None:
        return False
    if o["method"] == "loop":
        return False
    if cell["class_name"] != "Dense" or (o["kernel_initializer"] is None and o["use_bias"]):
        return False
    dense = read(cell["config"], name, units=..., activation="linear", use_bias=True)
    where = f"{name}/{name_of(cell)}"
    return isinstance(own_activation(dense["activation"], where), str) and bool(dense["use_bias"])


def _lmu_fft(o: dict[str, Any], factory: dict[str, Any]) -> LMUFFT:
    encoded = o["kernel_initializer"] is not None
    frozen = encoded and not o["use_bias"]
    layer = LMUFFT(
        o["input_size"],
        o["units"],
        o["order"],
        None,
        o["theta"],
        memory_channels=o["memory_d"],
        learn_theta=o["trainable_theta"],
        input_to_hidden=o["input_to_hidden"],
        encode_input=encoded,
        encoder_activation=None,
        hidden_activation=own_activation(o["hidden_cell"]["config"].get("activation"), o["name"]),
        dropout=float(o["dropout"]),
        initializers={"W_u.bias": nn.init.zeros_} if frozen else None,
        return_sequences=o["return_sequences"],
        discretizer=o["discretizer"],
        **factory,
    )
    if frozen:
        assert layer.W_u is not None
        layer.W_u.bias.requires_grad_(False)  # there is none in KerasLMU
    return layer


def _lmu(
    kind: type[LMU] | type[LMUCell],
    o: dict[str, Any],
    cell: dict[str, Any],
    factory: dict[str, Any],
) -> LMU | LMUCell:
    encoded, fed_back = o["kernel_initializer"] is not None, o["hidden_to_memory"]
    # Without a kernel u is [x; h]: for x alone lmu's layers have encode_input=False, for both the
    # encoders are parts of the identity.
    identity = fed_back and not encoded
    if identity:
        cell = cell | {"initializers": cell.get("initializers", {}) | _IDENTITY}
    if kind is LMU:
        cell = cell | {"return_sequences": o["return_sequences"], "method": o["method"]}
    layer = kind(
        o["input_size"],
        memory_size=o["order"],
        theta=o["theta"],
        memory_channels=o["memory_d"],
        learn_theta=o["trainable_theta"],
        hidden_to_memory=fed_back,
        memory_to_memory=o["memory_to_memory"],
        input_to_hidden=o["input_to_hidden"],
        encode_input=encoded or identity,
        memory_bias=o["use_bias"],
        dropout=float(o["dropout"]),
        recurrent_dropout=float(o["recurrent_dropout"]) * (fed_back or o["memory_to_memory"]),
        discretizer=o["discretizer"],
        **cell,
        **factory,
    )
    if identity:
        assert layer.e_x is not None
        assert layer.e_h is not None
        layer.e_x.requires_grad_(False)
        layer.e_h.requires_grad_(False)
    return layer


def _eye_below(matrix: Tensor) -> Tensor:
    """Fill a matrix with the last columns of the identity."""
    rows, columns = matrix.shape
    return matrix.zero_().copy_(torch.eye(rows, device=matrix.device)[:, rows - columns :])


_IDENTITY = {"e_x": nn.init.eye_, "e_h": _eye_below}
