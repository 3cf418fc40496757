"""KerasLMU's models whose memories by Euler's method are refused here unless they are imported."""

import copy
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmu import LMU, LMUFFT, LMUCell
from lmu.interop.keras import from_config, load_keras, load_weights
from lmu.interop.keras._plans import plan_of
from lmu.theory import least_theta

MODEL = Path(__file__).parent / "keras_lmu" / "model_c01_lmu_srnn_all_o4.keras"
F64 = torch.float64
SHORT = pytest.mark.filterwarnings("ignore:.*lets powers of Ad grow:UserWarning")
DENSE = {"class_name": "Dense", "config": {"units": 3, "activation": "relu"}}
SIMPLE = {"class_name": "SimpleRNNCell", "config": {"units": 3}}


def config(kind: str = "LMU", **arguments: Any) -> dict[str, Any]:
    about = {"memory_d": 1, "order": 12, "theta": 40, "discretizer": "euler", "hidden_cell": SIMPLE}
    about |= {"return_sequences": True} if kind != "LMUCell" else {}
    return {"class_name": kind, "config": about | arguments}


def states(u: np.ndarray, order: int, theta: float) -> np.ndarray:
    """Euler's memory (batch, time, order) of u (batch, time), from the papers' equations."""
    i = np.arange(order)
    sign = np.where(i[:, None] < i, -1.0, (-1.0) ** (i[:, None] - i + 1))
    A, B = (2 * i + 1)[:, None] / theta * sign, (2 * i + 1) / theta * (-1.0) ** i
    m, found = np.zeros((len(u), order)), []
    for u_t in u.T:
        m = m + m @ A.T + u_t[:, None] * B
        found.append(m)
    return np.stack(found, axis=1)


@pytest.mark.parametrize("cell", [None, DENSE], ids=["memory", "Dense"])
@pytest.mark.parametrize(
    ("order", "theta", "length", "explodes"),
    [(12, 40.0, 60, False), (12, 10.0, 30, True), (256, 2000.0, 20, True), (256, 6800.0, 99, True)],
)
def test_the_numbers_are_those_of_the_equations(order, theta, length, explodes, cell):
    about = {"order": order, "theta": theta, "kernel_initializer": None, "hidden_cell": cell}
    message = rf"order {order} with theta={theta:g} lets powers .* grow.*'euler-unchecked'"
    with pytest.warns(UserWarning, match=message):
        layer = from_config(config(**about), input_size=1, dtype=F64)
    assert layer.discretizer == "euler-unchecked"
    x = torch.randn(2, length, 1, dtype=F64, generator=torch.Generator().manual_seed(0))
    right = torch.as_tensor(states(x[..., 0].numpy(), order, theta))
    with torch.no_grad():
        if isinstance(layer, LMUFFT):
            assert not explodes
            right = layer.W_h(right).relu()
        elif layer.hidden_cell is not None:
            assert isinstance(layer.hidden_cell, torch.nn.Module)
            right = layer.hidden_cell(right)
        error = (layer(x)[0] - right).abs().amax(dim=2) / right.abs().amax(dim=2).clamp_min(1e-9)
    assert error.max() < 1e-10


def same(layer: Any, twin: Any) -> None:
    x = torch.randn(2, 12, 2, generator=torch.Generator().manual_seed(0))
    x = x.to(next(layer.parameters()).dtype)
    x = x[:, 0] if type(layer) is LMUCell else x
    assert repr(twin) == repr(layer)
    assert "discretizer='euler-unchecked'" in repr(layer)
    torch.testing.assert_close(twin(x), layer(x), rtol=0, atol=0)


@SHORT
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize(
    ("kind", "cell"), [("LMU", SIMPLE), ("LMUFeedforward", DENSE), ("LMUCell", SIMPLE)]
)
def test_such_layers_are_copied_saved_and_moved_like_all(kind, cell, learned, tmp_path):
    layer = from_config(config(kind, hidden_cell=cell, trainable_theta=learned), input_size=2)
    assert isinstance(layer, {"LMU": LMU, "LMUFeedforward": LMUFFT, "LMUCell": LMUCell}[kind])
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        same(layer, twin)
    torch.save(layer, tmp_path / "layer.pt")
    same(layer, torch.load(tmp_path / "layer.pt", weights_only=False))
    again = from_config(config(kind, hidden_cell=cell, trainable_theta=learned), input_size=2)
    again.load_state_dict(layer.state_dict())
    same(layer, again)
    same(copy.deepcopy(layer).double(), copy.deepcopy(layer).to(F64))
    torch.manual_seed(0)
    layer.reset_parameters()
    again = copy.deepcopy(layer)
    torch.manual_seed(0)
    again.reset_parameters()
    same(layer, again)
    assert again.theta == pytest.approx(40)


@SHORT
def test_a_window_that_was_trained_too_short():
    bound = least_theta(12, "euler")
    about = config(theta=bound + 10, trainable_theta=True)
    plain = from_config(about, input_size=2)
    assert plain.discretizer == "euler"
    arrays = {name: torch.ones(shape) for name, shape in plan_of(plain).shapes.items()}
    with pytest.warns(UserWarning, match="order 12 with theta=20 lets powers of Ad grow"):
        layer = from_config(about, arrays | {"theta_inv": torch.tensor(1 / 20)})
    assert layer.discretizer == "euler-unchecked"
    assert layer.theta == pytest.approx(20)
    layer.reset_parameters()
    assert layer.theta == pytest.approx(bound + 10)
    long = from_config(about, arrays | {"theta_inv": torch.tensor(1 / (bound + 1))})
    assert long.discretizer == "euler"
    assert long.theta == pytest.approx(bound + 1)


def test_a_file_whose_memory_is_eulers(tmp_path):
    with zipfile.ZipFile(MODEL) as archive, zipfile.ZipFile(tmp_path / "it.keras", "w") as written:
        for name in archive.namelist():
            content = archive.read(name)
            if name == "config.json":
                content = content.replace(b'"discretizer": "zoh"', b'"discretizer": "euler"')
                content = content.replace(b'"theta": 20', b'"theta": 5.3')
            written.writestr(name, content)
    with pytest.warns(UserWarning, match="'lmu_33': Euler's .* order 4 with theta=5.3 lets"):
        model = load_keras(tmp_path / "it.keras")
    layer: Any = model.lmu_33
    assert (layer.discretizer, layer.theta) == ("euler-unchecked", 5.3)
    assert model(torch.randn(2, 30, 2)).isfinite().all()


def test_files_fill_only_layers_that_take_their_window(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "short.weights.h5", "w") as file:
        for number, array in enumerate((np.ones((2, 1)), np.array(0.1))):
            file[f"layers/lmu/cell/vars/{number}"] = array
        for number, array in enumerate((np.ones((12, 3)), np.ones((3, 3)), np.ones(3))):
            file[f"layers/lmu/cell/hidden_cell/vars/{number}"] = array
    off: dict[str, Any] = dict.fromkeys(
        ("hidden_to_memory", "memory_to_memory", "input_to_hidden"), False
    )
    make: dict[str, Any] = {"hidden_bias": True, "learn_theta": True} | off
    layer = LMU(2, 3, 12, 100.0, discretizer="euler", **make)
    with pytest.raises(
        ValueError, match=r"theta_inv=0\.1 is no stable .* or discretizer='euler-un"
    ):
        load_weights([layer], tmp_path / "short.weights.h5")
    layer = LMU(2, 3, 12, 100.0, discretizer="euler-unchecked", **make)
    load_weights([layer], tmp_path / "short.weights.h5")
    assert layer.theta == pytest.approx(10)
