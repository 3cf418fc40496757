"""Every argument that KerasLMU's layers serialize is honoured, refused, or has no effect."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lmu import LMU, LMUFFT, LMUCell
from lmu.interop.keras import from_config
from lmu.interop.keras._plans import plan_of

PAGE = Path(__file__).parents[2] / "docs" / "from-keras-lmu.md"
F64 = torch.float64


def policy(name: str) -> dict[str, Any]:
    """A dtype as Keras 3 serializes it."""
    config = {"name": name}
    return {"module": "keras", "class_name": "DTypePolicy", "config": config} | {
        "registered_name": None
    }


def drawn(name: str) -> dict[str, Any]:
    """An initializer as Keras 3 serializes it."""
    config = {"seed": None}
    return {"module": "keras.initializers", "class_name": name, "config": config} | {
        "registered_name": None
    }


L2 = {"module": "keras.regularizers", "class_name": "L2", "config": {"l2": 0.01}}
MAX = {"module": "keras.constraints", "class_name": "MaxNorm", "config": {"max_value": 2}}
LAYER = {"name": "it", "trainable": True, "dtype": policy("float32")}
WEIGHTS = {
    f"{kind}_{part}": value
    for kind in ("kernel", "recurrent", "bias")
    for part, value in (
        (
            "initializer",
            drawn({"kernel": "GlorotUniform", "bias": "Zeros"}.get(kind, "Orthogonal")),
        ),
        ("regularizer", None),
    )
}
CONSTRAINTS = {f"{kind}_constraint": None for kind in ("kernel", "recurrent", "bias")}
FORWARD = {name: WEIGHTS[name] for name in WEIGHTS if not name.startswith("recurrent")}
CELL = LAYER | WEIGHTS | CONSTRAINTS
CELL |= {"units": 4, "activation": "tanh", "use_bias": True}
CELL |= {"dropout": 0.0, "recurrent_dropout": 0.0, "seed": None}
GATED = CELL | {"recurrent_activation": "sigmoid", "implementation": 2}

# Arguments with the default values of the classes, as they are serialized.
HIDDEN: dict[str, dict[str, Any]] = {
    "SimpleRNNCell": CELL,
    "LSTMCell": GATED | {"unit_forget_bias": True},
    "GRUCell": GATED | {"reset_after": True},
    "Dense": LAYER
    | FORWARD
    | {"units": 4, "activation": "linear", "use_bias": True, "activity_regularizer": None}
    | {"kernel_constraint": None, "bias_constraint": None, "quantization_config": None},
}


def hidden(kind: str, **arguments: Any) -> dict[str, Any]:
    config = HIDDEN[kind] | {"name": "cell"} | arguments
    return {"module": "keras.layers", "class_name": kind, "config": config} | {
        "registered_name": None,
        "build_config": {"input_shape": [None, 10]},
    }


MEMORY = LAYER | {"memory_d": 2, "order": 4, "theta": 20.0, "hidden_cell": hidden("SimpleRNNCell")}
MEMORY |= {"discretizer": "zoh", "input_to_hidden": False, "use_bias": False, "dropout": 0}
FED_BACK = {"trainable_theta": False, "hidden_to_memory": False, "memory_to_memory": False}
FED_BACK |= {"recurrent_dropout": 0}
RECURRENT: dict[str, Any] = {"return_sequences": False, "return_state": False, "unroll": False}
RECURRENT |= {"go_backwards": False, "stateful": False, "zero_output_for_mask": False}
RECURRENT |= {"time_major": False}

LAYERS: dict[str, dict[str, Any]] = {
    "LMUCell": MEMORY | WEIGHTS | FED_BACK | {"input_d": None},
    "LMU": MEMORY | WEIGHTS | FED_BACK | {"return_sequences": False, "input_d": None},
    "LMUFeedforward": MEMORY
    | FORWARD
    | {"return_sequences": False, "conv_mode": "fft", "truncate_ir": 1e-4},
    "RNN": LAYER | RECURRENT,  # and cell
}


def layer_config(kind: str, /, **arguments: Any) -> dict[str, Any]:
    """A config with all keys; those of an RNN that are its cell's go there."""
    own = {k: v for k, v in arguments.items() if kind != "RNN" or k in RECURRENT}
    config = LAYERS[kind] | own
    if kind == "RNN":
        of_cell = {k: v for k, v in arguments.items() if k not in own}
        config = config | {"cell": layer_config("LMUCell", **({"name": "inner"} | of_cell))}
    shape = [None, 2] if kind == "LMUCell" else [None, 9, 2]
    return {"module": "keras_lmu.layers", "class_name": kind, "config": config} | {
        "registered_name": f"keras-lmu>{kind}",
        "build_config": {"input_shape": shape},
    }


