"""Folders of the Hub made to do harm, and damaged ones: a right load or one clear error."""

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lmu import LMU
from lmu.models import SequenceClassifier
from lmu.models._config import DTYPES, build

CELL = nn.Sequential(nn.Linear(9, 7), nn.ELU())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    layer = LMU(3, 7, 6, 9.0, hidden_cell=CELL, encoder_activation=torch.tanh)
    SequenceClassifier(layer, 5).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def load(folder: Path) -> Any:
    return SequenceClassifier.from_pretrained(folder)


def edit(folder: Path, change: Callable[[Any], Any]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"dtype": "load"}, "unknown dtype 'load', not one of .*'float32'"),
        ({"dtype": "float"}, "unknown dtype 'float'"),
        ({"dtype": "complex64"}, "unknown dtype 'complex64'"),
        ({"dtype": ["load"]}, "unknown dtype"),
        ({"function": []}, "unknown function"),
        ({"function": "tanh", "dtype": "load"}, "unknown class None"),
        ({"class": ["LMU"]}, "unknown class"),
        ({}, "unknown class None"),
        ({"class": "nn.Sequential"}, "has a list of items and nothing else"),
        ({"class": "nn.Sequential", "items": [1]}, "items of nn.Sequential must be layers"),
        ({"class": "list", "items": [], "more": 1}, "has a list of items and nothing else"),
        ({"class": "nn.Tanh", "args": 1}, "nn.Tanh has no argument 'args'"),
        ({"class": "nn.ELU", "alpha": {"dtype": "float32"}}, "alpha must be a finite number"),
        ({"class": "nn.ELU", "inplace": 1}, "inplace must be true or false, got 1"),
        ({"class": "nn.GELU", "approximate": "x"}, "approximate must be one of none, tanh"),
        ({"class": "nn.Linear", "in_features": True, "out_features": 1}, "in_features must be"),
        ({"class": "nn.Linear", "in_features": 1}, "nn.Linear cannot be built"),
        ({"class": "nn.Linear", "in_features": 1, "out_features": 1 << 40}, "below 2..31"),
        ({"class": "nn.LayerNorm", "normalized_shape": [[]]}, "normalized_shape must be"),
        ({"class": "nn.Linear", "device": "meta"}, "no argument 'device'"),
        ({"class": "LMU", "initializers": None}, "no argument 'initializers'"),
        ({"class": "LMU", "input_size": "3"}, "LMU cannot be built"),
        ({"class": "GaussianNoise", "std": "x"}, "GaussianNoise cannot be built"),
    ],
)
def test_what_a_config_may_name(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(data)


@pytest.mark.parametrize("name", DTYPES)
def test_known_dtypes(name: str) -> None:
    assert build({"dtype": name}) is getattr(torch, name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["layer"].update(encoder_activation={"dtype": "load"}), "unknown dtype 'load'"),
        (lambda c: c["layer"].update(encoder_activation="load"), "encoder_activation must be"),
        (lambda c: c["layer"].update(memory_size=10**6), "memory_size=1000000 .* out of bounds"),
        (lambda c: c["layer"].update(memory_size=-3), "memory_size must be at least 1"),
        (lambda c: c["layer"].update(theta=[9.0] * 5000, memory_channels=5000), "out of bounds"),
        (lambda c: c["layer"].update(theta=None), "LMU cannot be built"),
        (lambda c: c["layer"].update(theta={}), "unknown class None"),
        (lambda c: c["layer"].update(input_size=10**9), r"e_x \(1, 3\).* wants \(1, 1000000000\)"),
        (lambda c: c.update(num_classes=10**9), r"wants \(1000000000,"),
        (lambda c: c.update(num_classes="5"), "num_classes must be an integer, got '5'"),
        (lambda c: c.update(dropout="x"), "does not make a model"),
        (lambda c: c.pop("layer"), "does not make a model: .*layer"),
        (lambda c: c.update(layer=7), "does not make a model: layer must be"),
        (lambda c: c.update(more=7), "arguments more, which are not known"),
        (
            lambda c: c.update(layer={"class": "list", "items": [{"class": "nn.Tanh"}] * 10_001}),
            "10,002 layers; at most 10,000",
        ),
        (
            lambda c: c["layer"].update(dtype={"dtype": "float64"}),
            "hidden cell is torch.float32 .* the layer torch.float64",
        ),
    ],
)
def test_configs(folder: Path, change: Callable[[Any], Any], message: str) -> None:
    edit(folder, change)
    with pytest.raises(ValueError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "config.json cannot be read"),
        (b"\xff", "config.json cannot be read"),
        (b"[]", "list in place of an object"),
        (b"[" * 100_000, "config.json nests too deep"),
        (b'{"dropout": NaN}', "NaN is no finite number"),
        (b" " * (17 << 20), "more than 16,777,216 bytes"),
    ],
)
def test_texts(folder: Path, text: bytes, message: str) -> None:
    (folder / "config.json").write_bytes(text)
    with pytest.raises(ValueError, match=message):
        load(folder)


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        from safetensors.torch import load_file, save_file

        change(held := load_file(path))
        save_file(held, path)

    return write


def header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        content = path.read_bytes()
        end = 8 + struct.unpack("<Q", content[:8])[0]
        change(held := json.loads(content[8:end]))
        text = json.dumps(held).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + content[end:])

    return write


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (weights(lambda w: w.pop("layer.e_m")), "safetensors lacks layer.e_m: .* config.json"),
        (weights(lambda w: w.update(x=torch.ones(1))), "beyond those of the model, x:"),
        (
            weights(lambda w: w.update({"classifier.bias": torch.ones(4)})),
            r"classifier.bias \(4,\) of torch.float32, .* wants \(5,\) of torch.float32",
        ),
        (
            weights(lambda w: w.update({"classifier.bias": torch.ones(5).int()})),
            r"classifier.bias \(5,\) of I32, .* of torch.float32",
        ),
        (header(lambda h: h["classifier.bias"].update(shape=[5 << 40])), "cannot be read as safe"),
        (header(lambda h: h["classifier.bias"].update(data_offsets=[0, 1 << 40])), "cannot be"),
        (header(lambda h: h["classifier.bias"].update(dtype="F99")), "cannot be read as safe"),
        (lambda path: path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}"), "cannot be read"),
    ],
)
def test_weights(folder: Path, change: Callable[[Path], Any], message: str) -> None:
    change(folder / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load(folder)


def test_pickles_are_not_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_truncated_files(folder: Path, name: str) -> None:
    content = (path := folder / name).read_bytes()
    for end in (0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 2):
        path.write_bytes(content[:end])
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            load(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_flipped_bits(folder: Path, name: str) -> None:
    # Neither has a checksum, so that a number may change; nothing but a ValueError may be raised.
    content = (path := folder / name).read_bytes()
    draw = random.Random(0)
    refused = 0
    for place in [draw.randrange(min(len(content), 900)) for _ in range(60)]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            assert isinstance(load(folder), SequenceClassifier)
        except ValueError:
            refused += 1
    assert refused > 30
