"""Checkpoints of the same model that other ports have written."""

from typing import Any

import pytest
import torch

from lmu import LMU, LMUFFT, LMUCell
from lmu.theory import discretize, impulse_response, legt


@pytest.fixture
def dynamics():
    Ad, Bd = discretize(*legt(6, 12.0))
    return {"A": Ad.float(), "B": Bd[:, None].float()}


@pytest.fixture
def weights():
    return LMUCell(3, 7, 6, 12.0).state_dict()


@pytest.mark.parametrize("prefix", ["", "cell."])
def test_lmu(weights, dynamics, prefix):
    foreign = {prefix + key: value for key, value in (weights | dynamics).items()}
    layer = LMU(3, 7, 6, 12.0)
    layer.load_state_dict(foreign)
    torch.testing.assert_close(dict(layer.state_dict()), dict(weights))


def test_lmu_inside_a_model(weights, dynamics):
    model = torch.nn.ModuleDict({"lmu": LMU(3, 7, 6, 12.0), "out": torch.nn.Linear(7, 2)})
    foreign = {f"lmu.cell.{key}": value for key, value in (weights | dynamics).items()}
    foreign |= {f"out.{key}": value for key, value in model["out"].state_dict().items()}
    model.load_state_dict(foreign)
    torch.testing.assert_close(dict(model["lmu"].state_dict()), dict(weights))


def test_lmu_fft_with_derived_buffers(dynamics):
    source = LMUFFT(3, 7, 6, 9, 12.0)
    H = impulse_response(*discretize(*legt(6, 12.0)), 9).float()
    derived = dynamics | {"H": H, "fft_H": torch.fft.rfft(H, 18)}
    layer = LMUFFT(3, 7, 6, 9, 12.0)
    layer.load_state_dict(source.state_dict() | derived)
    x = torch.randn(2, 9, 3)
    torch.testing.assert_close(layer(x), source(x), rtol=0, atol=0)


@pytest.mark.parametrize("key", ["A", "B"])
def test_trained_dynamics_of_another_port_load(weights, dynamics, key):
    trained = dynamics[key] + 0.25
    layer = LMU(3, 7, 6, 12.0, learn_a=key == "A", learn_b=key == "B")
    layer.load_state_dict(weights | dynamics | {key: trained})
    loaded = getattr(layer.memory, f"{key}d")
    torch.testing.assert_close(loaded.data, trained.view_as(loaded))


@pytest.mark.parametrize("key", ["A", "B"])
def test_dynamics_that_the_layer_does_not_compute_with_are_reported(weights, dynamics, key):
    layer = LMU(3, 7, 6, 12.0)
    foreign = weights | dynamics | {key: dynamics[key] * 1.5}
    with pytest.warns(UserWarning, match=f"{key} in the state_dict is not the matrix of theta=12"):
        layer.load_state_dict(foreign)
    torch.testing.assert_close(dict(layer.state_dict()), dict(weights))


@pytest.mark.parametrize("theirs", [3000.0, 7800.0])
def test_another_window_is_noticed_however_long(theirs):
    layer = LMU(1, 3, 4, 7840.0)
    Ad, Bd = discretize(*legt(4, theirs))
    with pytest.warns(UserWarning, match="A in the state_dict is not the matrix of theta=7840"):
        layer.load_state_dict(layer.state_dict() | {"A": Ad.float()})
    with pytest.warns(UserWarning, match="B in the state_dict is not the matrix of theta=7840"):
        layer.load_state_dict(layer.state_dict() | {"B": Bd.float()})


def test_loading_inside_a_device_context_and_from_meta(weights, dynamics):
    layer = LMU(3, 7, 6, 12.0)
    with torch.device("meta"):
        layer.load_state_dict(weights | dynamics)
    layer.load_state_dict(weights | {key: value.to("meta") for key, value in dynamics.items()})
    torch.testing.assert_close(dict(layer.state_dict()), dict(weights))


def test_dynamics_of_another_order_are_named(weights):
    with pytest.raises(RuntimeError, match=r"A has the shape \(5, 5\), ours is \(6, 6\)"):
        LMU(3, 7, 6, 12.0).load_state_dict(weights | {"A": torch.zeros(5, 5)})


@pytest.mark.parametrize("kind", [LMU, LMUFFT, LMUCell])
def test_assigned_checkpoint_onto_a_meta_layer(kind):
    sizes: Any = (3, 7, 6, 9, 12.0) if kind is LMUFFT else (3, 7, 6, 12.0)
    source = kind(*sizes, dtype=torch.float64)
    layer = kind(*sizes, device="meta")
    layer.load_state_dict(source.state_dict(), assign=True)
    shape = (2, 3) if kind is LMUCell else (2, 9, 3)
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(layer(x), source(x), rtol=0, atol=0)


def test_missing_and_unknown_keys_are_errors(weights):
    layer = LMU(3, 7, 6, 12.0)
    with pytest.raises(RuntimeError, match=r"Missing key.*W_h"):
        layer.load_state_dict({key: value for key, value in weights.items() if key != "W_h"})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*W_z"):
        layer.load_state_dict(weights | {"W_z": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"Missing key.*Ad"):
        LMU(3, 7, 6, 12.0, learn_a=True).load_state_dict(weights)
