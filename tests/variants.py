"""All kinds of layers that tests build: a row each, which every general test then runs."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lmu import LMU, LMUFFT, Bidirectional, LegendreMemory, LMUCell, LMUStack
from lmu.theory import discretize, fourier, fourier_basis, legt
from tests import devices


class Variant(NamedTuple):
    """What a layer is built with, in plain data.

    Options are those of its class, but that ``windows`` are thetas of channels relative to the
    one that is asked for, and that names of ``CELLS``, ``FUNCTIONS`` and ``SYSTEMS`` stand for
    what these make. ``parts`` are the rows of composed layers. Rows that are not ``quick`` leave
    the slower tests to ``make test-all``.
    """

    kind: type[nn.Module]
    options: Mapping[str, Any] = MappingProxyType({})
    parts: tuple[str, ...] = ()
    quick: bool = True


def shifted(z: Tensor) -> Tensor:
    """An activation that is no name, and not zero at zero."""
    return F.silu(z) + 0.25


def turned_legendre(order: int, theta: float) -> tuple[Tensor, Tensor]:
    """A discrete system that is not Legendre's, but its memory turned and damped."""
    Ad, Bd = discretize(*legt(order, theta), "bilinear")
    turn = torch.linalg.qr(
        torch.vander(torch.linspace(-1, 1, order, dtype=torch.float64, device="cpu"))
    )[0]
    return 0.97 * turn @ Ad @ turn.mT, turn @ Bd


def shrink(weight: Tensor) -> None:
    """An initializer of weights that let a state die away."""
    nn.init.normal_(weight, std=0.1)


# (numbers that are read, hidden units, device and dtype)
CELLS: dict[str, Callable[..., nn.Module]] = {
    "linear": nn.Linear,
    "linear without bias": lambda read, size, **kw: nn.Linear(read, size, bias=False, **kw),
    "sequential": lambda read, size, **kw: nn.Sequential(nn.Linear(read, size, **kw), nn.Sigmoid()),
    "mlp": lambda read, size, **kw: nn.Sequential(
        nn.Linear(read, 5, **kw), nn.ReLU(), nn.Linear(5, size, **kw)
    ),
    "rnn relu": lambda read, size, **kw: nn.RNNCell(read, size, nonlinearity="relu", **kw),
    "gru": nn.GRUCell,
    "gru without bias": lambda read, size, **kw: nn.GRUCell(read, size, bias=False, **kw),
    "lstm": nn.LSTMCell,
    "lmu": lambda read, size, **kw: LMUCell(read, size, 3, 8.0, **kw),
}
FUNCTIONS: dict[str, Callable[..., Callable[[Tensor], Tensor]]] = {
    "shifted": lambda **kw: shifted,
    "prelu": lambda **kw: nn.PReLU(**kw),
    "torch.tanh": lambda **kw: torch.tanh,
}
SYSTEMS: dict[str, Callable[..., tuple[Any, ...]]] = {
    "fourier": lambda order, theta: (*fourier(order, theta), fourier_basis),
    "discrete": turned_legendre,
}

OPEN = {"hidden_to_memory": False, "memory_to_memory": False}
MEMORY = {"hidden_cell": None, "hidden_to_memory": False}
BARE = {"memory_channels": 3, "encode_input": False, "encoder_activation": None,
        "input_to_hidden": False}  # fmt: skip
LAST = {"return_sequences": False}
# Weights as they are drawn would let a linear recurrence grow.
LINEAR = {"hidden_activation": "identity", "initializers": {"W_h": shrink, "e_h": shrink}}
FOURIER = {"memory_size": 5, "system": "fourier"}
DISCRETE = {"system": "discrete", "discretizer": None}

