"""Conversion of Keras's arrays into parameters of layers and hidden cells.

Keras's kernels are (inputs, outputs), transposes of PyTorch's weights, and joined for all gates.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lmu.interop.keras._cells import ResetFirstGRUCell
from lmu.layers import LMU, LMUFFT, LMUCell

Shape = tuple[int, ...]
Named = Mapping[str, Tensor]
HIDDEN = "hidden."  # prefix of the names of a hidden cell's arrays


class Plan(NamedTuple):
    """Shapes of Keras's arrays for a module, and their conversion into its parameters."""

    shapes: dict[str, Shape]  # by KerasLMU's names, in the order of its files
    convert: Callable[[Named], dict[str, Tensor]]  # differentiable
    optional: str | None = None  # name of an array that may be missing

    def match(self, own: Sequence[Tensor], hidden: Sequence[Tensor], where: str) -> Named:
        """Name the arrays of a file, those of the layer and of its hidden cell."""
        names = [name for name in self.shapes if not name.startswith(HIDDEN)]
        of_cell = [name for name in self.shapes if name.startswith(HIDDEN)]
        if len(own) == len(names) - 1 and self.optional is not None:
            names.remove(self.optional)
        if len(own) != len(names) or len(hidden) != len(of_cell):
            held = [tuple(a.shape) for a in own], [tuple(a.shape) for a in hidden]
            raise ValueError(
                f"{where}: the module expects {_list(self.shapes)}, but the file holds {held[0]} "
                f"for the layer and {held[1]} for its hidden cell. Which arrays there are is up "
                "to use_bias, trainable_theta, memory_to_memory, and the hidden cell"
            )
        named = dict(zip(names + of_cell, [*own, *hidden], strict=True))
        self.check(named, where)
        return named

    def check(self, arrays: Named, where: str) -> None:
        """Refuse missing and unknown names, and wrong shapes."""
        missing = [n for n in self.shapes if n not in arrays and n != self.optional]
        unknown = [n for n in arrays if n not in self.shapes]
        for title, names in (("missing", missing), ("not expected", unknown)):
            if names:
                raise ValueError(
                    f"{where}: {title}: {', '.join(names)}. The module has {_list(self.shapes)}"
                )
        for name, array in arrays.items():
            if tuple(array.shape) != self.shapes[name]:
                raise ValueError(
                    f"{where}: the module has {name} {self.shapes[name]}, "
                    f"but the array given has the shape {tuple(array.shape)}"
                )


def assign(module: nn.Module, plan: Plan, arrays: Named) -> None:
    """Write checked arrays into a module."""
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name, value in plan.convert(arrays).items():
            parameters[name].copy_(value)


def plan_of(module: nn.Module) -> Plan:
    """Return the plan of a layer or hidden cell.

    Raises:
        TypeError: It has no counterpart in Keras.
        ValueError: Its equations have no counterpart in KerasLMU.
    """
    for kind, plan in _PLANS.items():
        if isinstance(module, kind):
            return plan(module)
    raise TypeError(f"{type(module).__name__} cannot be filled with the weights of a Keras layer")


def _lmu(layer: LMU | LMUCell) -> Plan:
    e_x, e_h, e_m = layer.e_x, layer.e_h, layer.e_m
    _check_encoder(layer)
    i = layer.input_size
    shapes: dict[str, Shape] = {}
    if e_x is not None:
        shapes["kernel"] = (i if e_h is None else i + e_h.shape[1], len(e_x))
    elif e_h is not None:
        raise ValueError("no layer of KerasLMU feeds back the hidden state but lacks a kernel")
    if layer.b_u is not None:
        shapes["bias"] = tuple(layer.b_u.shape)
    if layer.learn_theta:
        shapes["theta_inv"] = ()
    if e_m is not None:
        shapes["recurrent_kernel"] = tuple(e_m.mT.shape)

    def convert(w: Named) -> dict[str, Tensor]:
        kernel, out = w.get("kernel"), _log_theta(layer, w)
        if kernel is not None:
            out["e_x"] = kernel[:i].mT
        if kernel is not None and e_h is not None:
            out["e_h"] = kernel[i:].mT
        if "bias" in w:
            out["b_u"] = w["bias"]
        if "recurrent_kernel" in w:
            out["e_m"] = w["recurrent_kernel"].mT
        return out

    plan = Plan(shapes, convert, "kernel" if passes_through(layer) else None)
    if layer.hidden_cell is None:
        return plan
    if isinstance(layer.hidden_cell, str):
        return _with_hidden(plan, _own_cell(layer), "")
    return _with_hidden(plan, plan_of(layer.hidden_cell), "hidden_cell.")


