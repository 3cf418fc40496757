"""Every connection and hidden cell of the LMU against the equations, step by step in float64."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lmu import LMU, LMUCell, Stream, detach_state
from lmu.theory import discretize, legt

F64 = torch.float64


class Doubling(nn.Module):
    """A recurrent cell of the user's own, with two tensors as its state."""

    hidden_size = 4

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, 4, dtype=F64)

    def forward(self, z: Tensor, state: tuple[Tensor, Tensor] | None = None) -> Any:
        h, trace = (z.new_zeros(len(z), 4),) * 2 if state is None else state
        trace = 0.5 * trace + self.linear(z)
        return torch.sigmoid(trace - h), trace


CELLS = {
    "tanh": lambda size: "tanh",
    "none": lambda size: None,
    "linear": lambda size: nn.Linear(size, 4, dtype=F64),
    "mlp": lambda size: nn.Sequential(
        nn.Linear(size, 5, dtype=F64), nn.ReLU(), nn.Linear(5, 4, dtype=F64)
    ),
    "rnn": lambda size: nn.RNNCell(size, 4, nonlinearity="relu", dtype=F64),
    "gru": lambda size: nn.GRUCell(size, 4, bias=False, dtype=F64),
    "lstm": lambda size: nn.LSTMCell(size, 4, dtype=F64),
    "lmu": lambda size: LMUCell(size, 4, 3, 8.0, dtype=F64),
    "own": Doubling,
}
FLAGS = list(itertools.product([False, True], repeat=3))


def build(cell: str, kind: type = LMU, channels: int = 1, **flags: Any) -> Any:
    torch.manual_seed(1)
    theta = (12.0, 7.0)[:channels] if channels > 1 else 12.0
    reads = channels * 5 + (2 if flags.get("input_to_hidden", True) else 0)
    size = None if cell == "none" else 4
    hidden = CELLS[cell](reads)
    layer = kind(
        2, size, 5, theta, memory_channels=channels, hidden_cell=hidden, dtype=F64, **flags
    )
    with torch.no_grad():
        for parameter in (layer.e_m, layer.b_u, layer.b_h):
            if parameter is not None:
                nn.init.normal_(parameter, std=0.3)
    return layer


def equations(layer: Any, x: Tensor) -> tuple[Tensor, Any, Tensor]:
    """Outputs, and the last state of the hidden cell and of the memory."""
    c, d = layer.memory_channels, layer.memory_size
    thetas = layer.theta if isinstance(layer.theta, tuple) else (layer.theta,) * c
    systems = [discretize(*legt(d, theta), layer.discretizer) for theta in thetas]
    m, h, state, outputs = x.new_zeros(len(x), c, d), None, None, []
    for x_t in x.unbind(1):
        u = x_t if layer.e_x is None else x_t @ layer.e_x.T
        before = x.new_zeros(len(x), layer.hidden_size) if h is None else h
        u = u if layer.e_h is None else u + before @ layer.e_h.T
        u = u if layer.e_m is None else u + m.flatten(1) @ layer.e_m.T
        u = u if layer.b_u is None else u + layer.b_u
        u = u if layer.encoder_activation is None else layer.encoder_activation(u)
        m = torch.stack(
            [m[:, i] @ Ad.T + u[:, i : i + 1] * Bd for i, (Ad, Bd) in enumerate(systems)], dim=1
        )
        z = torch.cat([m.flatten(1), x_t], dim=1) if layer.input_to_hidden else m.flatten(1)
        if layer.hidden_cell == "tanh":
            W = layer.W_m if layer.W_x is None else torch.cat([layer.W_m, layer.W_x], dim=1)
            b = 0 if layer.b_h is None else layer.b_h
            h = state = torch.tanh(z @ W.T + before @ layer.W_h.T + b)
        elif layer.hidden_cell is None:
            h = state = z
        elif isinstance(layer.hidden_cell, nn.Linear | nn.Sequential):
            h = state = layer.hidden_cell(z)
        else:
            state = layer.hidden_cell(z, state)
            h = state[0] if isinstance(state, tuple) else state
        outputs.append(h)
    return torch.stack(outputs, dim=1), state, m.flatten(1)


def gradients(result: Any, wanted: list[Tensor]) -> tuple[Tensor, ...]:
    total = sum(leaf.square().sum() for leaf in tree_leaves(result))
    assert isinstance(total, Tensor)
    return torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True)


