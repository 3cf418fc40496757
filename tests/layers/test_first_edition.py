"""Checkpoints of the first edition, in which the memory's parameters are the layer's."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from lmu import LMU, LMUFFT, Bidirectional, LMUCell, LMUStack
from lmu.models import SequenceClassifier

F64 = torch.float64
Shapes = dict[str, tuple[int, ...]]
WEIGHTS: Shapes = {"W_x": (3, 2), "W_h": (3, 3), "W_m": (3, 4)}
CELL: Shapes = {"e_x": (1, 2), "e_h": (1, 3), "e_m": (1, 4)}
OUTER: Shapes = {"W_u.weight": (1, 2), "W_u.bias": (1,), "W_h.weight": (3, 6), "W_h.bias": (3,)}


class Saved(NamedTuple):
    """A checkpoint: entries in their order, and what the layer then gave for :func:`signal`."""

    build: Callable[..., nn.Module]
    entries: Shapes
    output: list[float]
    dynamics: dict[str, dict[str, Any]]  # by the names of layers


def under(prefix: str, entries: Shapes) -> Shapes:
    return {f"{prefix}.{key}": shape for key, shape in entries.items()}


def facts(theta: float | None = None, discretizer: str = "zoh") -> dict[str, Any]:
    """As the metadata of a layer; theta is None where it is learned."""
    return {"theta": theta, "discretizer": discretizer, "replaced": False}


SAVED = {
    "LMU, matrices": Saved(
        lambda **kw: LMU(
            2, 3, 4, 14.0, learn_a=True, learn_b=True, memory_bias=True, hidden_bias=True, **kw
        ),
        {**CELL, "b_u": (1,), **WEIGHTS, "b_h": (3,), "Ad": (4, 4), "Bd": (4,)},
        [-0.44197718951, -0.815700749038, -0.948133871647],
        {"": facts()},
    ),
    "LMU, window": Saved(
        lambda **kw: LMU(2, 3, 4, 14.0, learn_theta=True, hidden_to_memory=False, **kw),
        {"e_x": (1, 2), "e_m": (1, 4), **WEIGHTS, "log_theta": (1,)},
        [-0.630141844376, 0.167069375397, 0.792810173651],
        {"": facts()},
    ),
    "LMU, Euler": Saved(
        lambda **kw: LMU(2, 3, 4, 14.0, learn_theta=True, discretizer="euler", **kw),
        {**CELL, **WEIGHTS, "log_theta": (1,)},
        [-0.560993757895, 0.266287713984, 0.827454768371],
        {"": facts(discretizer="euler")},
    ),
    "LMU, modules": Saved(
        lambda **kw: LMU(
            2, 3, 4, 14.0, learn_theta=True, hidden_cell=nn.GRUCell(6, 3, **kw),
            encoder_activation=nn.PReLU(**kw), **kw,
        ),
        {
            **CELL, "log_theta": (1,), "encoder_activation.weight": (1,),
            "hidden_cell.weight_ih": (9, 6), "hidden_cell.weight_hh": (9, 3),
            "hidden_cell.bias_ih": (9,), "hidden_cell.bias_hh": (9,),
        },
        [0.654025338183, 0.819313485545, 0.907645085983],
        {"": facts()},
    ),
    "LMUFFT, matrices": Saved(
        lambda **kw: LMUFFT(2, 3, 4, theta=14.0, learn_a=True, **kw),
        {"Ad": (4, 4), **OUTER},
        [0.0, 0.230769230769, 1.4185520362],
        {"": facts(14.0)},
    ),
    "LMUFFT, windows": Saved(
        lambda **kw: LMUFFT(
            2, 3, 4, theta=(14.0, 9.0), memory_channels=2, learn_theta=True, **kw
        ),
        {
            "log_theta": (2,), "W_u.weight": (2, 2), "W_u.bias": (2,), "W_h.weight": (3, 10),
            "W_h.bias": (3,),
        },
        [0.0, 0.249002282032, 1.47421518464],
        {"": facts()},
    ),
    "LMUCell, input": Saved(
        lambda **kw: LMUCell(2, 3, 4, 14.0, learn_b=True, **kw),
        {**CELL, **WEIGHTS, "Bd": (4,)},
        [0.65755867075, 0.00901296494964, -0.647204971374],
        {"": facts(14.0)},
    ),
    "stack": Saved(
        lambda **kw: LMUStack(
            [LMU(2, 3, 4, 14.0, learn_a=True, **kw),
             LMUFFT(3, 3, 4, theta=9.0, learn_theta=True, **kw)],
            norm=None,
        ),
        {
            **under("layers.0", {**CELL, **WEIGHTS, "Ad": (4, 4)}),
            **under("layers.1", {"log_theta": (1,), "W_u.weight": (1, 3), "W_u.bias": (1,),
                                 "W_h.weight": (3, 7), "W_h.bias": (3,)}),
            "skips.0.weight": (3, 2),
        },
        [-1.38311669524, 0.319060957497, 2.32955886436],
        {"layers.0": facts(14.0), "layers.1": facts()},
    ),
    "model": Saved(
        lambda **kw: SequenceClassifier(
            Bidirectional(
                LMU(2, 3, 4, 14.0, learn_theta=True, **kw),
                LMUFFT(2, 3, 4, theta=9.0, learn_a=True, learn_b=True, **kw),
            ),
            2,
        ),
        {
            **under("layer.forward_layer", {**CELL, **WEIGHTS, "log_theta": (1,)}),
            **under("layer.backward_layer", {"Ad": (4, 4), "Bd": (4,), **OUTER}),
            "classifier.weight": (2, 6), "classifier.bias": (2,),
        },
        [-0.550011791078, 0.667402166504],
        {"layer.forward_layer": facts(), "layer.backward_layer": facts()},
    ),
}  # fmt: skip
each = pytest.mark.parametrize("name", SAVED)


def entry(key: str, shape: tuple[int, ...]) -> Tensor:
    if key.endswith("log_theta"):
        return torch.full(shape, 2.75, dtype=F64)
    return torch.linspace(-0.5, 0.5, int(torch.tensor(shape).prod()), dtype=F64).view(shape)


def checkpoint(name: str, version: int = 2, told: bool = True) -> Any:
    """The state_dict; with or without what a first version tells of its dynamics."""
    saved = SAVED[name]
    state = OrderedDict((key, entry(key, shape)) for key, shape in saved.entries.items())
    metadata: dict[str, Any] = {"": {"version": 1}}
    for layer, dynamics in saved.dynamics.items():
        metadata[layer] = {"version": version} | ({"dynamics": dynamics} if told else {})
    state._metadata = metadata  # pyright: ignore[reportAttributeAccessIssue]
    return state


def build(name: str, **kwargs: Any) -> Any:
    # What has no dtype of its own, such as a norm or a classifier, is made float64 by the context.
    before = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    try:
        return SAVED[name].build(**{"dtype": F64} | kwargs)
    finally:
        torch.set_default_dtype(before)


def signal() -> Tensor:
    return torch.linspace(-1, 1, 40, dtype=F64).view(1, 20, 2)


@torch.no_grad()
def check(name: str, layer: nn.Module) -> None:
    x = signal()
    out: Any = layer(x[:, 0] if isinstance(layer, LMUCell) and not isinstance(layer, LMU) else x)
    y = out if isinstance(out, Tensor) else out[0]
    right = torch.tensor(SAVED[name].output, dtype=F64)
    torch.testing.assert_close((y[:, -1] if y.ndim == 3 else y)[0], right, rtol=0, atol=1e-11)


@each
@pytest.mark.parametrize("form", ["saved", "dict", "version 1", "present names"])
def test_a_checkpoint_gives_the_numbers_that_it_gave(name: str, form: str) -> None:
    if (name, form) == ("LMU, Euler", "version 1"):
        pytest.skip("refused, as tested below")
    state = checkpoint(name, 1 if form == "version 1" else 2, form != "version 1")
    state = dict(state) if form == "dict" else state
    before = dict(state)
    layer = build(name)
    assert not any(layer.load_state_dict(state, strict=True))
    check(name, layer)
    assert state.keys() == before.keys()  # what was passed stays as it was
    if form == "present names":
        twin = build(name)
        twin.load_state_dict(layer.state_dict(), strict=True)
        check(name, twin)


@each
def test_a_checkpoint_is_assigned_to_a_model_without_numbers(name: str) -> None:
    with torch.device("meta"):
        layer = build(name)
    layer.load_state_dict(checkpoint(name), assign=True)
    assert not any(p.is_meta for p in layer.parameters())
    check(name, layer)


@each
def test_parameters_keep_the_order_in_which_an_optimizer_numbers_them(name: str) -> None:
    layer, entries = build(name), SAVED[name].entries
    keys = [key.replace("memory.", "") for key, _ in layer.named_parameters()]
    assert keys == list(entries)
    optimizer = torch.optim.Adam(layer.parameters())
    moments = {
        i: {"step": torch.tensor(3.0), "exp_avg": entry(key, shape), "exp_avg_sq": 1 + entry(
            key, shape).square()} for i, (key, shape) in enumerate(entries.items())
    }  # fmt: skip
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    for (key, shape), parameter in zip(entries.items(), layer.parameters(), strict=True):
        assert parameter.shape == shape
        torch.testing.assert_close(optimizer.state[parameter]["exp_avg"], entry(key, shape))


def test_log_theta_of_version_1_under_eulers_method_is_refused() -> None:
    for layer in ("", "inner."):
        state = OrderedDict((layer + key, value) for key, value in checkpoint("LMU, Euler").items())
        state._metadata = {"": {"version": 1}, layer[:-1]: {"version": 1}}  # pyright: ignore
        model: Any = build("LMU, Euler")
        model = nn.ModuleDict({"inner": model}) if layer else model
        with pytest.raises(RuntimeError, match=r"log_theta is log\(theta - b\) .* set it to log"):
            model.load_state_dict(state)


@pytest.mark.parametrize(
    ("name", "layer", "wrong", "message"),
    [
        ("LMUCell, input", "", {"theta": 13.0}, "'LMUCell' was saved with theta=13.0, and is"),
        ("LMUFFT, matrices", "", {"discretizer": "bilinear"}, "discretizer='bilinear', and is"),
        ("stack", "layers.0", {"theta": 20.0}, "layer 'layers.0' was saved with theta=20.0"),
        ("model", "layer.forward_layer", {"discretizer": "euler"}, "'layer.forward_layer' was"),
        ("LMUCell, input", "", {"replaced": True}, "saved with matrices that were assigned"),
    ],
)
def test_other_dynamics_are_told(
    name: str, layer: str, wrong: dict[str, Any], message: str
) -> None:
    state = checkpoint(name)
    state._metadata[layer]["dynamics"] = state._metadata[layer]["dynamics"] | wrong
    with pytest.raises(RuntimeError, match=message):
        build(name).load_state_dict(state)
    build(name).load_state_dict(dict(state))  # which does not tell


@each
def test_missing_and_unknown_entries_have_the_present_names(name: str) -> None:
    state = checkpoint(name)
    key = next(key for key in state if key.rpartition(".")[2] in {"Ad", "Bd", "log_theta"})
    prefix, _, leaf = key.rpartition(".")
    present = ".".join([prefix, "memory", leaf] if prefix else ["memory", leaf])
    missing = {other: value for other, value in state.items() if other != key}
    with pytest.raises(RuntimeError, match=f'Missing key.*"{present}"'):
        build(name).load_state_dict(missing)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*W_z"):
        build(name).load_state_dict(dict(state) | {"W_z": torch.zeros(1)})
    report = build(name).load_state_dict(missing, strict=False)
    assert report.missing_keys == [present]
    with pytest.raises(RuntimeError, match=f"size mismatch for {present}"):
        build(name).load_state_dict(dict(state) | {key: torch.zeros(7, 7)})


def test_learned_matrices_go_into_a_layer_without_them_only_if_told_to() -> None:
    """Else its outputs would be others in silence."""
    layer = LMU(2, 3, 4, 14.0, memory_bias=True, hidden_bias=True, dtype=F64)
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"memory\.Ad", "memory\.Bd"'):
        layer.load_state_dict(checkpoint("LMU, matrices"))