def _lmu_fft(layer: LMUFFT) -> Plan:
    _check_encoder(layer)
    W_u = layer.W_u
    encoder = Plan({}, lambda _: {}) if W_u is None else _linear(W_u)
    shapes = encoder.shapes | ({"theta_inv": ()} if layer.learn_theta else {})

    def convert(w: Named) -> dict[str, Tensor]:
        out = {f"W_u.{name}": value for name, value in encoder.convert(w).items()}
        if W_u is not None and "bias" not in w:
            out["W_u.bias"] = torch.zeros_like(W_u.bias)
        return out | _log_theta(layer, w)

    plan = Plan(shapes, convert, None if W_u is None else "bias")
    return _with_hidden(plan, _linear(layer.W_h), "W_h.")


def _with_hidden(plan: Plan, cell: Plan, prefix: str) -> Plan:
    """Join the plans of a layer and its hidden cell, whose parameters have a prefix."""

    def convert(w: Named) -> dict[str, Tensor]:
        inner = {n.removeprefix(HIDDEN): a for n, a in w.items() if n.startswith(HIDDEN)}
        return plan.convert(w) | {prefix + n: a for n, a in cell.convert(inner).items()}

    shapes = plan.shapes | {HIDDEN + name: shape for name, shape in cell.shapes.items()}
    return Plan(shapes, convert, plan.optional)


def _check_encoder(layer: LMU | LMUCell | LMUFFT) -> None:
    if layer.encoder_activation is not None:
        raise ValueError(
            "KerasLMU has no activation between input and memory: build the layer with "
            "encoder_activation=None"
        )


def _log_theta(layer: LMU | LMUCell | LMUFFT, w: Named) -> dict[str, Tensor]:
    """Convert theta: KerasLMU trains its inverse, lmu the logarithm above the least stable one."""
    if "theta_inv" not in w:
        return {}
    theta = 1 / w["theta_inv"]
    if not layer.memory._least_theta < theta.item() < float("inf"):
        raise ValueError(
            f"theta_inv={w['theta_inv'].item():g} is no stable window: with "
            f"memory_size={layer.memory_size} and discretizer={layer.discretizer!r} theta must be "
            f"above {layer.memory._least_theta:g}"
            + (", or discretizer='euler-unchecked'" if layer.discretizer == "euler" else "")
        )
    log_theta = (theta - layer.memory._least_theta).log()
    return {"memory.log_theta": log_theta.expand_as(layer.memory.log_theta)}


def passes_through(layer: LMU | LMUCell) -> bool:
    """True if the encoders are an identity, as for a layer without a kernel: u = [x; h]."""
    e_x, e_h = layer.e_x, layer.e_h
    if e_x is None or e_h is None or len(e_x) != e_x.shape[1] + e_h.shape[1]:
        return False
    return bool(torch.cat([e_x, e_h], dim=1).eq(torch.eye(len(e_x), device=e_x.device)).all())


def _own_cell(layer: LMU | LMUCell) -> Plan:
    W_x, W_h, W_m, b_h = layer.W_x, layer.W_h, layer.W_m, layer.b_h
    assert W_h is not None
    assert W_m is not None
    n, d = W_m.shape
    shapes: dict[str, Shape] = {
        "kernel": (d if W_x is None else d + W_x.shape[1], n),
        "recurrent_kernel": (n, n),
    }
    shapes |= {} if b_h is None else {"bias": (n,)}

    def convert(w: Named) -> dict[str, Tensor]:
        out = {"W_m": w["kernel"][:d].mT, "W_h": w["recurrent_kernel"].mT}  # the memory comes first
        out |= {} if W_x is None else {"W_x": w["kernel"][d:].mT}
        return out | ({} if b_h is None else {"b_h": w["bias"]})

    return Plan(shapes, convert)


