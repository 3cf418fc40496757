"""Import of whole models from ``.keras`` files."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lmu.interop.keras._arguments import activation, dtype_of, name_of, read, warn_left_out
from lmu.interop.keras._chain import chain_of, check_layers
from lmu.interop.keras._files import FilePath, LayerArrays, read_model
from lmu.interop.keras._hidden import dense
from lmu.interop.keras._plans import assign, plan_of
from lmu.interop.keras.config import build

Config = Mapping[str, Any]


class KerasModel(nn.Module):
    """A chain of layers with their names in Keras.

    If a layer returns output and state, the output is passed on.

    Args:
        layers: Modules by name, in order. In names that PyTorch does not allow dots become
            underscores, or one is appended.
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, module in layers.items():
            allowed = name.replace(".", "_")
            while hasattr(self, allowed):
                allowed += "_"
            self.add_module(allowed, module)

    def forward(self, input: Tensor) -> Tensor:
        """Run (batch, time, input_size) through all layers."""
        for layer in self.children():
            output = layer(input)
            input = output[0] if isinstance(output, tuple) else output
        return input


def load_keras(
    path: FilePath,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> KerasModel:
    """Build the model in a ``.keras`` file, with its weights.

    It must be a chain, Sequential or functional, of LMU, LMUFeedforward, RNN around an LMUCell,
    Dense, Activation, ReLU, Softmax, LayerNormalization, Dropout and Flatten. LMU layers are those
    of :func:`from_config`, the others are PyTorch's; no code in the file is executed. The model is
    in training mode, as any new module: call ``eval()`` to switch dropout off.

    Args:
        path: A file saved by Keras 3.
        device: Device of the parameters.
        dtype: Dtype of the parameters; None takes that of each layer in the file.

    Returns:
        The chain, whose input is (batch, time, input_size). Its layers have their names in Keras,
        such as ``model.lmu_1``.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: h5py is missing.
        ValueError: It is another kind of file, or the model has a part that cannot be imported; the
            message names the layer.
    """
    config, groups = read_model(path)
    arrays = {group.key: group for group in groups}
    keys = _group_keys(check_layers(config))
    layers: dict[str, nn.Module] = {}
    for layer in chain_of(config):
        name, kind = name_of(layer), layer["class_name"]
        if kind not in _BUILDERS:
            raise ValueError(
                f"layer {name!r} is a {kind}, which cannot be imported; known are "
                f"{', '.join(_BUILDERS)}"
            )
        held = arrays.get(keys[name], LayerArrays(keys[name], name, [], []))
        in_file = dtype_of(layer, name)
        factory = {"device": device, "dtype": dtype or in_file}
        if kind not in _RECURRENT:
            warn_left_out(layer["config"], name)
        module = _BUILDERS[kind](layer, held, factory)
        if kind not in _WITH_WEIGHTS and (held.own or held.hidden):
            raise ValueError(f"{held}: the file holds arrays for a {kind}, which has no weights")
        if kind in _WITH_WEIGHTS:
            plan = plan_of(module)
            assign(module, plan, plan.match(held.own, held.hidden, str(held)))
        layers[name] = module.requires_grad_(False) if _is_frozen(layer) else module
    _check_all_used(groups, set(keys.values()))
    return KerasModel(layers)


def _check_all_used(groups: list[LayerArrays], keys: set[str]) -> None:
    rest = [str(group) for group in groups if group.key not in keys]
    if rest:
        raise ValueError(
            f"the file has weights of {', '.join(rest[:5])}, which the config of the model does "
            "not name: it is damaged, save the model again"
        )


def _group_keys(layers: list[Config]) -> dict[str, str]:
    """Return the group of each layer's weights: Keras counts the layers of one class."""
    keys: dict[str, str] = {}
    counts: dict[str, int] = {}
    for layer in layers:
        words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=.)(?=[A-Z][a-z])", "_", layer["class_name"])
        kind = words.lower()
        count = counts[kind] = counts.get(kind, -1) + 1
        keys[name_of(layer)] = f"{kind}_{count}" if count else kind
    return keys


def _is_frozen(layer: Config) -> bool:
    return not layer["config"].get("trainable", True)


def _lmu(layer: Config, held: LayerArrays, factory: dict[str, Any]) -> nn.Module:
    rows = len(held.own[0]) if held.own and held.own[0].ndim == 2 else None
    inverse = [array.item() for array in held.own if array.ndim == 0 and array]
    numbers = sum(array.numel() for array in (*held.own, *held.hidden))
    return build(layer, rows, None, factory, 1 / inverse[0] if inverse else None, numbers)


def _dense(layer: Config, held: LayerArrays, factory: dict[str, Any]) -> nn.Module:
    name = name_of(layer)
    if not held.own or held.own[0].ndim != 2 or not held.own[0].numel():
        shapes = [tuple(array.shape) for array in held.own]
        raise ValueError(
            f"layer {name!r}: a Dense has a matrix of weights, the file holds {shapes}"
        )
    rows, columns = held.own[0].shape
    units = read(layer["config"], name, units=..., activation="linear", use_bias=True)["units"]
    if units != columns:  # before they are allocated
        raise ValueError(
            f"layer {name!r}: units={units} makes the kernel ({rows}, {units}), but the array in "
            f"the file has the shape ({rows}, {columns})"
        )
    return dense(layer["config"], rows, name, factory)


def _layer_normalization(layer: Config, held: LayerArrays, factory: dict[str, Any]) -> nn.Module:
    name = name_of(layer)
    o = read(layer["config"], name, axis=-1, epsilon=1e-3, center=True, scale=True)
    if o["axis"] not in (-1, [-1]) or not o["scale"]:
        raise ValueError(f"layer {name!r}: only axis=-1 with scale=True can be imported")
    size = held.own[0].numel() if held.own else 0
    return nn.LayerNorm(size, o["epsilon"], bias=o["center"], **factory)


def _dropout(layer: Config, *_: Any) -> nn.Module:
    return nn.Dropout(read(layer["config"], name_of(layer), rate=...)["rate"])


def _activation(layer: Config, *_: Any) -> nn.Module:
    name = name_of(layer)
    return activation(read(layer["config"], name, activation=...)["activation"], name)


def _relu(layer: Config, *_: Any) -> nn.Module:
    read(layer["config"], name_of(layer))
    return nn.ReLU()


def _softmax(layer: Config, *_: Any) -> nn.Module:
    if read(layer["config"], name_of(layer), axis=-1)["axis"] != -1:
        raise ValueError(f"layer {name_of(layer)!r}: only axis=-1 can be imported")
    return nn.Softmax(dim=-1)


def _flatten(layer: Config, *_: Any) -> nn.Module:
    read(layer["config"], name_of(layer), data_format="channels_last")
    return nn.Flatten()


_RECURRENT = ("LMU", "LMUFeedforward", "RNN")
_WITH_WEIGHTS = (*_RECURRENT, "Dense", "LayerNormalization")
_BUILDERS: dict[str, Callable[[Config, LayerArrays, dict[str, Any]], nn.Module]] = {
    **dict.fromkeys(_RECURRENT, _lmu),
    "Dense": _dense,
    "Activation": _activation,
    "ReLU": _relu,
    "Softmax": _softmax,
    "LayerNormalization": _layer_normalization,
    "Dropout": _dropout,
    "Flatten": _flatten,
}