kinds = pytest.mark.parametrize("kind", LAYERS)
INPUT = torch.randn(3, 9, 2, generator=torch.Generator().manual_seed(0), dtype=F64)


def run(layer: Any, seed: int = 0) -> Tensor:
    """What a layer computes with weights that depend on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            values = torch.randn(parameter.shape, generator=generator, dtype=F64)
            parameter.copy_(values * 0.3)
        x = INPUT.to(next(layer.parameters()).dtype)
        return layer(x[:, 0])[0] if type(layer) is LMUCell else layer(x)[0]


def quietly(config: dict[str, Any], **kwargs: Any) -> Any:
    """Build a layer and allow no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return from_config(config, **kwargs)


@kinds
def test_the_defaults(kind):
    layer = quietly(layer_config(kind))
    options: dict[str, Any] = {"memory_channels": 2, "hidden_bias": True}
    options |= dict.fromkeys(("hidden_to_memory", "memory_to_memory", "input_to_hidden"), False)
    if kind == "LMUCell":
        twin: Any = LMUCell(2, 4, 4, 20.0, **options)
    else:
        twin = LMU(2, 4, 4, 20.0, return_sequences=False, **options)
    assert repr(layer) == repr(twin)
    assert type(layer) is type(twin)
    torch.testing.assert_close(run(layer), run(twin), rtol=0, atol=0)


def dtype_is(dtype: torch.dtype) -> Callable[[Any], bool]:
    return lambda layer: {p.dtype for p in layer.parameters()} == {dtype}


def frozen(layer: nn.Module) -> set[str]:
    return {name for name, p in layer.named_parameters() if not p.requires_grad}