VARIANTS: dict[str, Variant] = {
    "memory": Variant(LegendreMemory),
    "memory-channels": Variant(LegendreMemory, {"channels": 3, "windows": (1, 0.75, 2.5)}),
    "memory-fft": Variant(LegendreMemory, {"channels": 2, "method": "fft"}, quick=False),
    "memory-fourier": Variant(LegendreMemory, {"channels": 2, **FOURIER}, quick=False),
    "memory-discrete": Variant(LegendreMemory, DISCRETE, quick=False),
    "LMUCell": Variant(LMUCell),
    "LMUCell-sigmoid": Variant(LMUCell, {"hidden_activation": "sigmoid"}, quick=False),
    "LMU": Variant(LMU),
    "LMU-blocks": Variant(LMU, {"method": "blocks"}, quick=False),
    "LMU-loop": Variant(LMU, {"method": "loop"}, quick=False),
    "LMU-open": Variant(LMU, OPEN),
    "LMU-e_m": Variant(LMU, {"hidden_to_memory": False, "memory_bias": True}, quick=False),
    "LMU-channels": Variant(LMU, {"windows": (1, 0.75), "memory_bias": True, "hidden_bias": True}),
    "LMU-channels-open": Variant(LMU, {"memory_channels": 2, "input_to_hidden": False, **OPEN}),
    "LMU-tanh": Variant(LMU, {"encoder_activation": "torch.tanh"}),
    "LMU-tanh-open": Variant(LMU, {"encoder_activation": "torch.tanh", **OPEN}),
    "LMU-memory": Variant(LMU, MEMORY),
    "LMU-bare": Variant(LMU, BARE | MEMORY | OPEN, quick=False),
    "LMU-linear": Variant(LMU, {"hidden_cell": "linear without bias"}, quick=False),
    "LMU-sequential": Variant(LMU, {"hidden_cell": "sequential"}),
    "LMU-gru": Variant(LMU, {"hidden_cell": "gru", "memory_channels": 2, **OPEN}),
    "LMU-gru-fed": Variant(LMU, {"hidden_cell": "gru"}, quick=False),
    "LMU-lstm": Variant(LMU, {"hidden_cell": "lstm", "input_to_hidden": False}),
    "LMU-lstm-open": Variant(LMU, {"hidden_cell": "lstm", "hidden_to_memory": False}, quick=False),
    "LMU-relu": Variant(LMU, {"hidden_activation": "relu"}, quick=False),
    "LMU-sigmoid": Variant(LMU, {"hidden_activation": "sigmoid", "hidden_bias": True}),
    "LMU-identity": Variant(LMU, LINEAR, quick=False),
    "LMU-gelu": Variant(LMU, {"hidden_activation": "gelu"}, quick=False),
    "LMU-shifted": Variant(LMU, {"hidden_activation": "shifted"}, quick=False),
    "LMU-prelu": Variant(LMU, {"hidden_activation": "prelu"}),
    "LMU-relu-open": Variant(LMU, {"hidden_activation": "relu", **OPEN}, quick=False),
    "LMU-sigmoid-open": Variant(LMU, {"hidden_activation": "sigmoid", **OPEN}, quick=False),
    "LMU-identity-open": Variant(
        LMU, LINEAR | OPEN | {"initializers": {"W_h": shrink}}, quick=False
    ),
    "LMU-gelu-open": Variant(LMU, {"hidden_activation": "gelu", **OPEN}),
    "LMU-shifted-open": Variant(LMU, {"hidden_activation": "shifted", **OPEN}, quick=False),
    "LMU-prelu-open": Variant(LMU, {"hidden_activation": "prelu", **OPEN}, quick=False),
    "LMU-fourier": Variant(LMU, FOURIER, quick=False),
    "LMU-discrete": Variant(LMU, {"memory_channels": 2, **DISCRETE}, quick=False),
    "LMU-theta": Variant(LMU, {"learn_theta": True}),
    "LMU-free": Variant(LMU, {"learn_a": True, "learn_b": True}, quick=False),
    "LMUFFT": Variant(LMUFFT, {"seq_len": 9}),
    "LMUFFT-fft": Variant(LMUFFT, {"method": "fft"}, quick=False),
    "LMUFFT-channels": Variant(LMUFFT, BARE | {"seq_len": 9, "windows": (1, 0.75, 2.5)}),
    "LMUFFT-encoded": Variant(LMUFFT, {"windows": (1, 2.5)}, quick=False),
    "LMUFFT-last": Variant(LMUFFT, {"seq_len": 9, **LAST}),
    "LMUFFT-identity": Variant(LMUFFT, {"hidden_activation": "identity"}, quick=False),
    "LMUFFT-tanh": Variant(LMUFFT, {"hidden_activation": "tanh"}, quick=False),
    "LMUFFT-gelu": Variant(LMUFFT, {"hidden_activation": "gelu"}),
    "LMUFFT-prelu": Variant(
        LMUFFT, {"hidden_activation": "prelu", "encoder_activation": "prelu"}, quick=False
    ),
    "LMUFFT-fourier": Variant(LMUFFT, FOURIER, quick=False),
    "LMUFFT-discrete": Variant(LMUFFT, DISCRETE, quick=False),
    "LMUFFT-theta": Variant(LMUFFT, {"learn_theta": True}),
    "LMUFFT-theta-last": Variant(LMUFFT, {"learn_theta": True, **LAST}, quick=False),
    "stack": Variant(LMUStack, {"norm": None}, ("LMUFFT", "LMU")),
    "stack-last": Variant(LMUStack, {"norm": "rms"}, ("LMU", "LMUFFT-last"), quick=False),
    "stack-activations": Variant(
        LMUStack, {}, ("LMU-sigmoid", "LMUFFT-gelu", "LMU-gelu-open"), quick=False
    ),
    "both-ways": Variant(Bidirectional, {}, ("LMUFFT", "LMU-e_m")),
    "both-ways-last": Variant(Bidirectional, {}, ("LMUFFT-last", "LMUFFT-last"), quick=False),
    "both-ways-sigmoid": Variant(Bidirectional, {}, ("LMU-sigmoid", "LMU-shifted"), quick=False),
    "stack-both-ways": Variant(LMUStack, {}, ("both-ways", "LMU"), quick=False),
}

