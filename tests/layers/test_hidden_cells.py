"""Every connection and hidden cell of the LMU against the equations, step by step in float64."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lmu import LMU, LMUCell, Stream, detach_state
from lmu.theory import discretize, legt
from tests import variants

F64 = torch.float64
FAST = {"blocks", "native", "native_blocks"}


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


CELLS: dict[str, Any] = {
    "rnn": lambda size: "rnn",
    "none": lambda size: None,
    "own": Doubling,
}
CELLS |= {
    name: lambda size, make=make: make(size, 4, dtype=F64) for name, make in variants.CELLS.items()
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
        if layer.hidden_cell == "rnn":
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


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
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
    ids=["bias", "no encoder", "tanh", "relu", "bilinear"],  # functions have addresses in theirs
)
def test_encoders(cell, feedback, flags):
    check(build(cell, hidden_to_memory=feedback, memory_to_memory=feedback, **flags))


@pytest.mark.parametrize("method", ["loop", "blocks", "parallel"])
@pytest.mark.parametrize("channels", [1, 2])
def test_biases_and_channels_by_every_method(method, channels):
    feedback = method != "parallel"
    layer = build(
        "rnn", channels=channels, memory_bias=True, hidden_bias=True, method=method,
        hidden_to_memory=feedback, memory_to_memory=feedback,
    )  # fmt: skip
    check(layer)
    assert layer.explain(500).method == method


def test_fast_paths_stay_in_use():
    assert build("rnn", channels=2, memory_bias=True).explain(500).method in FAST
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


@pytest.mark.parametrize("open_", [False, True])
@pytest.mark.parametrize(
    ("cell", "state", "kind", "message"),
    [
        (
            "lstm",
            (torch.zeros(2, 4), torch.zeros(3, 4)),
            ValueError,
            r"h must have the shape \(3, 4",
        ),
        (
            "lstm",
            torch.zeros(3, 4),
            TypeError,
            r"must be \(\(h, c\), m\), as the hidden cell is an",
        ),
        ("gru", torch.zeros(2, 4), ValueError, r"h must have the shape \(3, 4\), got \(2, 4\)"),
        ("gru", (torch.zeros(3, 4),) * 2, TypeError, "h must be a torch.Tensor, got tuple"),
        ("mlp", torch.zeros(3, 5), ValueError, r"h must have the shape \(3, 4\)"),
        ("own", (torch.zeros(2, 4),) * 2, ValueError, "must be of 3 sequences"),
    ],
)
def test_state_of_a_cell_must_fit(cell, state, kind, message, open_):
    """PyTorch's kernels check nothing: a state of another batch size would be read beyond."""
    layer = build(cell, hidden_to_memory=not open_)
    state = tree_map(lambda s: s.to(F64), state)
    with pytest.raises(kind, match=message):
        layer(torch.randn(3, 6, 2, dtype=F64), (state, torch.zeros(3, 5, dtype=F64)))


def test_what_tells_that_a_cell_has_a_state():
    torch._dynamo.reset()
    x = torch.randn(2, 9, 2, dtype=F64)
    cell = nn.GRUCell(7, 4, dtype=F64)
    right = LMU(2, None, 5, 12.0, hidden_cell=cell, dtype=F64)
    compiled = torch.compile(cell, backend="eager")
    layer = LMU(2, 4, 5, 12.0, hidden_cell=compiled, dtype=F64)  # pyright: ignore[reportArgumentType]
    layer.load_state_dict(right.state_dict(), strict=False)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), right(x))

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = cell

        def forward(self, *arguments: Any) -> Any:
            return self.inner(*arguments)

    with pytest.raises(TypeError, match="do not tell whether it takes a state: set its attribute"):
        LMU(2, 4, 5, 12.0, hidden_cell=Wrapped(), dtype=F64)
    wrapped: Any = Wrapped()
    wrapped.recurrent = True
    layer = LMU(2, 4, 5, 12.0, hidden_cell=wrapped, dtype=F64)
    layer.load_state_dict(right.state_dict(), strict=False)
    torch.testing.assert_close(layer(x), right(x))

    class Scaled(nn.Linear):
        def forward(self, input: Tensor, scale: float = 2.0) -> Tensor:
            return scale * super().forward(input)

    check(LMU(2, None, 5, 12.0, hidden_cell=Scaled(7, 4, dtype=F64), dtype=F64))


