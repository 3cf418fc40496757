"""Layers of other packages as contenders."""

from importlib import metadata, util

import pytest

from benchmarks import peers


def installed(monkeypatch, *packages: str) -> None:
    def version(package: str) -> str:
        if package not in packages:
            raise metadata.PackageNotFoundError(package)
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)


def test_what_is_not_installed_is_left_out_and_said_so(monkeypatch):
    installed(monkeypatch)
    assert set(peers.status().values()) == {"not installed"}
    assert peers.parallel(8, 4, 2) == peers.recurrent(8, 4, 2) == {}


def test_what_is_installed_takes_part(monkeypatch):
    installed(monkeypatch, "keras-lmu", "s5-pytorch")
    assert peers.status() == {
        "keras-lmu": "1.0", "s5-pytorch": "1.0", "mamba-ssm": "not installed",
        "mambapy": "not installed",
    }  # fmt: skip
    assert list(peers.parallel(8, 4, 2)) == [
        "keras_lmu.LMUFeedforward 8/4", "s5.S5(8, 4) after a linear layer",
    ]  # fmt: skip
    assert list(peers.recurrent(8, 4, 2)) == ["keras_lmu.LMU 8/4"]


def test_mamba_needs_a_gpu(monkeypatch):
    installed(monkeypatch, "mamba-ssm")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert peers.status()["mamba-ssm"] == "left out: it runs on CUDA only"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert list(peers.parallel(8, 4, 2)) == ["mamba_ssm.Mamba(8) after a linear layer, on CUDA"]


@pytest.mark.skipif(util.find_spec("keras_lmu") is None, reason="needs keras-lmu")
def test_keras_lmu_runs():
    for contenders in (peers.parallel(8, 4, 2), peers.recurrent(8, 4, 2)):
        (build,) = (build for name, build in contenders.items() if "keras" in name)
        output, gradients = build().work()  # type: ignore[misc]
        assert output.shape == (2, 784, 8)
        assert all(gradient is not None for gradient in gradients)


@pytest.mark.skipif(util.find_spec("s5") is None, reason="needs s5-pytorch")
def test_s5_runs():
    (build,) = (build for name, build in peers.parallel(8, 4, 2).items() if "s5" in name)
    build().work()