# Views: what a test asks for.
SINGLE = [name for name, row in VARIANTS.items() if not row.parts]
LEARNED = [
    name for name in SINGLE if any(key.startswith("learn_") for key in VARIANTS[name].options)
]
CONSTANT = [name for name in SINGLE if name not in LEARNED]  # their dynamics; these may be learned
MEMORIES = [name for name in SINGLE if VARIANTS[name].kind is LegendreMemory]
SEQUENCES = [name for name in VARIANTS if VARIANTS[name].kind is not LMUCell]
LAYERS = [name for name in SINGLE if VARIANTS[name].kind in {LMU, LMUFFT}]
# Those of Legendre's system, whose windows can be learned.
LEGENDRE = [name for name in CONSTANT if "system" not in VARIANTS[name].options]
PARAMETRIC = [name for name in CONSTANT if name not in {*MEMORIES, "LMU-bare"}]
STREAMED = [
    name for name, row in VARIANTS.items()
    if row.kind in {LMU, LMUFFT, LMUStack} and "last" not in name and "both" not in name
]  # fmt: skip
# PyTorch's own cells, which are beyond vmap and forward-mode derivatives.
# Blocks forced by name refuse torch.func, which needs plain operations.
TRANSFORMED = [name for name in CONSTANT if VARIANTS[name].options.get("method") != "blocks"]
OPAQUE = [name for name in SINGLE if VARIANTS[name].options.get("hidden_cell") in {"gru", "lstm"}]


def cases(names: Iterable[str], *, expensive: bool = False, quick: Iterable[str] = ()) -> list[Any]:
    """Names to parametrize a test with; of an ``expensive`` one some are marked slow.

    Those are the rows that are not quick, or with ``quick`` all but these.
    """
    quick = set(quick)
    now = {name for name in names if (name in quick if quick else VARIANTS[name].quick)}
    slow = [pytest.mark.slow]
    return [pytest.param(n, marks=slow if expensive and n not in now else []) for n in names]


def each(names: Iterable[str], *, expensive: bool = False, quick: Iterable[str] = ()) -> Any:
    """A decorator that runs a test with each of the names, as ``name``."""
    return pytest.mark.parametrize("name", cases(list(names), expensive=expensive, quick=quick))


def build(
    name: str,
    *,
    input_size: int = 3,
    hidden_size: int = 7,
    memory_size: int = 6,
    theta: Any = 12.0,
    seed: int = 0,
    **given: Any,
) -> Any:
    """Build a row at small sizes; ``given`` are further options.

    The parameters are drawn on the CPU, and the layer is then on the device of ``--device``.
    """
    torch.manual_seed(seed)
    sizes = {"input_size": input_size, "hidden_size": hidden_size, "memory_size": memory_size}
    layer = _make(VARIANTS[name], sizes, theta, given)
    if devices.current.type == "cpu" or any(p.is_meta for p in layer.parameters()):
        return layer
    return layer.to(devices.current)