OF_CELL = {"W_h", "W_m", "b_h"}
HONOURED: list[tuple[str, Any, Callable[[Any], bool]]] = [
    ("trainable", False, lambda layer: frozen(layer) == set(dict(layer.named_parameters()))),
    ("dtype", "float64", dtype_is(F64)),
    ("dtype", policy("bfloat16"), dtype_is(torch.bfloat16)),
    ("memory_d", 3, lambda layer: layer.memory_channels == 3),
    ("order", 6, lambda layer: layer.memory_size == 6),
    ("theta", 30, lambda layer: layer.theta == 30),
    ("hidden_cell", None, lambda layer: layer.hidden_cell is None),
    (
        "hidden_cell",
        hidden("Dense", activation="relu"),  # a single step has no LMUFFT
        lambda layer: type(layer) in {LMUFFT, LMUCell},
    ),
    (
        "hidden_cell",
        hidden("Dense"),
        lambda layer: (
            layer.hidden_activation == "identity"
            if isinstance(layer, LMUFFT)
            else isinstance(layer.hidden_cell, nn.Linear)
        ),
    ),
    ("hidden_cell", hidden("LSTMCell"), lambda m: isinstance(m.hidden_cell, nn.LSTMCell)),
    ("hidden_cell", hidden("GRUCell"), lambda m: isinstance(m.hidden_cell, nn.GRUCell)),
    (
        "hidden_cell",
        hidden("GRUCell", reset_after=False),
        lambda m: type(m.hidden_cell).__name__ == "ResetFirstGRUCell",
    ),
    ("hidden_cell", hidden("SimpleRNNCell", use_bias=False), lambda layer: layer.b_h is None),
    ("hidden_cell", hidden("SimpleRNNCell", units=7), lambda layer: layer.hidden_size == 7),
    (
        "hidden_cell",
        hidden("SimpleRNNCell", activation="relu"),
        lambda layer: (layer.hidden_cell, layer.hidden_activation) == ("rnn", "relu"),
    ),
    ("hidden_cell", hidden("SimpleRNNCell", trainable=False), lambda m: frozen(m) == OF_CELL),
    ("trainable_theta", True, lambda layer: layer.memory.log_theta.requires_grad),
    ("hidden_to_memory", True, lambda layer: layer.e_h.shape == (2, 4)),
    ("memory_to_memory", True, lambda layer: layer.e_m.shape == (2, 8)),
    ("input_to_hidden", True, lambda layer: layer.W_x.shape == (4, 2)),
    ("discretizer", "euler", lambda layer: layer.discretizer == "euler"),
    ("kernel_initializer", None, lambda layer: layer.e_x is None),
    ("use_bias", True, lambda layer: layer.b_u.shape == (2,)),
    ("dropout", 0.3, lambda layer: layer.dropout == 0.3),
    ("return_sequences", True, lambda layer: layer.return_sequences),
    ("input_d", 2, lambda layer: layer.input_size == 2),
]
WITHOUT_EFFECT = [
    ("name", "other"),
    ("kernel_initializer", drawn("HeNormal")),
    ("recurrent_initializer", drawn("Zeros")),
    ("bias_initializer", "ones"),
    ("unroll", True),
    ("zero_output_for_mask", True),
    ("recurrent_dropout", 0.5),  # nothing is fed back
    ("truncate_ir", 1e-2),  # the convolution is not "raw"
    ("truncate_ir", None),
    ("hidden_cell", hidden("SimpleRNNCell", seed=3, kernel_initializer=drawn("Zeros"))),
]
WARNED = [
    ("kernel_regularizer", L2, "'it.*kernel_regularizer act in training only"),
    ("recurrent_regularizer", L2, "recurrent_regularizer act in training only"),
    ("bias_regularizer", "l2", "bias_regularizer act in training only"),
    ("conv_mode", "raw", r"cuts off its impulse response \(truncate_ir=0\.0001\)"),
    ("dtype", policy("mixed_float16"), "computes in float16"),
    ("dtype", "mixed_bfloat16", "computes in bfloat16"),
    ("hidden_cell", hidden("LSTMCell", dropout=0.1), "'it/cell': its dropout is left out"),
    ("hidden_cell", hidden("LSTMCell", recurrent_dropout=0.1), "its dropout is left out"),
    ("hidden_cell", hidden("SimpleRNNCell", bias_constraint=MAX), "it/cell.*bias_constraint act"),
    ("hidden_cell", hidden("Dense", activity_regularizer=L2), "activity_regularizer act"),
    ("hidden_cell", hidden("Dense", dtype="float64"), "parts have the dtypes float32, float64"),
]
REFUSED = [
    ("dtype", policy("int8_from_float32"), "the dtype 'int8_from_float32' cannot be imported"),
    ("theta", -1.0, "theta must be a positive"),
    ("order", 0, "at least 1"),
    ("hidden_cell", hidden("Dense") | {"class_name": "StackedRNNCells"}, "class StackedRNNCells"),
    ("hidden_cell", hidden("LSTMCell", activation="relu"), "activation of LSTMCell must be tanh"),
    ("hidden_cell", hidden("Dense", quantization_config={"a": 1}), "'it/cell': quantization_conf"),
    ("hidden_cell", hidden("Dense", lora_rank=4), "lora_rank=4 cannot be imported"),
    ("discretizer", "foh", "discretizer must be one of"),
    ("input_d", 3, r"got input_d=3, build_config=2"),
    ("conv_mode", "other", "conv_mode must be one of fft, raw, got 'other'"),
    ("return_state", True, "return_state=True cannot be imported: set it to False"),
    ("go_backwards", True, r"go_backwards=True cannot be imported: .* x\.flip\(1\)"),
    ("stateful", True, "stateful=True cannot be imported: .* feed the state"),
    ("time_major", True, "time_major=True cannot be imported"),
    ("dropuot", 0.1, "dropuot=0.1 cannot be imported"),
]


def classes_of(key: str) -> list[str]:
    """The classes that serialize an argument."""
    everywhere = (
        set(LAYERS) if not any(key in arguments for arguments in LAYERS.values()) else set()
    )
    found = {kind for kind, arguments in LAYERS.items() if key in arguments} | everywhere
    return sorted(found | ({"RNN"} if "LMUCell" in found else set()))


