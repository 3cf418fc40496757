"""Reading Keras's files: the config of a model, and the arrays of each of its layers."""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmu._extras import require

FilePath = str | Path
_MEMBERS = ("config.json", "model.weights.h5")


class LayerArrays(NamedTuple):
    """The weights of one layer in a file, which names none of them."""

    key: str  # of its group: the class, with a number from the second layer of that class on
    name: str  # of the layer, where the file tells it
    own: list[Tensor]
    hidden: list[Tensor]  # of its hidden cell

    @property
    def kind(self) -> str:
        """The layer's class, in snake case."""
        return re.sub(r"_\d+$", "", self.key)

    def __str__(self) -> str:
        return f"layer {self.name!r}" + (f" ({self.key})" if self.key != self.name else "")


def read_model(path: FilePath) -> tuple[dict[str, Any], list[LayerArrays]]:
    """Read a ``.keras`` file.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: h5py is missing.
        ValueError: It is another kind of file, or one of Keras 2.
    """
    require("h5py", "numpy", extra="keras")
    if not Path(path).exists():
        raise FileNotFoundError(f"no such file: {path}")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is not a .keras file, which is a zip archive. For weights alone, "
            "a .weights.h5 file, build the model and call load_weights"
        )
    with zipfile.ZipFile(path) as archive:
        _check_members(archive, path)
        config = json.loads(archive.read(_MEMBERS[0]))
        if "metadata.json" in archive.namelist():
            version = json.loads(archive.read("metadata.json")).get("keras_version", "3")
            if version.startswith("2"):
                raise ValueError(f"{path} was saved by Keras {version}: save it again with Keras 3")
    return config, read_weights(path)


def read_weights(path: FilePath) -> list[LayerArrays]:
    """Read the arrays of a ``.weights.h5`` file, or those inside a ``.keras`` file, as float64.

    Returns:
        The layers that have any, those of one class in the order of the model; the file does not
        tell how layers of different classes follow each other.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: h5py is missing.
        ValueError: It is another kind of file.
    """
    require("h5py", "numpy", extra="keras")
    import h5py

    source: Any = path
    if not Path(path).exists():
        raise FileNotFoundError(f"no such file: {path}")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, path)
            source = io.BytesIO(archive.read(_MEMBERS[1]))
    elif not h5py.is_hdf5(path):
        raise ValueError(f"{path} is neither a .weights.h5 nor a .keras file")
    with h5py.File(source, "r") as file:
        layers: Any = file.get("layers")
        if layers is None:
            legacy = "layer_names" in file.attrs or "model_weights" in file
            raise ValueError(
                f"{path} holds no group 'layers'"
                + (": it is of Keras 2's format. Save the weights" if legacy else ". Save those")
                + " of a Sequential or functional model with Keras 3 as .weights.h5"
            )
        found = [_read_layer(key, layers[key]) for key in sorted(layers, key=_natural)]
    return [arrays for arrays in found if arrays.own or arrays.hidden]


def _check_members(archive: zipfile.ZipFile, path: FilePath) -> None:
    missing = sorted(set(_MEMBERS) - set(archive.namelist()))
    if missing:
        raise ValueError(f"{path} is not a .keras file: it lacks {', '.join(missing)}")


def _natural(key: str) -> tuple[str, int]:
    """Sort lmu, lmu_1, ..., lmu_10 by their numbers."""
    match = re.fullmatch(r"(.*?)(?:_(\d+))?", key)
    assert match is not None
    return match[1], int(match[2] or 0)


def _read_layer(key: str, group: Any) -> LayerArrays:
    own: list[Tensor] = []
    hidden: list[Tensor] = []
    for of_cell, array in _walk(group, of_cell=False):
        (hidden if of_cell else own).append(array)
    name = group["vars"].attrs.get("name", key) if "vars" in group else key
    return LayerArrays(key, str(name), own, hidden)


def _walk(group: Any, of_cell: bool) -> Iterator[tuple[bool, Tensor]]:
    """Arrays below a group, in order, and whether each is of a hidden cell.

    How deep a layer's arrays lie depends on how KerasLMU runs it: in a layer and a cell, in a
    layer, or directly.
    """
    for name, child in group.items():
        if name == "vars":
            for number in sorted(child, key=int):
                yield of_cell, torch.as_tensor(child[number][()], dtype=torch.float64)
        elif name != "seed_generator":  # the state of a dropout's random numbers
            yield from _walk(child, of_cell or name == "hidden_cell")