def _make(row: Variant, sizes: dict[str, int], theta: Any, given: dict[str, Any]) -> Any:
    if row.parts:
        return _compose(row, sizes, theta, given)
    options = {"memory_size": sizes["memory_size"], "theta": theta} | dict(row.options) | given
    windows = options.pop("windows", ())
    if row.options.get("encode_input") is False:
        options["memory_channels"] = sizes["input_size"]
        windows = windows[: sizes["input_size"]]
    if windows and not isinstance(theta, (tuple, list)):
        options["theta"] = tuple(theta * window for window in windows)
    if row.kind is LegendreMemory:
        return LegendreMemory(**_with_system(options))
    options |= {"input_size": sizes["input_size"]}
    if windows:
        options["memory_channels"] = len(windows)
    factory = {key: value for key, value in options.items() if key in {"device", "dtype"}}
    options["hidden_size"] = (
        None if options.get("hidden_cell", "") is None else sizes["hidden_size"]
    )
    if options.get("hidden_cell") in CELLS:
        read = options.get("memory_channels", 1) * options["memory_size"]
        read += sizes["input_size"] * options.get("input_to_hidden", True)
        cell = CELLS[options["hidden_cell"]]
        options["hidden_cell"] = cell(read, sizes["hidden_size"], **factory)
    for key in ("encoder_activation", "hidden_activation"):
        if options.get(key) in FUNCTIONS:
            options[key] = FUNCTIONS[options[key]](**factory)
    return row.kind(**_with_system(options))


def _with_system(options: dict[str, Any]) -> dict[str, Any]:
    name, theta = options.get("system"), options["theta"]
    if isinstance(name, str):
        options["system"] = SYSTEMS[name](options["memory_size"], theta)
    return options


def _compose(row: Variant, sizes: dict[str, int], theta: Any, given: dict[str, Any]) -> Any:
    parts, size = [], sizes["input_size"]
    for part in row.parts:
        parts.append(_make(VARIANTS[part], sizes | {"input_size": size}, theta, given))
        if row.kind is LMUStack:
            size = parts[-1].hidden_size
    return LMUStack(parts, **row.options) if row.kind is LMUStack else Bidirectional(*parts)


def fill(layer: nn.Module, std: float = 0.3) -> nn.Module:
    """Draw the parameters that start at zero, so that all terms of the equations count."""
    for key, parameter in layer.named_parameters():
        if key.rpartition(".")[2] in {"e_m", "b_u", "b_h"}:
            nn.init.normal_(parameter, std=std)
    return layer


def features(layer: Any) -> int:
    """The number of features of a layer's input."""
    return layer.channels if isinstance(layer, LegendreMemory) else layer.input_size


def sample(
    layer: Any, length: int, batch: int = 2, dtype: torch.dtype = torch.float32, seed: int = 1
) -> Tensor:
    """An input: (batch, features) for a cell, (batch, length, features) for others."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, length, features(layer), dtype=torch.float64, generator=g).to(dtype)
    return devices.place(x[:, 0] if type(layer) is LMUCell else x)


def run(layer: Any, x: Any, state: Any = None, **given: Any) -> tuple[Any, Any]:
    """The output and the whole state of any layer, or what is compiled of one."""
    inner = getattr(layer, "_orig_mod", layer)
    if type(inner) is LMUCell:
        after = layer(x, state)
        return after[0][0] if isinstance(after[0], tuple) else after[0], after
    return layer(x, state, **given, **getattr(inner, "with_state", {}))


def step(layer: Any, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    """The output and the state of one step of any layer."""
    if type(layer) is LMUCell:
        return run(layer, x, state)
    after = layer.step(x, state)
    return (after, after) if isinstance(layer, LegendreMemory) else after


def memory_of(layer: Any) -> LegendreMemory:
    """The Legendre memory of a single layer."""
    return layer if isinstance(layer, LegendreMemory) else layer.memory


def state_like(layer: Any, x: Tensor) -> Any:
    """A state other than zero, of the shapes that the layer's has."""
    state = run(layer, x)[1]
    return tree_map(
        lambda s: torch.linspace(-0.5, 0.5, s.numel()).to(s).view_as(s).requires_grad_(), state
    )