def cases(rows: list[Any]) -> list[Any]:
    return [
        pytest.param(kind, *row, id=f"{kind}-{row[0]}-{i}")
        for i, row in enumerate(rows)
        for kind in classes_of(row[0])
    ]


def of_cell_and_layer(kind: str, key: str, value: Any) -> dict[str, Any]:
    """A config with one argument; an RNN and its cell have those of a layer alike."""
    config = layer_config(kind, **{key: value})
    if kind == "RNN" and key in LAYER:
        config["config"] = config["config"] | {key: value}
    return config


@pytest.mark.filterwarnings("ignore:.*parts have the dtypes:UserWarning")
@pytest.mark.parametrize(("kind", "key", "value", "check"), cases(HONOURED))
def test_honoured(kind, key, value, check):
    config = of_cell_and_layer(kind, key, value)
    if key in ("return_sequences", "trainable_theta") and kind == "LMUFeedforward":
        config["config"]["hidden_cell"] = hidden("Dense", activation="relu")
    assert check(from_config(config))


@pytest.mark.parametrize(("kind", "key", "value"), cases(WITHOUT_EFFECT))
def test_without_effect(kind, key, value):
    layer, plain = quietly(of_cell_and_layer(kind, key, value)), quietly(layer_config(kind))
    torch.testing.assert_close(run(layer), run(plain), rtol=0, atol=0)
    assert {n: p.shape for n, p in layer.named_parameters()} == {
        n: p.shape for n, p in plain.named_parameters()
    }


@pytest.mark.filterwarnings("ignore:.*parts have the dtypes:UserWarning")
@pytest.mark.parametrize(("kind", "key", "value", "message"), cases(WARNED))
def test_left_out_with_a_warning(kind, key, value, message):
    with pytest.warns(UserWarning, match=message.replace("it/", "(it|inner)/")):
        from_config(of_cell_and_layer(kind, key, value))


@pytest.mark.parametrize(("kind", "key", "value", "message"), cases(REFUSED))
def test_refused(kind, key, value, message):
    with pytest.raises(ValueError, match=message):
        from_config(of_cell_and_layer(kind, key, value))


def test_every_argument_has_a_test_and_a_row_on_the_page():
    tested = {row[0] for rows in (HONOURED, WITHOUT_EFFECT, WARNED, REFUSED) for row in rows}
    page = PAGE.read_text()
    table = page[page.index("### What becomes of each argument") :]
    for arguments in LAYERS.values():
        assert set(arguments) <= tested
        for key in arguments:
            assert f"`{key}`" in table, key
    for arguments in HIDDEN.values():
        for key in arguments:
            assert f"`{key}`" in table, key


def test_input_d_tells_the_size_and_must_fit_the_kernel():
    config = layer_config("LMUCell", input_d=5)
    fed_back = layer_config("LMUCell", input_d=5, hidden_to_memory=True)
    for one in (config, fed_back):
        del one["build_config"]
    assert quietly(config).input_size == 5
    arrays = {k: torch.ones(shape) for k, shape in plan_of(quietly(fed_back)).shapes.items()}
    assert arrays["kernel"].shape == (5 + 4, 2)
    assert quietly(fed_back, weights=arrays).input_size == 5
    with pytest.raises(ValueError, match=r"kernel of 9 rows, 0 of them .* does not fit input_d=5"):
        from_config(config, arrays)
    with pytest.raises(ValueError, match=r"kernel of 8 rows, 4 of them .* does not fit input_d=5"):
        from_config(fed_back, arrays | {"kernel": torch.ones(8, 2)})
    with pytest.raises(ValueError, match=r"must be one, got input_size=3, input_d=5"):
        from_config(config, input_size=3)


def test_sizes_that_nothing_tells():
    config = layer_config("LMU")
    del config["build_config"]
    with pytest.raises(ValueError, match="input_size must be given, no kernel and no input_d"):
        from_config(config)


def test_names_of_older_files():
    config = layer_config("LMU", hidden_cell=hidden("GRUCell"))
    old = config | {"class_name": "keras-lmu>LMU"}
    assert repr(quietly(old)) == repr(quietly(config))
