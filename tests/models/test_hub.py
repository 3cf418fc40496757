"""Models through a folder as the Hub holds it."""

import copy
import json
import pickle
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from lmu import LMU, LMUFFT, Bidirectional, LegendreMemory, LMUCell, LMUStack
from lmu.models import SequenceClassifier
from lmu.models._config import TORCH_MODULES, build, describe
from tests import variants

# What a config cannot name: matrices, functions of the tests'.
UNKNOWN = ("shifted", "fourier", "discrete")
LAYERS: dict[str, Callable[[], Any]] = {
    name: partial(variants.build, name)
    for name, row in variants.VARIANTS.items()
    if row.kind not in {LegendreMemory, LMUCell}
    and not any(part in " ".join([name, *row.parts]) for part in UNKNOWN)
}
LAYERS |= {
    "LMU-options": lambda: LMU(
        3, 7, 6, 12.5, learn_theta=True, memory_bias=True, discretizer="bilinear"
    ),
    "LMU-dropout": lambda: LMU(
        3, 7, 6, (12.0, 9.0), memory_channels=2, encoder_activation=torch.tanh, dropout=0.1
    ),
    "LMU-double": lambda: LMU(3, 7, 6, 12.0, learn_a=True, learn_b=True, dtype=torch.float64),
    "LMU-lstm-bare": lambda: LMU(3, 7, 6, 12.0, hidden_cell=nn.LSTMCell(9, 7, bias=False)),
    "LMU-mlp": lambda: LMU(
        3, 7, 6, 12.0,
        hidden_cell=nn.Sequential(nn.LayerNorm(9), nn.Linear(9, 7), nn.GELU(), nn.Dropout(0.1)),
    ),
    "LMUFFT-open": lambda: LMUFFT(
        3, 7, 6, None, 12.0, encoder_activation=None, return_sequences=False
    ),
    "stack-dropout": lambda: LMUStack(
        [Bidirectional(LMU(3, 7, 6, 9.0), LMUFFT(3, 5, 4, 20, 9.0)), LMU(12, 4, 3, 20.0)],
        norm="rms", dropout=0.2,
    ),
}  # fmt: skip


def trained(name: str) -> SequenceClassifier:
    """A model whose parameters are not what its constructor draws."""
    torch.manual_seed(0)
    model = SequenceClassifier(LAYERS[name](), 5, dropout=0.3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))
    return model.eval()


def call(model: Any) -> torch.Tensor:
    x = torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(1))
    return model(x.to(next(model.parameters()).dtype))


@pytest.mark.parametrize("name", LAYERS)
def test_saved_and_loaded_model_is_the_same(name, tmp_path):
    model = trained(name)
    model.save_pretrained(tmp_path / "model")
    assert {"config.json", "model.safetensors"} <= {p.name for p in (tmp_path / "model").iterdir()}
    torch.manual_seed(7)
    loaded = SequenceClassifier.from_pretrained(str(tmp_path / "model")).eval()
    torch.testing.assert_close(call(loaded), call(model), rtol=0, atol=0)
    assert repr(loaded) == repr(model)
    assert loaded.dropout.p == 0.3
    again = json.loads((tmp_path / "model" / "config.json").read_text())
    assert again == loaded.hub_arguments()


@pytest.mark.parametrize("name", LAYERS)
def test_description_fits_into_json_and_builds_the_layer(name):
    layer = LAYERS[name]()
    data = json.loads(json.dumps(describe(layer)))
    twin = build(data)
    assert repr(twin) == repr(layer)
    assert describe(twin) == data
    twin.load_state_dict(layer.state_dict())


@pytest.mark.parametrize("kind", TORCH_MODULES, ids=lambda kind: kind.__name__)
def test_every_known_module_is_built_again(kind):
    arguments = {nn.RNNCell: (3, 4), nn.GRUCell: (3, 4), nn.LSTMCell: (3, 4), nn.Linear: (3, 4)}
    sized = {nn.LayerNorm: (4,), nn.RMSNorm: (4,), nn.BatchNorm1d: (4,)}
    module = kind(*(arguments | sized).get(kind, ()))
    twin = build(json.loads(json.dumps(describe(module))))
    assert type(twin) is kind
    assert repr(twin) == repr(module)


def test_what_has_names_or_a_forward_of_its_own_is_not_taken_for_a_plain_sequence():
    class Squared(nn.Sequential):
        def forward(self, input):
            return super().forward(input) ** 2

    named = nn.Sequential(OrderedDict(read=nn.Linear(9, 7)))
    for cell in (Squared(nn.Linear(9, 7)), named):
        with pytest.raises(ValueError, match="cannot be described"):
            describe(cell)


def test_a_model_in_another_dtype(tmp_path):
    model = SequenceClassifier(LAYERS["LMU"](), 5).double().eval()
    model.save_pretrained(tmp_path)
    loaded = SequenceClassifier.from_pretrained(str(tmp_path)).eval()
    assert {p.dtype for p in loaded.parameters()} == {torch.float64}
    torch.testing.assert_close(call(loaded), call(model), rtol=0, atol=0)


def test_copies_and_pickles():
    model = trained("LMU")
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(call(twin), call(model), rtol=0, atol=0)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*nowhere"):
        SequenceClassifier.from_pretrained(tmp_path / "nowhere")


def test_weights_that_are_missing_are_not_passed_over(tmp_path):
    from safetensors.torch import load_file, save_file

    trained("LMU").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["layer.e_m"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors lacks layer\.e_m"):
        SequenceClassifier.from_pretrained(str(tmp_path))


def test_a_model_of_unknown_parts_says_so_when_it_is_saved(tmp_path):
    class Mine(nn.Linear):
        pass

    model = SequenceClassifier(LMU(3, 7, 6, 9.0, hidden_cell=Mine(9, 7)), 5)
    with pytest.raises(ValueError, match=r"Mine.*cannot be described: only layers of lmu"):
        model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot be described"):
        describe(LMU(3, 7, 6, 9.0, encoder_activation=lambda u: u))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"class": "os.system", "command": "ls"}, "unknown class 'os.system'"),
        ({"function": "exec"}, "unknown function 'exec'"),
    ],
)
def test_a_config_cannot_name_what_it_likes(data, message):
    with pytest.raises(ValueError, match=message):
        build(data)


def test_without_the_extra_models_work_and_say_what_to_install():
    code = """
import sys
sys.modules["huggingface_hub"] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "huggingface_hub" else find(name, *a)
import torch, lmu
from lmu.models import SequenceClassifier
model = SequenceClassifier(lmu.LMU(1, 4, 3, 5), 2)
assert model(torch.zeros(2, 5, 1)).shape == (2, 2)
for call in (lambda: model.save_pretrained("x"), lambda: SequenceClassifier.from_pretrained("x")):
    try:
        call()
    except ImportError as error:
        assert 'pip install "huggingface' in str(error), error
    else:
        raise AssertionError
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
