"""Keras files made to do harm, and damaged ones: a right load or one clear error."""

import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from lmu.interop.keras import from_config, load_keras, load_weights

FILES = Path(__file__).parent / "keras_lmu"
MODEL = FILES / "model_c01_lmu_srnn_all_o4.keras"
WEIGHTS = "model.weights.h5"
VARS = "layers/dense/vars"

Edit = Callable[[h5py.File, Path], Any]


def members(path: Path = MODEL) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path: Path, content: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def with_weights(folder: Path, edit: Edit) -> tuple[Path, Path]:
    """The model with other weights, in an archive and alone."""
    alone = folder / "x.weights.h5"
    alone.write_bytes(members()[WEIGHTS])
    with h5py.File(alone, "a") as file:
        edit(file, folder)
    packed = members() | {WEIGHTS: alone.read_bytes()}
    return pack(folder / "x.keras", packed), alone


def with_config(folder: Path, edit: Callable[[Any, list[Any]], Any]) -> Path:
    config = json.loads(members()["config.json"])
    edit(config, config["config"]["layers"])
    return pack(folder / "x.keras", members() | {"config.json": json.dumps(config).encode()})


def put(file: h5py.File, shape: Any = (6, 3), kind: Any = "f4", **kwargs: Any) -> None:
    """Declare the kernel of the dense layer anew."""
    del file[f"{VARS}/0"]
    file.create_dataset(f"{VARS}/0", shape, kind, **kwargs)


def relink(file: h5py.File, link: Any) -> None:
    del file[f"{VARS}/0"]
    file[f"{VARS}/0"] = link


def external_storage(file: h5py.File, folder: Path) -> None:
    secret = folder / "secret"
    secret.write_bytes(b"secret!!" * 9)
    put(file, external=[(str(secret), 0, 72)])


def other_file(folder: Path) -> Path:
    with h5py.File(path := folder / "other.h5", "w") as other:
        other["kernel"] = np.ones((6, 3), "f4")
    return path


