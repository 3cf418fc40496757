from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmu.ops import memory
from lmu.tasks.psmnist.config import PRESETS
from lmu.tasks.psmnist.data import (
    PsMNIST,
    check_permutation,
    default_permutation,
    load_permutation,
    split_indices,
)
from lmu.tasks.psmnist.models import build_model


def preset(model: str):
    sizes = PRESETS[model]
    return build_model(
        model,
        hidden_size=sizes.hidden_size,
        memory_size=sizes.memory_size,
        theta=784.0,
        dropout=sizes.dropout,
    )


@pytest.mark.parametrize(("model", "count"), [("lmufft", 166_092), ("lmu", 102_027)])
def test_presets_have_the_published_number_of_parameters(model: str, count: int) -> None:
    parameters = preset(model).parameters()
    assert sum(p.numel() for p in parameters if p.requires_grad) == count


def test_lmu_starts_as_a_bare_memory_that_reads_the_pixels() -> None:
    layer: Any = preset("lmu").layer
    torch.manual_seed(0)
    _, (h_n, m_n) = layer(torch.rand(2, 50, 1))
    torch.manual_seed(0)
    m = memory(torch.rand(2, 50, 1), layer.memory.Ad, layer.memory.Bd)[1].squeeze(1)
    torch.testing.assert_close(m_n, m)
    torch.testing.assert_close(h_n, torch.tanh(m @ layer.W_m.T))


@pytest.mark.parametrize(
    ("model", "arguments", "says"),
    [
        ("cnn", {}, "lmufft, lmu, deep, lstm, gru, got 'cnn'"),
        ("lstm", {}, "lstm has no memory_size"),
        ("gru", {"memory_size": None, "input_dropout": 0.1}, "no input dropout"),
        ("lmu", {"memory_size": None}, "lmu needs a memory_size"),
        ("lmufft", {"layers": 3}, "for deep, not for lmufft"),
        ("lmu", {"hidden_noise": 0.3}, "for deep, not for lmu"),
    ],
)
def test_wrong_models(model: str, arguments: dict[str, Any], says: str) -> None:
    given: dict[str, Any] = {"hidden_size": 1, "memory_size": 1, "theta": 1.0, "dropout": 0.0}
    with pytest.raises(ValueError, match=says):
        build_model(model, **given | arguments)


def test_the_deep_model_is_a_fixed_transform_and_layers_that_read_it() -> None:
    arguments: dict[str, Any] = {"hidden_size": 6, "memory_size": 9, "theta": 40.0, "dropout": 0.5}
    model = build_model("deep", layers=3, hidden_noise=0.3, **arguments)
    kinds = [type(part).__name__ for part in model.layer.hidden_cell]  # pyright: ignore
    layer = ["Linear", "BatchNorm1d", "GaussianNoise", "ReLU", "Dropout"]
    assert kinds == (3 * layer)[:-1]
    torch.manual_seed(0)
    x = torch.rand(2, 40, 1)
    model.eval()
    m = memory(x, model.layer.memory.Ad, model.layer.memory.Bd)[1].squeeze(1)  # pyright: ignore
    torch.testing.assert_close(model(x), model.classifier(model.layer.hidden_cell(m)))  # pyright: ignore


def test_default_permutation() -> None:
    permutation = default_permutation()
    assert permutation[:6].tolist() == [60, 361, 167, 578, 107, 772]
    state = torch.get_rng_state()
    torch.manual_seed(0)
    assert torch.equal(permutation, torch.randperm(784))
    torch.set_rng_state(state)