def check(layer: Any, length: int = 23) -> None:
    x = torch.randn(3, length, 2, dtype=F64, requires_grad=True)
    wanted = [x, *layer.parameters()]
    y, (state, m) = layer(x)
    right = equations(layer, x)
    torch.testing.assert_close((y, state, m), right)
    torch.testing.assert_close(gradients((y, state, m), wanted), gradients(right, wanted))
    part, carried = layer(x[:, :9])
    rest, (last, _) = layer(x[:, 9:], carried)
    torch.testing.assert_close(torch.cat([part, rest], dim=1), y)
    torch.testing.assert_close(last, state)
    now, outputs = None, []
    for x_t in x.unbind(1):
        h, now = layer.step(x_t, now)
        outputs.append(h)
    torch.testing.assert_close(torch.stack(outputs, dim=1), y)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_cells_and_connections(cell, flags, channels):
    names = ("hidden_to_memory", "memory_to_memory", "input_to_hidden")
    if cell == "none" and flags[0]:
        pytest.skip("there is no hidden state to feed back")
    check(build(cell, channels=channels, **dict(zip(names, flags, strict=True))))


@pytest.mark.parametrize("cell", ["tanh", "lstm"])
@pytest.mark.parametrize("feedback", [False, True])
@pytest.mark.parametrize(
    "flags",
    [
        {"memory_bias": True},
        {"encode_input": False, "channels": 2},
        {"encoder_activation": torch.tanh},
        {"encoder_activation": torch.relu, "memory_bias": True, "channels": 2},
        {"discretizer": "bilinear"},
    ],
    ids=str,
)
def test_encoders(cell, feedback, flags):
    check(build(cell, hidden_to_memory=feedback, memory_to_memory=feedback, **flags))


@pytest.mark.parametrize("method", ["loop", "blocks", "parallel"])
@pytest.mark.parametrize("channels", [1, 2])
def test_biases_and_channels_by_every_method(method, channels):
    feedback = method != "parallel"
    layer = build(
        "tanh", channels=channels, memory_bias=True, hidden_bias=True, method=method,
        hidden_to_memory=feedback, memory_to_memory=feedback,
    )  # fmt: skip
    check(layer)
    assert layer.explain(500).method == ("blocks" if feedback else "parallel")


def test_fast_paths_stay_in_use():
    assert build("tanh", channels=2, memory_bias=True).explain(500).method == "blocks"
    assert build("gru").explain(500).method == "loop"
    for cell in ("gru", "mlp", "none"):
        layer = build(cell, channels=2, hidden_to_memory=False, memory_to_memory=False)
        assert layer.explain(500).method == "parallel"
    single = build("gru", hidden_to_memory=False)  # whose e_m belongs to the dynamics
    assert single.explain(500).method == "parallel"
    coupled = build("gru", channels=2, hidden_to_memory=False)
    assert coupled.explain(500).method == "loop"


def test_cell_takes_the_same_arguments():
    for cell in CELLS:
        flags: dict[str, Any] = {"hidden_to_memory": cell != "none", "channels": 2}
        layer, one = build(cell, **flags), build(cell, LMUCell, **flags)
        x = torch.randn(3, 2, dtype=F64)
        y, state = layer.step(x)
        torch.testing.assert_close(one(x), state)
        torch.testing.assert_close(y, tree_leaves(one(x))[0])


@pytest.mark.parametrize("cell", ["lstm", "own", "mlp", "lmu"])
def test_streams_of_any_cell(cell):
    layer = build(cell, channels=2)
    x = torch.randn(3, 20, 2, dtype=F64)
    stream = Stream(layer, 3)
    y, state = layer(x)
    got = torch.stack([stream(x_t) for x_t in x.unbind(1)], dim=1)
    torch.testing.assert_close((got, stream.state), (y, state))
    stream.reset(1)
    after = stream(x[:, 0])
    fresh, going = layer.step(x[:, 0])[0], layer.step(x[:, 0], state)[0]
    torch.testing.assert_close(after, torch.stack([going[0], fresh[1], going[2]]))
    stream.state = state
    torch.testing.assert_close(stream(x[:, 0]), going)


def test_hooks_of_a_hidden_cell_are_called_at_every_step():
    layer = build("gru", hidden_to_memory=False)
    calls = []
    layer.hidden_cell.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(1, 6, 2, dtype=F64)
    torch.testing.assert_close(layer(x)[0], equations(layer, x)[0])
    assert len(calls) >= 6