def test_batch_normalization_in_a_cell_does_not_see_padding():
    def fresh() -> LMU:
        torch.manual_seed(0)
        cell = nn.Sequential(nn.Linear(7, 4, dtype=F64), nn.BatchNorm1d(4, dtype=F64))
        return LMU(
            2, 4, 5, 12.0, hidden_cell=cell, hidden_to_memory=False, memory_to_memory=False,
            dtype=F64,
        )  # fmt: skip

    x = torch.randn(2, 9, 2, dtype=F64)
    y, (h, _) = fresh()(x, lengths=[9, 4])
    longer = nn.functional.pad(x, (0, 0, 0, 30), value=float("nan"))
    again, (h_again, _) = fresh()(longer, lengths=[9, 4])
    torch.testing.assert_close((again[:, :9], h_again), (y, h))
    flat = torch.cat([y[0], y[1, :4]])
    torch.testing.assert_close(flat.mean(0), torch.zeros(4, dtype=F64))


@pytest.mark.parametrize(
    "cell", [*(pytest.param(c, marks=pytest.mark.slow) for c in ("lstm", "mlp")), "rnn"]
)
def test_ragged_batches_compile_as_one_graph(cell):
    torch._dynamo.reset()
    layer = build(cell)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x, lengths = torch.randn(3, 9, 2, dtype=F64), torch.tensor([9, 3, 5])
    state = detach_state(layer(x)[1])
    for given in (None, state):
        torch.testing.assert_close(
            compiled(x, given, lengths=lengths), layer(x, given, lengths=lengths)
        )


def test_stream_of_a_cell_that_learns_its_first_state():
    class Started(nn.Module):
        hidden_size = 4

        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRUCell(7, 4, dtype=F64)
            self.first = nn.Parameter(torch.randn(4, dtype=F64))

        def forward(self, z: Tensor, h: Tensor | None = None) -> Tensor:
            return self.cell(z, self.first.expand(len(z), 4) if h is None else h)

    layer = LMU(2, 4, 5, 12.0, hidden_cell=Started(), hidden_to_memory=False, dtype=F64)
    x = torch.randn(3, 12, 2, dtype=F64)
    stream = Stream(layer, 3)
    got = torch.stack([stream(x_t) for x_t in x.unbind(1)], dim=1)
    torch.testing.assert_close((got, stream.state), layer(x))
    stream.reset([0, 2])  # pyright: ignore[reportArgumentType]
    fresh, going = layer(x)[0], layer(x, layer(x)[1])[0]
    got = torch.stack([stream(x_t) for x_t in x.unbind(1)], dim=1)
    torch.testing.assert_close(got, torch.stack([fresh[0], going[1], fresh[2]]))


def test_narrow_cells_under_autocast_give_what_can_be_fed_back():
    for cell in (nn.LSTMCell(7, 4), nn.RNNCell(7, 4), nn.Linear(7, 4)):
        for feedback in (False, True):
            layer = LMU(2, 4, 5, 12.0, hidden_cell=cell, hidden_to_memory=feedback)
            x = torch.randn(3, 9, 2)
            with torch.autocast("cpu", torch.bfloat16):
                y, state = layer(x)
                layer.return_sequences = False
                last, _ = layer(x)
            assert y.dtype == last.dtype == torch.float32
            again = layer(x, state)
            assert all(leaf.isfinite().all() for leaf in tree_leaves(again))


def test_dropout_is_of_the_whole_input_and_off_in_evaluation():
    layer = build("rnn", dropout=0.5)
    plain = build("rnn")
    x = torch.randn(2, 30, 2, dtype=F64)
    torch.testing.assert_close(layer.eval()(x), plain(x))
    torch.manual_seed(4)
    dropped = nn.functional.dropout(x, 0.5)
    torch.manual_seed(4)
    torch.testing.assert_close(layer.train()(x), plain(dropped))
    assert not torch.equal(layer(x)[0], plain(x)[0])


