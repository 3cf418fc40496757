"""Reading of Keras's files: the config of a model, and the arrays of its layers."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from lmu._extras import require
from lmu._json import parse_json
from lmu.interop.keras._archive import CONFIG, METADATA, WEIGHTS, read_members
from lmu.interop.keras._hdf5 import H5_ERRORS, Reader, RefusedError

FilePath = str | Path


class LayerArrays(NamedTuple):
    """Weights of one layer in a file, which has no names for them."""

    key: str  # name of its group: the class, with a number from the second layer of that class on
    name: str  # name of the layer, if the file has it
    own: list[Tensor]
    hidden: list[Tensor]  # arrays of its hidden cell

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
        ValueError: It is another kind of file, damaged, or one of Keras 2.
    """
    require("h5py", "numpy", extra="keras")
    _check_exists(path)
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is not a .keras file, which is a zip archive, or it is damaged. For weights "
            "alone, a .weights.h5 file, build the model and call load_weights"
        )
    members = read_members(path)
    config = parse_json(members[CONFIG], f"{path}: {CONFIG}")
    if METADATA in members:
        metadata = parse_json(members[METADATA], f"{path}: {METADATA}")
        version = str(metadata.get("keras_version", "3"))
        if version.startswith("2"):
            raise ValueError(f"{path} was saved by Keras {version}: save it again with Keras 3")
    return config, _read_layers(members[WEIGHTS], path)


def read_weights(path: FilePath) -> list[LayerArrays]:
    """Read the arrays of a ``.weights.h5`` or a ``.keras`` file, as float64.

    Returns:
        The layers with arrays, those of one class in the order of the model; the order of layers of
        different classes is not in the file.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: h5py is missing.
        ValueError: It is another kind of file, or damaged.
    """
    require("h5py", "numpy", extra="keras")
    import h5py

    _check_exists(path)
    # HDF5 first: its weights may happen to end like an archive, but it does not start like one.
    if h5py.is_hdf5(path):
        return _read_layers(Path(path).read_bytes(), path)
    if zipfile.is_zipfile(path):
        return _read_layers(read_members(path)[WEIGHTS], path)
    raise ValueError(
        f"{path} is neither a .weights.h5 nor a .keras file, or it is damaged: copy it again, or "
        "save the model again with Keras 3"
    )


def _check_exists(path: FilePath) -> None:
    if not Path(path).exists():
        raise FileNotFoundError(f"no such file: {path}")


def _read_layers(content: bytes, path: FilePath) -> list[LayerArrays]:
    """Read the layers in an HDF5 file."""
    reader = Reader(str(path), len(content))
    try:
        with reader.open(content) as file:
            names = reader.names(file)
            if "layers" not in names:
                legacy = "layer_names" in file.attrs or "model_weights" in names
                raise RefusedError(
                    f"{path} holds no group 'layers'"
                    + (
                        ": it is of Keras 2's format. Save the weights"
                        if legacy
                        else ". Save those"
                    )
                    + " of a Sequential or functional model with Keras 3 as .weights.h5"
                )
            layers = reader.group(file, "layers")
            keys = sorted(reader.names(layers), key=_natural)
            arrays = [_read_layer(reader, key, reader.group(layers, key)) for key in keys]
    except RefusedError:
        raise
    except H5_ERRORS as error:
        raise ValueError(
            f"{path}: the weights cannot be read ({error}); the file is damaged. Copy it again, or "
            "save the model again"
        ) from error
    return [layer for layer in arrays if layer.own or layer.hidden]


def _natural(key: str) -> tuple[str, int]:
    """Key that sorts lmu, lmu_1, ..., lmu_10 by their numbers."""
    match = re.fullmatch(r"(.*?)(?:_(\d+))?", key)
    assert match is not None
    return match[1], int(match[2] or 0)


def _read_layer(reader: Reader, key: str, group: Any) -> LayerArrays:
    own: list[Tensor] = []
    hidden: list[Tensor] = []
    for of_cell, array in _walk(reader, group, of_cell=False):
        (hidden if of_cell else own).append(array)
    name = reader.text(reader.group(group, "vars"), "name") if "vars" in list(group) else None
    return LayerArrays(key, name or key, own, hidden)


def _walk(reader: Reader, group: Any, of_cell: bool) -> Iterator[tuple[bool, Tensor]]:
    """Iterate over arrays below a group, in order; True with those of a hidden cell.

    The depth of a layer's arrays depends on how KerasLMU runs it: in a layer and a cell, in a
    layer, or directly.
    """
    for name in reader.names(group):
        if name == "vars":
            child = reader.group(group, name)
            numbers = reader.names(child)
            expected = [str(number) for number in range(len(numbers))]
            if set(numbers) != set(expected):
                raise reader.refuse(
                    f"{child.name} has the members {', '.join(sorted(numbers)[:5])}, and not the "
                    f"arrays 0 to {len(numbers) - 1}"
                )
            for number in expected:
                yield of_cell, reader.array(reader.member(child, number))
        elif name != "seed_generator":  # state of dropout's random numbers
            child = reader.group(group, name)
            yield from _walk(reader, child, of_cell or name == "hidden_cell")