def test_dropout_is_of_the_whole_input_and_off_in_evaluation():
    layer = build("tanh", dropout=0.5)
    plain = build("tanh")
    x = torch.randn(2, 30, 2, dtype=F64)
    torch.testing.assert_close(layer.eval()(x), plain(x))
    torch.manual_seed(4)
    dropped = nn.functional.dropout(x, 0.5)
    torch.manual_seed(4)
    torch.testing.assert_close(layer.train()(x), plain(dropped))
    assert not torch.equal(layer(x)[0], plain(x)[0])


def test_recurrent_dropout_drops_what_is_fed_back():
    layer = build("tanh", recurrent_dropout=0.5)
    plain = build("tanh")
    x = torch.randn(2, 30, 2, dtype=F64)
    torch.testing.assert_close(layer.eval()(x), plain(x))
    assert layer.explain(500).method == "blocks"
    layer.train()
    assert layer.explain(500).method == "loop"
    first = layer(x)[0]
    assert not torch.equal(first, layer(x)[0])
    for encoder in (layer.e_h, layer.e_m, plain.e_h, plain.e_m):
        nn.init.zeros_(encoder)
    torch.testing.assert_close(layer(x), plain(x))  # nothing else is dropped


def test_initializers_come_last_and_must_name_parameters():
    layer = LMU(2, 4, 3, 9.0, initializers={"e_x": nn.init.ones_, "W_m": nn.init.zeros_})
    for _ in range(2):
        assert (layer.e_x == 1).all()
        assert not layer.W_m.any()
        assert layer.W_h.any()
        layer.reset_parameters()
    with pytest.raises(ValueError, match="name 'e_z', which is no parameter of this layer: it has"):
        LMU(2, 4, 3, 9.0, initializers={"e_z": nn.init.ones_})


def test_truncated_backpropagation():
    layer = build("lstm")
    x = torch.randn(2, 12, 2, dtype=F64, requires_grad=True)
    _, state = layer(x[:, :6])
    y, _ = layer(x[:, 6:], detach_state(state))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert not gradient[:, :6].any()
    assert gradient[:, 6:].all()


def test_a_given_cell_keeps_its_weights_until_it_is_reset():
    cell = nn.Linear(7, 4, dtype=F64)
    before = cell.weight.detach().clone()
    layer = LMU(2, None, 5, 12.0, hidden_cell=cell, dtype=F64)
    assert layer.hidden_size == 4
    assert torch.equal(cell.weight, before)
    layer.reset_parameters()
    assert not torch.equal(cell.weight, before)


WRONG: list[tuple[dict[str, Any], type, str]] = [
    ({"hidden_cell": "relu"}, ValueError, "must be 'tanh', None or a module, got 'relu'"),
    ({"hidden_cell": 3}, TypeError, "must be 'tanh', None or a module, got 3"),
    (
        {"hidden_cell": None, "hidden_size": None},
        ValueError,
        "no hidden state to feed back: pass hidden_to_memory=False",
    ),
    ({"hidden_cell": nn.Linear(9, 4)}, ValueError, "must take 7 features.* but takes 9"),
    ({"hidden_cell": nn.GRUCell(7, 5)}, ValueError, "hidden_size must be 5, that of the hidden"),
    ({"hidden_size": None}, ValueError, "hidden_size must be given"),
    ({"hidden_cell": nn.Linear(7, 4), "hidden_bias": True}, ValueError, "give your own module"),
    ({"encode_input": False}, ValueError, "must be input_size=2 memory_channels, got 1"),
    ({"dropout": 1.0}, ValueError, r"dropout must lie in \[0, 1\), got 1.0"),
    ({"recurrent_dropout": "a"}, TypeError, "recurrent_dropout must be a number, got 'a'"),
    (
        {"recurrent_dropout": 0.1, "hidden_to_memory": False, "memory_to_memory": False},
        ValueError,
        "drops what is fed back into the memory, and nothing is",
    ),
    ({"hidden_cell": nn.Linear(7, 4), "method": "blocks"}, ValueError, "'blocks' runs the default"),
    ({"encoder_activation": torch.tanh, "method": "triton"}, ValueError, "'triton' runs the"),
    ({"recurrent_dropout": 0.1, "method": "blocks"}, ValueError, "'blocks' runs the default"),
    (
        {"memory_channels": 2, "hidden_to_memory": False, "method": "parallel"},
        ValueError,
        "also memory_to_memory=False: what is fed back goes step by step",
    ),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), WRONG, ids=lambda v: str(v)[:30])
def test_wrong_arguments(arguments, kind, message):
    with pytest.raises(kind, match=message):
        LMU(**({"input_size": 2, "hidden_size": 4, "memory_size": 5, "theta": 12.0} | arguments))