def virtual(file: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout((6, 3), "f4")
    layout[:] = h5py.VirtualSource(str(other_file(folder)), "kernel", (6, 3))
    del file[f"{VARS}/0"]
    file.create_virtual_dataset(f"{VARS}/0", layout)


def never_written(file: h5py.File, *_: Any) -> None:
    """Contiguous, and without a place in the file."""
    del file[f"{VARS}/0"]
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    space = h5py.h5s.create_simple((1 << 16, 1 << 16))
    name = f"{VARS}/0".encode()
    h5py.h5d.create(file.id, name, h5py.h5t.IEEE_F32LE, space, plist)


def linked_often(file: h5py.File, *_: Any) -> None:
    """One array many times, which together are larger than the file."""
    file["layers/dense_1/vars/0"] = np.ones(3000, "f4")
    for i in range(1, 9):
        file[f"layers/dense_1/vars/{i}"] = file["layers/dense_1/vars/0"]


def names(file: h5py.File, *_: Any) -> None:
    del file["layers/dense/vars"].attrs["name"]
    file["layers/dense/vars"].attrs["name"] = ["head"] * 2000


HOSTILE: dict[str, tuple[Edit, str]] = {
    "external storage": (external_storage, "dense/vars/0 lie in another file"),
    "external link": (
        lambda file, folder: relink(file, h5py.ExternalLink(str(other_file(folder)), "kernel")),
        "is a ExternalLink to 'kernel'",
    ),
    "external group": (
        lambda file, folder: file.update(
            {"layers/lmu_1": h5py.ExternalLink(str(other_file(folder)), "/")}
        ),
        "is a ExternalLink",
    ),
    "virtual": (virtual, "dense/vars/0 lie in another file"),
    "soft link": (lambda file, _: relink(file, h5py.SoftLink(f"/{VARS}/1")), "is a SoftLink to"),
    "soft loop": (lambda file, _: relink(file, h5py.SoftLink(f"/{VARS}/0")), "is a SoftLink to"),
    "hard loop": (
        lambda file, _: file.update({"layers/dense/more": file["layers"]}),
        r"more than the layers of a model",
    ),
    "huge, in chunks": (lambda file, _: put(file, (1 << 15, 1 << 15), chunks=True), "in chunks"),
    "compressed": (lambda file, _: put(file, compression="gzip"), "compressed: .*h5repack"),
    "huge, never written": (never_written, r"17,179,869,184 bytes .* the file holds 0"),
    "linked often": (linked_often, "declares 12,000 bytes by its shape"),
    "null": (lambda file, _: relink(file, h5py.Empty("f4")), "holds no numbers"),
    "integers": (lambda file, _: put(file, kind="i8"), "holds int64, not float16"),
    "booleans": (lambda file, _: put(file, kind="?"), "holds bool, not float16"),
    "complex": (lambda file, _: put(file, kind="c8"), "holds complex64, not float16"),
    "long": (lambda file, _: put(file, kind="f16"), "holds float128, not float16"),
    "opaque": (lambda file, _: put(file, kind="V8"), "not float16"),
    "texts": (lambda file, _: put(file, kind=h5py.string_dtype()), "not float16"),
    "ragged": (lambda file, _: put(file, kind=h5py.vlen_dtype("f4")), "not float16"),
    "references": (lambda file, _: put(file, kind=h5py.ref_dtype), "not float16"),
    "records": (lambda file, _: put(file, kind=[("a", "f4")]), "not float16"),
    "a type": (lambda file, _: relink(file, np.dtype("f4")), "neither a group nor an array"),
    "a group": (
        lambda file, _: (file.pop(f"{VARS}/0"), file.create_group(f"{VARS}/0")),
        "is a group where an array is expected",
    ),
    "an array": (
        lambda file, _: file.update({"layers/dense/more": np.ones(3, "f4")}),
        "is an array where a group is expected",
    ),
    "no layers": (lambda file, _: file.pop("layers"), "holds no group 'layers'"),
    "numbers": (lambda file, _: file.move(f"{VARS}/0", f"{VARS}/x"), "the members 1, x, and not"),
    "name": (names, "'name' of /layers/dense/vars is no text"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_weights_that_are_not_just_arrays_of_this_file(case: str, tmp_path: Path) -> None:
    edit, message = HOSTILE[case]
    packed, alone = with_weights(tmp_path, edit)
    with pytest.raises(ValueError, match=message):
        load_keras(packed)
    for path in (packed, alone):
        with pytest.raises(ValueError, match=message):
            load_weights({"head": nn.Linear(6, 3)}, path)


def test_other_precisions_and_byte_orders_are_read(tmp_path: Path) -> None:
    truth = np.arange(18.0).reshape(6, 3)
    for kind in ("f2", ">f4", "<f8"):
        packed, _ = with_weights(
            tmp_path, lambda file, _, kind=kind: put(file, kind=kind, data=truth)
        )
        head: Any = load_keras(packed).head
        assert torch.equal(head.weight, torch.tensor(truth.T).float())


def test_numbers_that_are_not_finite_are_kept_as_they_are(tmp_path: Path) -> None:
    nan = np.full((6, 3), np.nan)
    packed, _ = with_weights(tmp_path, lambda file, _: put(file, data=nan))
    head: Any = load_keras(packed).head
    assert head.weight.isnan().all()


def bomb(folder: Path) -> Path:
    zeros = members() | {WEIGHTS: members()[WEIGHTS] + bytes(4 << 20)}
    return pack(folder / "x.keras", zeros, zipfile.ZIP_DEFLATED)


def patched(folder: Path, at: int, value: int) -> Path:
    """A bit of the first member's entry in the list of members."""
    content = bytearray(MODEL.read_bytes())
    content[content.index(b"PK\x01\x02") + at] |= value
    (path := folder / "x.keras").write_bytes(content)
    return path


def with_text(folder: Path, name: str, text: bytes) -> Path:
    return pack(folder / "x.keras", members() | {name: text})


def twice(folder: Path) -> Path:
    path = pack(folder / "x.keras", members())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("config.json", "{}")
    return path


ARCHIVES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "bomb": (bomb, r"that unpack to 4,215,684 \(model\.weights\.h5\)"),
    "packed without a bound": (
        lambda folder: pack(folder / "x.keras", members(), zipfile.ZIP_LZMA),
        "packed by method 14",
    ),
    "encrypted": (lambda folder: patched(folder, 8, 1), "is encrypted: unpack"),
    "twice": (twice, "has 2 members config.json"),
    "no JSON": (lambda f: with_text(f, "config.json", b"{"), "config.json cannot be read"),
    "no text": (lambda f: with_text(f, "config.json", b"\xff{}"), "config.json cannot be read"),
    "no object": (lambda f: with_text(f, "config.json", b"[1]"), "list in place of an object"),
    "deep": (
        lambda f: with_text(f, "config.json", b"[" * 100_000 + b"]" * 100_000),
        "config.json nests too deep",
    ),
    "rather deep": (
        lambda f: with_text(f, "config.json", b'{"a":' * 90 + b"1" + b"}" * 90),
        "config.json nests deeper than 64 levels",
    ),
    "giant": (lambda f: with_text(f, "config.json", bytes(17 << 20)), "more than 16,777,216 bytes"),
    "NaN": (lambda f: with_text(f, "config.json", b'{"a": NaN}'), "NaN is no finite number"),
    "1e999": (lambda f: with_text(f, "config.json", b'{"a": 1e999}'), "1e999 is no finite"),
    "digits": (
        lambda f: with_text(f, "config.json", b'{"a": ' + b"9" * 9999 + b"}"),
        r"integer 9{19}\.\.\. is too large",
    ),
    "version": (lambda f: with_text(f, "metadata.json", b"3"), "metadata.json holds a int"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_archives(case: str, tmp_path: Path) -> None:
    make, message = ARCHIVES[case]
    with pytest.raises(ValueError, match=message):
        load_keras(make(tmp_path))


LMU, HEAD = 1, 2
CONFIGS: dict[str, tuple[Callable[[Any, list[Any]], Any], str]] = {
    "layers": (lambda c, _: c["config"].update(layers=3), "no list of layers .* got 3"),
    "config": (lambda c, _: c.update(config=[]), "no list of layers"),
    "many": (lambda _, layers: layers.extend(layers[:1] * 1000), "has 1,003 layers; at most 1,000"),
    "layer": (lambda _, layers: layers.append(7), "layer 3 of the model: expected .* got 7"),
    "class": (lambda _, layers: layers[LMU].update(class_name=[]), "layer 1 of the model"),
    "name": (lambda _, layers: layers[LMU]["config"].update(name={}), "layer 1 of the model"),
    "nodes": (lambda _, layers: layers[HEAD].pop("inbound_nodes"), "'head' has no list of inb"),
    "history": (
        lambda _, layers: layers[HEAD].update(
            inbound_nodes=[{"args": [{"class_name": "__keras_tensor__", "config": []}]}]
        ),
        "'head' has an input from nowhere",
    ),
    "outputs": (lambda c, _: c["config"].update(output_layers=5), "lists no layers, got 5"),
    "same name": (
        lambda _, layers: layers[HEAD]["config"].update(name="lmu_33"),
        "2 layers of the name 'lmu_33'.*give each layer its own",
    ),
    "unreached": (
        lambda _, layers: layers.append(
            json.loads(json.dumps(layers[HEAD]).replace("head", "loop").replace("lmu_33", "loop"))
        ),
        "nothing leads from the input to loop",
    ),
    "left out": (
        lambda c, layers: (layers.pop(), c["config"].update(output_layers=["lmu_33", 0, 0])),
        r"weights of layer 'head' \(dense\), which the config of the model does not name",
    ),
    "dtype": (lambda _, layers: layers[HEAD]["config"].update(dtype={"config": 1}), "'head'"),
    **{
        f"{name}={value}": (
            lambda _, layers, name=name, value=value: layers[LMU]["config"].update({name: value}),
            f"'lmu_33': {message}",
        )
        for name, value, message in (
            ("order", 10**6, r"order=1000000 is imported up to 2048 only"),
            ("order", True, "order must be an integer of at least 1.* got True"),
            ("order", "4", "order must be an integer.* got '4'"),
            ("memory_d", 10**12, "memory_d must be an integer.* below"),
            ("theta", [], r"theta must be a finite number, got \[\]"),
            ("dropout", 2, "dropout must be a number of at least 0 and below 1, got 2"),
            ("use_bias", "no", "use_bias must be true or false, got 'no'"),
            ("discretizer", [], "discretizer must be a text"),
        )
    },
    "units": (
        lambda _, layers: (
            layers[LMU]["config"].update(hidden_to_memory=False),
            layers[LMU]["config"]["hidden_cell"]["config"].update(units=1 << 30),
            layers[LMU].pop("build_config"),
        ),
        r"'lmu_33': units=1073741824, .* want some [\d,]+ weights, but there are 90",
    ),
    "units of a Dense": (
        lambda _, layers: layers[HEAD]["config"].update(units=1 << 30),
        r"'head': units=1073741824 makes the kernel \(6, 1073741824\), but .* \(6, 3\)",
    ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configs(case: str, tmp_path: Path) -> None:
    edit, message = CONFIGS[case]
    with pytest.raises(ValueError, match=message):
        load_keras(with_config(tmp_path, edit))


def test_sizes_are_bounded_without_arrays_too() -> None:
    cell = {"class_name": "SimpleRNNCell", "config": {"units": 1 << 20}}
    arguments = {"memory_d": 1, "order": 4, "theta": 9, "hidden_cell": cell}
    with pytest.raises(ValueError, match="at most 268,435,456 are built"):
        from_config({"class_name": "LMU", "config": arguments}, input_size=1)


def test_layers_of_one_name_in_weights_alone(tmp_path: Path) -> None:
    with h5py.File(path := tmp_path / "two.weights.h5", "w") as file:
        for i, key in enumerate(("dense", "dense_1")):
            file[f"layers/{key}/vars/0"] = np.full((1, 1), float(i))
            file[f"layers/{key}/vars"].attrs["name"] = "same"
    linear = nn.Linear(1, 1, bias=False)
    with pytest.raises(ValueError, match=r"2 layers of the name 'same'.*\(dense\)"):
        load_weights({"same": linear}, path)
    load_weights({"dense_1": linear}, path)
    assert linear.weight.item() == 1


def whether_it_loads(path: Path) -> Any:
    """The model, or None where a ValueError is raised."""
    try:
        return load_keras(path) if path.suffix == ".keras" else whether_they_load(path)
    except ValueError:
        return None


def whether_they_load(path: Path) -> Any:
    load_weights({"head": (linear := nn.Linear(6, 3))}, path)
    return linear


def test_truncated_files(tmp_path: Path) -> None:
    for name, content in (("x.keras", MODEL.read_bytes()), ("x.h5", members()[WEIGHTS])):
        size = len(content)
        for end in (0, 1, 4, 30, 100, 2000, size // 2, size - 100, size - 22, size - 5, size - 1):
            (path := tmp_path / name).write_bytes(content[:end])
            assert whether_it_loads(path) is None, end


def test_flipped_bits_of_an_archive_are_noticed_or_without_effect(tmp_path: Path) -> None:
    content, path = MODEL.read_bytes(), tmp_path / "x.keras"
    truth = load_keras(MODEL).state_dict()
    draw = random.Random(0)
    # Anywhere, and where the list of members makes nearly every bit count.
    places = [draw.randrange(len(content)) for _ in range(30)]
    places += range(content.index(b"PK\x01\x02"), len(content), 8)
    refused = 0
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        model = whether_it_loads(path)
        refused += model is None
        if model is not None:
            assert all(torch.equal(v, truth[k]) for k, v in model.state_dict().items())
    assert refused > len(places) / 2


def test_a_flipped_bit_of_a_weight_is_noticed_by_the_archive(tmp_path: Path) -> None:
    content = bytearray(MODEL.read_bytes())
    head: Any = load_keras(MODEL).head
    bias = head.bias.detach().numpy().tobytes()
    content[content.index(bias)] ^= 1
    (path := tmp_path / "x.keras").write_bytes(content)
    for call in (load_keras, lambda path: load_weights({"head": head}, path)):
        with pytest.raises(ValueError, match=r"x\.keras is damaged: .*CRC.*Copy it again"):
            call(path)


def test_flipped_bits_of_weights_alone(tmp_path: Path) -> None:
    # Without a checksum a weight may change, but nothing else may be raised.
    content, path = members()[WEIGHTS], tmp_path / "x.h5"
    draw = random.Random(1)
    for _ in range(60):
        damaged = bytearray(content)
        damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        whether_it_loads(path)


def test_a_list_of_texts_in_which_hdf5_never_ends(tmp_path: Path) -> None:
    content = bytearray(members()[WEIGHTS])
    first = content.index(b"GCOL") + 16
    content[first : first + 16] = bytes(16)
    (path := tmp_path / "x.h5").write_bytes(content)
    with pytest.raises(ValueError, match="a list of texts in it is damaged"):
        load_weights({"head": nn.Linear(6, 3)}, path)


def test_archives_with_other_members_and_packed_ones_load(tmp_path: Path) -> None:
    more = members() | {"../up": b"", "/etc/x": b"", "assets/a": bytes(4 << 20)}
    path = pack(tmp_path / "x.keras", more, zipfile.ZIP_DEFLATED)
    assert repr(load_keras(path)) == repr(load_keras(MODEL))
    assert not io.BytesIO(path.read_bytes()).closed
    assert [p.name for p in tmp_path.iterdir()] == ["x.keras"]