def test_recurrent_dropout_drops_what_is_fed_back():
    layer = build("rnn", recurrent_dropout=0.5)
    plain = build("rnn")
    x = torch.randn(2, 30, 2, dtype=F64)
    torch.testing.assert_close(layer.eval()(x), plain(x))
    assert layer.explain(500).method in FAST
    layer.train()
    assert layer.explain(500).method == "loop"
    first = layer(x)[0]
    assert not torch.equal(first, layer(x)[0])
    for encoder in (layer.e_h, layer.e_m, plain.e_h, plain.e_m):
        nn.init.zeros_(encoder)
    torch.testing.assert_close(layer(x), plain(x))  # nothing else is dropped


def test_recurrent_dropout_without_feedback_of_h():
    layer = build("rnn", recurrent_dropout=0.5, hidden_to_memory=False)
    x = torch.randn(2, 30, 2, dtype=F64)
    assert layer.explain(500).method == "loop"
    assert not torch.equal(layer(x)[0], layer(x)[0])
    assert layer.eval().explain(500).method == "parallel"
    torch.testing.assert_close(layer(x), build("rnn", hidden_to_memory=False)(x))


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_recurrent_dropout_is_the_same_at_all_steps_of_a_ragged_batch(cell):
    layer = build(cell, recurrent_dropout=0.5)
    x = torch.randn(3, 30, 2, dtype=F64)
    torch.manual_seed(4)
    whole = layer(x)[0]
    torch.manual_seed(4)
    ragged = layer(x, lengths=[30, 11, 20])[0]
    for i, n in enumerate([30, 11, 20]):
        torch.testing.assert_close(ragged[i, :n], whole[i, :n])


def test_initializers_come_last_and_must_name_parameters():
    layer: Any = LMU(2, 4, 3, 9.0, initializers={"e_x": nn.init.ones_, "W_m": nn.init.zeros_})
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
    (
        {"hidden_cell": "relu"},
        ValueError,
        "must be 'rnn', None or a module, got 'relu': pass it as hidden_",
    ),
    ({"hidden_cell": 3}, TypeError, "must be 'rnn', None or a module, got 3"),
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
    ({"hidden_cell": nn.GRU(7, 4)}, TypeError, "pass nn.GRUCell, not nn.GRU"),
    (
        {"hidden_cell": nn.GRUCell(7, 4), "dtype": F64},
        ValueError,
        "is torch.float32 on cpu but the",
    ),
    ({"encoder_activation": "tan"}, ValueError, "must be one of .*'tanh', 'relu'"),
    (
        {"encoder_activation": 3},
        TypeError,
        "must be one of .* or a function such as torch.tanh, got 3",
    ),
    ({"hidden_activation": "tan"}, ValueError, "hidden_activation must be one of"),
    ({"hidden_activation": None}, TypeError, "hidden_activation must be one of .* got None"),
    (
        {"hidden_activation": "relu", "hidden_cell": nn.Linear(7, 4)},
        ValueError,
        "hidden_activation is of the default cell",
    ),
    ({"initializers": nn.init.ones_}, TypeError, "must map names of parameters to functions"),
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


def test_hidden_size_is_compared_with_what_a_cell_gives():
    layer = LMU(2, 4, 5, 12.0, hidden_cell=nn.Sequential(nn.Linear(7, 5)), hidden_to_memory=False)
    with pytest.raises(ValueError, match="gives 5 features, and hidden_size is 4"):
        layer(torch.randn(1, 3, 2))


def test_forced_blocks_refuse_what_they_cannot_run():
    layer = build("rnn", method="blocks")
    x = torch.randn(2, 9, 2, dtype=F64)
    y, state = layer(x, lengths=[9, 4])
    torch.testing.assert_close(y[1, :4], layer(x[1:, :4])[0][0])
    with pytest.raises(ValueError, match="'blocks' cannot go on from a state, or"):
        layer(x, state, lengths=[9, 4])