def _linear(linear: nn.Linear) -> Plan:
    shapes: dict[str, Shape] = {"kernel": (linear.in_features, linear.out_features)}
    shapes |= {} if linear.bias is None else {"bias": (linear.out_features,)}

    def convert(w: Named) -> dict[str, Tensor]:
        return {"weight": w["kernel"].mT} | ({"bias": w["bias"]} if "bias" in w else {})

    return Plan(shapes, convert)


def _sequential(cell: nn.Sequential) -> Plan:
    """Plan of a linear layer and its activation, one Dense in Keras."""
    linears = {name: m for name, m in cell.named_children() if isinstance(m, nn.Linear)}
    if len(linears) != 1 or len(list(cell.parameters())) > 2:
        raise TypeError("of nn.Sequential, only one nn.Linear and its activation can be filled")
    [(name, linear)] = linears.items()
    plan = _linear(linear)
    return Plan(
        plan.shapes, lambda w: {f"{name}.{key}": value for key, value in plan.convert(w).items()}
    )


def _layer_norm(norm: nn.LayerNorm) -> Plan:
    names = {"gamma": "weight", "beta": "bias"}
    held = {k: n for k, n in names.items() if getattr(norm, n) is not None}
    return Plan(
        dict.fromkeys(held, tuple(norm.normalized_shape)),
        lambda w: {name: w[key] for key, name in held.items()},
    )


def _rnn_cell(cell: nn.RNNCell) -> Plan:
    return _recurrent(cell, (0,), (cell.hidden_size,))


def _lstm_cell(cell: nn.LSTMCell) -> Plan:
    return _recurrent(cell, (0, 1, 2, 3), (4 * cell.hidden_size,))  # both: in, forget, cell, out


def _gru_cell(cell: nn.GRUCell | ResetFirstGRUCell) -> Plan:
    # Keras: update, reset, candidate; PyTorch: reset, update, candidate. If the reset gate follows
    # the product with the state, the candidate needs two biases, and so every gate has two.
    n = 3 * cell.hidden_size
    return _recurrent(cell, (1, 0, 2), (2, n) if isinstance(cell, nn.GRUCell) else (n,))


def _recurrent(cell: nn.RNNCellBase, gates: tuple[int, ...], bias: Shape) -> Plan:
    """Plan of a recurrent cell; ``gates`` are the places of PyTorch's gates in Keras's order."""
    i, n = cell.input_size, cell.hidden_size
    width = n * len(gates)
    shapes: dict[str, Shape] = {"kernel": (i, width), "recurrent_kernel": (n, width)}
    shapes |= {"bias": bias} if cell.bias else {}

    def ordered(array: Tensor) -> Tensor:
        blocks = array.unflatten(-1, (len(gates), n))[..., list(gates), :]
        return blocks.flatten(-2).movedim(-1, 0)

    def convert(w: Named) -> dict[str, Tensor]:
        out = {"weight_ih": ordered(w["kernel"]), "weight_hh": ordered(w["recurrent_kernel"])}
        if cell.bias:
            b = ordered(w["bias"])
            out["bias_ih"] = b[:, 0] if b.ndim == 2 else b
            if cell.bias_hh is not None:
                out["bias_hh"] = b[:, 1] if b.ndim == 2 else torch.zeros_like(b)
        return out

    return Plan(shapes, convert)


_PLANS: dict[Any, Callable[..., Plan]] = {
    LMU: _lmu,
    LMUCell: _lmu,
    LMUFFT: _lmu_fft,
    nn.Linear: _linear,
    nn.Sequential: _sequential,
    nn.LayerNorm: _layer_norm,
    nn.GRUCell: _gru_cell,
    ResetFirstGRUCell: _gru_cell,
    nn.LSTMCell: _lstm_cell,
    nn.RNNCell: _rnn_cell,
}


def _list(shapes: Mapping[str, Shape]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "no arrays"
