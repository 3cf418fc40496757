"""The importer of KerasLMU, against numbers of KerasLMU itself."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import lmu._extras
from lmu import LMU, LMUFFT, LMUCell
from lmu.interop.keras import from_config, load_keras, load_weights
from lmu.interop.keras._plans import assign, plan_of

FILES = Path(__file__).parent / "keras_lmu"
CASES = sorted(path.stem for path in FILES.glob("c*.npz"))
MODEL = FILES / "model_c01_lmu_srnn_all_o4.keras"
WEIGHTS = FILES / "model_c02_lmu_srnn_m2m_bias_o16.weights.h5"
TRUNCATED = "c18_ff_raw_trunc_dense_o64"  # its impulse response ends early, as was asked of it
F64 = torch.float64

ignore_truncation = pytest.mark.filterwarnings("ignore:layer .* cuts off:UserWarning")


class Case(NamedTuple):
    config: dict[str, Any]
    weights: dict[str, Tensor]
    x: Tensor
    state: tuple[Tensor, Tensor] | None
    truth: dict[str, Tensor]  # in float64
    last: bool


def read(name: str, dtype: torch.dtype = F64) -> Case:
    with np.load(FILES / f"{name}.npz") as file:
        arrays = {k: torch.as_tensor(v) for k, v in file.items() if v.dtype.kind == "f"}
        about = json.loads(str(file["config"]))
    arguments = dict(about["kwargs"])
    last = not arguments["return_sequences"]
    if (cell := about["hidden"]) is not None:
        arguments["hidden_cell"] = {"class_name": cell["type"], "config": cell["kwargs"]}
    config = {"class_name": about["cls"], "config": arguments}
    if about["cls"] == "RNN(LMUCell)":
        sequences = {"return_sequences": arguments.pop("return_sequences")}
        config = {"class_name": "LMUCell", "config": arguments}
        config = {"class_name": "RNN", "config": {"cell": config, **sequences}}
    weights = {k[2:]: v.to(dtype) for k, v in arrays.items() if k.startswith("w:")}
    state = (arrays["init:1"].to(dtype), arrays["init:0"].to(dtype)) if "init:0" in arrays else None
    return Case(config, weights, arrays["x"].to(dtype), state, arrays, last)


def relative(got: Tensor, truth: Tensor) -> float:
    return ((got - truth).abs().max() / truth.abs().max()).item()


def tolerance(name: str, dtype: torch.dtype) -> tuple[float, float]:
    """Of outputs and of gradients."""
    if name == TRUNCATED:
        return 2e-4, 1e-3
    return (1e-9, 1e-9) if dtype == F64 else (1e-5, 1e-4)


@ignore_truncation
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["f32", "f64"])
@pytest.mark.parametrize("name", CASES)
def test_outputs_states_and_gradients(name, dtype):
    case = read(name, dtype)
    layer = from_config(case.config, case.weights, dtype=dtype)
    leaves = {k: v.clone().requires_grad_() for k, v in case.weights.items()}
    x = case.x.clone().requires_grad_()
    # The conversion is differentiable, so that gradients of KerasLMU's own arrays come out.
    y, state = functional_call(layer, plan_of(layer).convert(leaves), (x, case.state))
    with torch.no_grad():
        filled = layer(case.x, case.state)[0]
    torch.testing.assert_close(filled, y.detach())
    outputs, gradients = tolerance(name, dtype)
    assert y.dtype == dtype
    assert (y - case.truth["y64"]).abs().max() < outputs
    grads = torch.autograd.grad(y.square().sum(), [x, *leaves.values()])
    for key, grad in zip(["x", *leaves], grads, strict=True):
        assert relative(grad, case.truth[f"g64:{key}"]) < gradients, key
    if "state64:0" in case.truth:
        for got, key in zip(state, ("state64:1", "state64:0"), strict=True):
            assert (got - case.truth[key]).abs().max() < outputs


def expected(name: str) -> tuple[Tensor, Tensor]:
    """Input and output of a saved model."""
    with np.load(FILES / "models_expected.npz") as file:
        return torch.as_tensor(file[f"{name}:x"]), torch.as_tensor(file[f"{name}:y"])


def test_gradient_of_theta_is_that_of_its_inverse_by_the_chain_rule():
    case = read("c07_lmu_srnn_all_trtheta_zoh_o4")
    layer = from_config(case.config, case.weights, dtype=F64)
    layer(case.x)[0].square().sum().backward()
    inverse = case.weights["theta_inv"]
    assert layer.theta == pytest.approx(1 / inverse.item())
    assert layer.memory.log_theta.grad is not None
    # log_theta = -log(theta_inv)
    truth = -case.truth["g64:theta_inv"] * inverse
    assert layer.memory.log_theta.grad.item() == pytest.approx(truth.item(), rel=1e-9)


def test_truncation_is_ignored_with_a_warning():
    case = read(TRUNCATED)
    with pytest.warns(UserWarning, match=r"truncate_ir=0\.0001.*exact"):
        layer = from_config(case.config, case.weights)
    assert isinstance(layer, LMUFFT)


def test_the_default_cell_takes_the_place_of_a_simple_rnn_cell_with_tanh():
    case = read("c26_cell_srnn_all_states_o16")
    layer = from_config(case.config, case.weights)
    assert isinstance(layer, LMU)
    assert layer.hidden_cell == "rnn"
    cell = from_config(case.config["config"]["cell"], case.weights)
    assert isinstance(cell, LMUCell)
    assert cell.state_dict().keys() == layer.state_dict().keys()


def test_an_lstm_has_one_bias_that_learns():
    case = read("c05_lmu_lstm_all_bias_o16")
    layer = from_config(case.config, case.weights)
    fixed = {name: p for name, p in layer.named_parameters() if not p.requires_grad}
    assert list(fixed) == ["hidden_cell.bias_hh"]
    layer.reset_parameters()
    assert not fixed["hidden_cell.bias_hh"].any()


def test_a_keras_file_becomes_a_chain():
    x, y = expected(MODEL.name)
    model = load_keras(MODEL)
    assert [name for name, _ in model.named_children()] == ["lmu_33", "head"]
    assert (model(x) - y).abs().max() < 1e-5
    assert load_keras(MODEL, dtype=F64)(x.double()).dtype == F64


@pytest.mark.filterwarnings("ignore:.*dropout is left out:UserWarning")
def test_a_stack_of_many_layers():
    with np.load(FILES / "keras_cells.npz") as file:
        x, y = (torch.as_tensor(file[f"stack:{name}"]) for name in "xy")
    model = load_keras(FILES / "stack.keras").eval()
    assert (model(x) - y).abs().max() < 1e-5
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ["lmu.W_u.bias", "rnn_2.e_x", "rnn_2.e_h"]
    values = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(parameter.requires_grad * 2)
    layers: dict[str, Any] = {name: m for name, m in model.named_children() if name != "dropout"}
    layers["rnn_2"].reset_parameters()  # draws what stands for no kernel anew, and the same
    load_weights(layers, FILES / "stack.keras")
    for value, parameter in zip(values, model.parameters(), strict=True):
        torch.testing.assert_close(parameter.detach(), value)


def of_c02(**arguments: Any) -> list[nn.Module]:
    """The modules of the model whose weights are saved without a config."""
    cell = {"class_name": "SimpleRNNCell", "config": {"units": 10}}
    about = {"memory_d": 3, "order": 16, "theta": 100.5, "use_bias": True, "hidden_cell": cell}
    config = about | {"memory_to_memory": True, "return_sequences": True} | arguments
    layer = from_config({"class_name": "LMU", "config": config}, input_size=3)
    return [layer, nn.Linear(10, 3)]


@pytest.mark.parametrize(
    "target",
    [
        list,
        lambda layers: nn.ModuleDict(
            {"a": layers[0], "b": nn.Sequential(layers[1], nn.Identity())}
        ),
        lambda layers: {"dense": layers[1], "lmu_35": layers[0]},  # a group's key, a layer's name
    ],
    ids=["sequence", "module", "mapping"],
)
def test_weights_without_a_config_fill_what_was_built(target):
    x, y = expected(WEIGHTS.name)
    layers = of_c02()
    load_weights(target(layers), WEIGHTS)
    assert (layers[1](layers[0](x)[0]) - y).abs().max() < 1e-5


def test_weights_that_do_not_fit_change_nothing():
    layers = [of_c02()[0], nn.Linear(9, 3)]
    before = [p.detach().clone() for layer in layers for p in layer.parameters()]
    with pytest.raises(ValueError, match=r"layer 'head' \(dense\): .* kernel \(9, 3\).* \(10, 3\)"):
        load_weights(layers, WEIGHTS)
    after = [p for layer in layers for p in layer.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (lambda: of_c02(use_bias=False), ValueError, "'lmu_35'.*expects kernel.*holds"),
        (lambda: of_c02(order=8), ValueError, r"recurrent_kernel \(24, 3\).*\(48, 3\)"),
        (lambda: of_c02()[:1], ValueError, r"of Dense layers .* 0 in the target .* 1 in the file"),
        (lambda: {"lmu_3": of_c02()[0]}, ValueError, r"'lmu_3' .* which has .*'lmu_35' \(lmu\)"),
        (lambda: nn.Conv1d(1, 1, 1), TypeError, "Conv1d"),
        (lambda: nn.GRUCell(1, 1), TypeError, "GRUCell is no layer, but a hidden cell"),
        (lambda: [LMUFFT(3, 10, 16, None, 100.5)], ValueError, "encoder_activation=None"),
    ],
)
def test_targets_that_cannot_be_filled(target, error, message):
    with pytest.raises(error, match=message):
        load_weights(target(), WEIGHTS)


def test_layers_whose_order_is_not_in_the_file(tmp_path):
    shutil.copy(WEIGHTS, path := tmp_path / "two.weights.h5")
    with h5py.File(path, "a") as file:
        file["layers/lmu_feedforward/vars/0"] = np.zeros((3, 3))
        file["layers/conv1d/vars/0"] = np.zeros((3, 3))
    lmu, linear = of_c02()
    with pytest.raises(ValueError, match=r"does not tell the order .*: pass a mapping"):
        load_weights([lmu, of_c02()[0], linear], path)
    with h5py.File(path, "a") as file:
        del file["layers/lmu_feedforward"]
    with pytest.raises(ValueError, match="weights of layer 'conv1d', whose class is not known"):
        load_weights([lmu, linear], path)


def test_states_of_random_numbers_are_no_weights(tmp_path):
    shutil.copy(WEIGHTS, path := tmp_path / "seeds.weights.h5")
    with h5py.File(path, "a") as file:
        for group in ("dropout", "lmu/hidden_cell"):
            file[f"layers/{group}/seed_generator/vars/0"] = np.zeros(2)
    load_weights(of_c02(), path)


def test_layers_of_one_class_follow_their_numbers(tmp_path):
    with h5py.File(path := tmp_path / "many.weights.h5", "w") as file:
        for i in range(12):
            file[f"layers/dense{f'_{i}' if i else ''}/vars/0"] = np.full((1, 1), float(i))
    linears = [nn.Linear(1, 1, bias=False) for _ in range(12)]
    load_weights(linears, path)
    assert [linear.weight.item() for linear in linears] == list(range(12))


@pytest.mark.parametrize("name", ["gru", "gru_reset_first", "lstm", "rnn_relu"])
def test_hidden_cells_compute_what_those_of_keras_do(name):
    with np.load(FILES / "keras_cells.npz") as file:
        arrays = {k: torch.as_tensor(v) for k, v in file.items()}
    weights = {k.split(":")[1]: v for k, v in arrays.items() if k.startswith(f"{name}:")}
    y, c = weights.pop("y"), weights.pop("c", None)
    kind, options = {
        "gru": ("GRUCell", {}),
        "gru_reset_first": ("GRUCell", {"reset_after": False}),
        "lstm": ("LSTMCell", {}),
        "rnn_relu": ("SimpleRNNCell", {"activation": "relu"}),
    }[name]
    layer = from_config(
        lmu_config(hidden_cell={"class_name": kind, "config": {"units": 4, **options}}),
        {"kernel": torch.ones(1, 2)} | {f"hidden.{k}": v for k, v in weights.items()},
    )
    state = arrays["h"] if c is None else (arrays["h"], arrays["c"])
    if name == "rnn_relu":  # the default cell
        m, x = arrays["z"], torch.ones(len(y), 2)
        assert isinstance(layer, LMU)
        own: Any = layer._cell()
        got = own.step(m, own.inputs(x * torch.tensor([0.0, 1.0])), state)[0]
    else:
        assert isinstance(layer.hidden_cell, nn.Module)
        module: Any = layer.hidden_cell
        got = module(arrays["z"], state)
    for ours, theirs in zip((got,) if c is None else got, (y, c), strict=False):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("fed_back", [False, True])
def test_no_kernel_is_an_identity(fed_back):
    size = 7 if fed_back else 3
    arguments = cell("GRUCell") | {"memory_d": size, "use_bias": True, "hidden_to_memory": fed_back}
    none = from_config(lmu_config(kernel_initializer=None, **arguments), input_size=3)
    identity = from_config(lmu_config(**arguments), input_size=3)
    arrays = {k: torch.randn(shape) for k, shape in plan_of(none).shapes.items() if k != "kernel"}
    x = torch.randn(2, 5, 3)
    outputs = []
    for layer, kernel in ((none, {}), (identity, {"kernel": torch.eye(size)})):
        plan = plan_of(layer)
        plan.check(arrays | kernel, "layer")
        assign(layer, plan, arrays | kernel)
        outputs.append(layer(x)[0])
    torch.testing.assert_close(outputs[0], outputs[1])


def lmu_config(**arguments: Any) -> dict[str, Any]:
    return {"class_name": "LMU", "config": {"memory_d": 2, "order": 3, "theta": 9.0} | arguments}


def cell(kind: str, **arguments: Any) -> dict[str, Any]:
    return {"hidden_cell": {"class_name": kind, "config": {"units": 4} | arguments}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"memory_size": 3}, "memory_size=3 cannot be imported"),
        ({"order": ...}, "order is missing"),
        ({"hidden_cell": "SimpleRNNCell"}, "'LMU', hidden_cell: expected .*class_name"),
        (cell("LMUCell"), "hidden cell of the class LMUCell"),
        (cell("Dense", activation="snake"), "'LMU/Dense': the activation 'snake'"),
        (cell("LSTMCell", activation="relu"), "activation of LSTMCell must be tanh"),
        (cell("GRUCell", recurrent_activation="tanh"), "recurrent_activation must be sigmoid"),
        (cell("Dense") | {"hidden_to_memory": True}, "kernel of 1 rows, 4 of them"),
    ],
)
def test_arguments_without_a_counterpart(arguments, message):
    config = lmu_config(**arguments)
    config["config"] = {k: v for k, v in config["config"].items() if v is not ...}
    with pytest.raises(ValueError, match=message):
        from_config(config, {"kernel": np.ones((1, 2))})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": np.ones((1, 3))}, r"kernel \(1, 2\), .* \(1, 3\)"),
        ({"kernel": np.ones(2)}, r"kernel must be a matrix"),
        ({"bias": np.ones(2)}, "not expected: bias"),
        ({"recurrent_kernel": None}, "missing: recurrent_kernel"),
        ({"theta_inv": -0.1}, "theta_inv=-0.1 is no stable window"),
    ],
)
def test_arrays_that_do_not_fit(change, message):
    arrays = {"kernel": np.ones((1, 2)), "theta_inv": 0.1, "recurrent_kernel": np.ones((6, 2))}
    arrays = {k: v for k, v in (arrays | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        from_config(lmu_config(memory_to_memory=True, trainable_theta=True), arrays)


def rewritten(source: Path, path: Path, changes: dict[str, Any]) -> Path:
    """A saved model with other members."""
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | changes).items():
            archive.writestr(name, content)
    return path


def edited(tmp_path: Path, edit) -> Path:
    """The saved model with another config."""
    with zipfile.ZipFile(MODEL) as archive:
        config = json.loads(archive.read("config.json"))
    edit(config, config["config"]["layers"])
    return rewritten(MODEL, tmp_path / "edited.keras", {"config.json": json.dumps(config)})


def test_a_frozen_layer_stays_frozen(tmp_path):
    model = load_keras(edited(tmp_path, lambda _, layers: layers[1]["config"].update(trainable=0)))
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        "head.weight",
        "head.bias",
    }


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda _, layers: layers[1].update(class_name="Conv1D"), "'lmu_33' is a Conv1D"),
        (  # whose weights would lie elsewhere
            lambda _, layers: layers[1].update(class_name="LMUFeedforward"),
            r"'lmu_33' .* expects kernel .* file holds \[\]",
        ),
        (lambda c, _: c.update(class_name="MyModel"), "the model is a MyModel"),
        (lambda _, layers: layers[2]["config"].update(activation="snake"), "'head': .*'snake'"),
        (lambda _, layers: layers[2]["config"].update(units=5), r"kernel \(6, 5\), .* \(6, 3\)"),
        (
            lambda _, layers: layers[2]["inbound_nodes"].append(layers[1]["inbound_nodes"][0]),
            "'head' has 2 inputs",
        ),
        (
            lambda _, layers: layers[2].update(inbound_nodes=layers[1]["inbound_nodes"]),
            "'inp' feeds both 'lmu_33' and 'head'",
        ),
        (
            lambda c, _: c["config"].update(output_layers=[["lmu_33", 0, 0], ["head", 0, 0]]),
            "not just its last layer 'head'",
        ),
        (lambda _, layers: layers.append(layers[0] | {"config": {"name": "b"}}), "has 2 inputs"),
    ],
)
def test_models_that_cannot_be_imported(edit, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_keras(edited(tmp_path, edit))


@pytest.mark.parametrize("function", [load_keras, lambda path: load_weights([], path)])
def test_files_of_another_kind(function, tmp_path):
    (path := tmp_path / "x.keras").write_text("nothing")
    with pytest.raises(ValueError, match=r"x\.keras is n.*\.keras file"):
        function(path)
    with pytest.raises(FileNotFoundError, match=r"none\.keras"):
        function(tmp_path / "none.keras")


def test_older_formats_are_named(tmp_path):
    with h5py.File(path := tmp_path / "old.h5", "w") as file:
        file.attrs["layer_names"] = ["lmu"]
    with pytest.raises(ValueError, match="Keras 2's format"):
        load_weights([], path)
    with zipfile.ZipFile(path := tmp_path / "empty.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    for function in (load_keras, lambda path: load_weights([], path)):
        with pytest.raises(ValueError, match=r"lacks model\.weights\.h5"):
            function(path)
    old = {"metadata.json": '{"keras_version": "2.15.0"}'}
    path = rewritten(MODEL, tmp_path / "two.keras", old)
    with pytest.raises(ValueError, match=r"Keras 2\.15\.0: save it again with Keras 3"):
        load_keras(path)


@pytest.mark.parametrize("function", [load_keras, lambda path: load_weights([], path)])
def test_a_missing_h5py_is_named_with_the_command_that_installs_it(function, monkeypatch):
    monkeypatch.setattr(lmu._extras, "find_spec", lambda name: None if name == "h5py" else True)
    with pytest.raises(ImportError, match=r'h5py not installed.*pip install "h5py>='):
        function(MODEL)