@pytest.mark.parametrize("suffix", ["txt", "npy", "pt"])
def test_permutation_from_a_file(tmp_path: Path, suffix: str) -> None:
    expected = torch.arange(783, -1, -1)
    path = tmp_path / f"order.{suffix}"
    if suffix == "txt":
        path.write_text(", ".join(map(str, expected.tolist())))
    elif suffix == "npy":
        np.save(path, expected.numpy())
    else:
        torch.save(expected, path)
    assert torch.equal(load_permutation(path), expected)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("1 2 3", r"784 integers, got \(3,\)"),
        (" ".join(["0"] * 784), "each of 0 to 783 exactly once"),
        ("a b", "cannot be read"),
        ("0.5 1", "cannot be read"),
    ],
)
def test_wrong_permutations(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "order.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match=says):
        load_permutation(path)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (torch.eye(784).long().to_sparse(), "must be a dense tensor, got one that is .*sparse_coo"),
        (torch.zeros(784, dtype=torch.bool), "must hold integers, got torch.bool"),
        (torch.arange(784.0), "must hold integers, got torch.float32"),
        (torch.zeros(1, dtype=torch.int64).expand(784), "exactly once"),
        (torch.arange(1), r"784 integers, got \(1,\)"),
        ({"order": torch.arange(784)}, "cannot be read"),
        (["a"], "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_what_a_file_of_pytorch_may_hold(tmp_path: Path, value: Any, says: str) -> None:
    path = tmp_path / "order.pt"
    torch.save(value, path)
    with pytest.raises(ValueError, match=says):
        load_permutation(path)


def test_tensors_that_are_no_permutation() -> None:
    for value, says in (
        (torch.arange(784).to_sparse(), "dense tensor"),
        (torch.arange(784, device="meta"), "meta"),
        (list(range(784)), "must be a tensor, got list"),
    ):
        with pytest.raises(ValueError, match=says):
            check_permutation(value)
        with pytest.raises(ValueError, match=says):
            PsMNIST(value)  # pyright: ignore[reportArgumentType]


def test_a_header_that_asks_for_more_than_the_file_has(tmp_path: Path) -> None:
    path = tmp_path / "order.npy"
    np.save(path, np.arange(784))
    content = path.read_bytes()
    # The same length; a header that does not end is another matter.
    for wrong in (b"(7840000000000,)}", b"(7840000000000,,("):
        path.write_bytes(content.replace(b"(784,), }        ", wrong))
        assert path.read_bytes() != content
        with pytest.raises(ValueError, match="cannot be read"):
            load_permutation(path)
    np.save(path, np.arange(784, dtype=np.uint16)[::-1])
    assert load_permutation(path)[0] == 783


def test_wrong_permutation_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        load_permutation(tmp_path / "missing.txt")
    np.save(tmp_path / "floats.npy", np.zeros(784))
    with pytest.raises(ValueError, match=r"integers, got torch\.float64"):
        load_permutation(tmp_path / "floats.npy")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    with pytest.raises(ValueError, match="cannot be read"):
        load_permutation(tmp_path / "junk.pt")


def test_split() -> None:
    train, validation = split_indices()
    assert (len(train), len(validation)) == (55_000, 5_000)
    assert torch.equal(torch.cat([train, validation]).sort().values, torch.arange(60_000))
    assert torch.equal(split_indices()[1], validation)
    everything, nothing = split_indices(full_train=True)
    assert (len(everything), len(nothing)) == (60_000, 0)


def test_sequences_are_permuted_pixels_and_back() -> None:
    task = PsMNIST(default_permutation())
    images = torch.randint(0, 256, (3, 28, 28), dtype=torch.uint8)
    x = task.sequences(images)
    assert x.shape == (3, 784, 1)
    assert x[1, 0, 0] == images[1].flatten()[60] / 255
    torch.testing.assert_close(task.images(x), images / 255)


def test_limit_and_parts() -> None:
    task = PsMNIST(limit=70)
    (x, y), (x_val, y_val) = task.fit_parts()
    assert (x.shape, y.shape) == ((70, 784, 1), (70,))
    assert (x_val.shape, y_val.shape) == ((70, 784, 1), (70,))
    x_test, y_test = task.test_part()
    assert x_test.shape == (70, 784, 1)
    assert y_test[:4].tolist() == [7, 2, 1, 0]
    assert x.min() >= 0
    assert x.max() <= 1
