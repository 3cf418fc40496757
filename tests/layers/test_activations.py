"""Activations of hidden units: names, functions, modules; in streams, ragged batches, in place."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmu import LMU, LMUFFT, LMUCell, Stream
from lmu.ops import LMU_METHODS, READOUT_METHODS
from lmu.ops._activations import ACTIVATIONS
from tests import cores
from tests.variants import shifted

F64 = torch.float64
# A name or function, and what it computes, written out.
PLAIN: dict[str, Any] = {
    "tanh": lambda z: (z.exp() - (-z).exp()) / (z.exp() + (-z).exp()),
    "relu": lambda z: torch.where(z > 0, z, 0.0),
    "sigmoid": lambda z: 1 / (1 + (-z).exp()),
    "identity": lambda z: z,
    "gelu": lambda z: z / 2 * (1 + torch.erf(z / 2**0.5)),
}
OTHERS: dict[str, Any] = {
    "shifted": lambda: shifted,
    "lambda": lambda: lambda z: z.sin() + 0.5,
    "softmax": lambda: nn.Softmax(dim=1),
    "prelu": nn.PReLU,
    "prelu of each": lambda: nn.PReLU(7),
    "sequential": lambda: nn.Sequential(nn.Linear(7, 7), nn.SiLU()),
    "norm": lambda: nn.LayerNorm(7),
    "in place": lambda: nn.ReLU(inplace=True),
    "relu_": lambda: F.relu_,
    "tanh_": lambda: torch.tanh_,
    "hardtanh": lambda: nn.Hardtanh(inplace=True),
}
NAMES = [*PLAIN, *OTHERS]
LAYERS: dict[str, Any] = {
    "LMU": lambda f, **kw: LMU(3, 7, 6, 12.0, hidden_activation=f, **kw),
    "LMU, fed by m": lambda f, **kw: LMU(
        3, 7, 6, 12.0, hidden_activation=f, hidden_to_memory=False, **kw
    ),
    "LMU, open": lambda f, **kw: LMU(
        3, 7, 6, 12.0, hidden_activation=f, hidden_to_memory=False, memory_to_memory=False,
        hidden_bias=True, **kw,
    ),
    "LMU, channels": lambda f, **kw: LMU(
        3, 7, 6, (12.0, 9.0), memory_channels=2, hidden_activation=f, memory_bias=True, **kw
    ),
    "LMUFFT": lambda f, **kw: LMUFFT(3, 7, 6, theta=12.0, hidden_activation=f, **kw),
    "LMUFFT, bare": lambda f, **kw: LMUFFT(
        3, 7, 6, theta=12.0, hidden_activation=f, input_to_hidden=False, **kw
    ),
}  # fmt: skip
layers = pytest.mark.parametrize("kind", LAYERS)
names = pytest.mark.parametrize("name", NAMES)
SLOPES = pytest.mark.filterwarnings("ignore:.*in-place")


def build(kind: str, name: str, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    function = name if name in PLAIN else OTHERS[name]()
    layer = LAYERS[kind](function, **kwargs)
    with torch.no_grad():
        for key, parameter in layer.named_parameters():
            if key in {"e_m", "b_u", "b_h"}:
                nn.init.normal_(parameter, std=0.3)
            if key == "W_h":
                parameter.mul_(0.5)  # or a linear recurrence would grow
    return layer.to(kwargs.get("dtype", F64))


def signal(length: int = 33, batch: int = 3, **kwargs: Any) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.randn(batch, length, 3, dtype=F64, generator=g).to(kwargs.get("dtype", F64))


def equation(layer: Any, name: str, x: Tensor) -> Tensor:
    """Outputs of all steps, one after another, by the layer's weights."""
    f = PLAIN.get(name, layer.hidden_activation)
    c, d = layer.memory_channels, layer.memory_size
    Ad = layer.memory.Ad.expand(c, d, d)
    Bd = layer.memory.Bd.expand(c, d)
    h, m, outputs = x.new_zeros(len(x), 7), x.new_zeros(len(x), c, d), []
    for x_t in x.unbind(1):
        if isinstance(layer, LMUFFT):
            assert layer.W_u is not None
            u = torch.relu(layer.W_u(x_t))
        else:
            u = x_t @ layer.e_x.T
            for weight, fed in ((layer.e_h, h), (layer.e_m, m.flatten(1))):
                u = u if weight is None else u + fed @ weight.T
            u = u if layer.b_u is None else u + layer.b_u
        m = torch.einsum("cij,bcj->bci", Ad, m) + u[..., None] * Bd
        if isinstance(layer, LMUFFT):
            read = torch.cat([m.flatten(1), x_t], dim=1) if layer.input_to_hidden else m.flatten(1)
            z = layer.W_h(read)
        else:
            z = x_t @ layer.W_x.T + h @ layer.W_h.T + m.flatten(1) @ layer.W_m.T
            z = z if layer.b_h is None else z + layer.b_h
        h = f(z)
        outputs.append(h)
    return torch.stack(outputs, dim=1)


def slopes(y: Tensor, layer: Any, x: Tensor) -> tuple[Tensor, ...]:
    inputs = [x, *layer.parameters()]
    return torch.autograd.grad(y.square().sum(), inputs, allow_unused=True, materialize_grads=True)


@layers
@names
def test_outputs_and_gradients_are_the_equation(kind, name):
    layer, x = build(kind, name), signal().requires_grad_()
    y, right = layer(x)[0], equation(layer, name, x)
    torch.testing.assert_close(y, right)
    torch.testing.assert_close(slopes(y, layer, x), slopes(right, layer, x))
    torch.testing.assert_close(layer(x, return_sequences=False)[0], right[:, -1])


@pytest.mark.parametrize("name", [*PLAIN, "prelu"])
@pytest.mark.parametrize(
    "method", [cores.param(method) for method in LMU_METHODS if method != "triton"]
)
def test_every_method_runs_it_or_says_that_it_does_not(method, name):
    kind = "LMU, open" if method == "parallel" else "LMU"
    fused = name in PLAIN and ACTIVATIONS[name].backward is not None
    if method in {"blocks", "native", "native_blocks"} and not fused:
        with pytest.raises(ValueError, match=f"method '{method}' runs the activations tanh, relu"):
            build(kind, name, method=method)
        return
    layer, x = build(kind, name, method=method), signal()
    torch.testing.assert_close(layer(x)[0], equation(layer, name, x))
    assert layer.explain(500).method == method


def test_common_ones_stay_on_the_fast_paths():
    for name in ("tanh", "relu", "sigmoid", "identity"):
        assert build("LMU", name).explain(500).method in {"blocks", "native", "native_blocks"}
        assert build("LMU, open", name).explain(500).method == "parallel"
    for name in ("gelu", "prelu", "lambda"):
        choice = build("LMU", name).explain(500)
        assert choice.method == "loop"
        assert "activations tanh, relu" in choice.reason


@pytest.mark.parametrize(
    "method", [cores.param(name) for name in READOUT_METHODS if name != "triton"]
)
@pytest.mark.parametrize("name", [*PLAIN, "prelu", "softmax", "relu_"])
def test_every_method_of_the_parallel_layer(name, method):
    layer, x = build("LMUFFT", name, method=method), signal()
    torch.testing.assert_close(layer(x)[0], equation(layer, name, x))


@layers
@names
def test_streams_and_steps(kind, name):
    layer, x = build(kind, name), signal(25)
    given = x.clone()
    right, state = equation(layer, name, x), None
    stream = Stream(layer, 3)
    for x_t, right_t in zip(x.unbind(1), right.unbind(1), strict=True):
        y, state = layer.step(x_t, state)
        torch.testing.assert_close((y, stream(x_t)), (right_t, right_t))
    h, m = stream.state
    torch.testing.assert_close((h, m), state)
    torch.testing.assert_close(h, right[:, -1])
    some = stream(x[:2, 0], streams=[2, 0])
    again = layer.step(x[[1, 0, 0], 0], state)[0]
    torch.testing.assert_close(some, again[[2, 0]])
    torch.testing.assert_close(x, given, rtol=0, atol=0)


@layers
@names
def test_each_sequence_of_a_ragged_batch_is_as_alone(kind, name):
    """Padding must not run: sigmoid and others are not zero where nothing comes in."""
    layer, x, lengths = build(kind, name), signal(), [33, 8, 0]
    padded = x.clone()
    padded[1, 8:], padded[2] = torch.nan, torch.nan
    padded.requires_grad_()
    y, h = layer(padded, lengths=lengths)
    h = h if isinstance(h, Tensor) else h[0]
    torch.testing.assert_close(y[0], layer(x[:1])[0][0])
    torch.testing.assert_close(y[1, :8], layer(x[1:2, :8])[0][0])
    torch.testing.assert_close(h, torch.stack([y[0, -1], y[1, 7], torch.zeros(7, dtype=F64)]))
    assert not y[1, 8:].any()
    assert not y[2].any()
    y.square().sum().backward()
    assert padded.grad is not None
    assert padded.grad.isfinite().all()
    assert not padded.grad[1, 8:].any()
    last = layer(padded, lengths=lengths, return_sequences=False)[0]
    torch.testing.assert_close(last, h)


@pytest.mark.parametrize("kind", ["LMU", "LMU, open", "LMUFFT"])
@pytest.mark.parametrize("name", ["sigmoid", "gelu", "prelu", "shifted"])
def test_a_ragged_batch_goes_on_from_a_state(kind, name):
    layer, x, lengths = build(kind, name), signal(), [33, 8, 0]
    options = getattr(layer, "with_state", {})
    _, state = layer(signal(5).flip(0), **options)
    y, (h, m) = layer(x, state, lengths=lengths, **options)
    for i, n in enumerate(lengths):
        before = tuple(s[i : i + 1] for s in state)
        if n:
            right, before = layer(x[i : i + 1, :n], before, **options)
            torch.testing.assert_close(y[i, :n], right[0])
        torch.testing.assert_close((h[i : i + 1], m[i : i + 1]), tuple(before))


@pytest.mark.parametrize("name", ["in place", "relu_", "tanh_", "hardtanh"])
@pytest.mark.parametrize("kind", LAYERS)
def test_one_in_place_leaves_inputs_and_states(kind, name):
    layer, x = build(kind, name), signal()
    given, options = x.clone(), getattr(layer, "with_state", {})
    _, state = layer(x, **options)
    before = tuple(s.clone() for s in state)
    first = layer(x, state, **options)[0].clone()
    layer.step(x[:, 0], state)
    torch.testing.assert_close(layer(x, state, **options)[0], first, rtol=0, atol=0)
    torch.testing.assert_close(tuple(state), before, rtol=0, atol=0)
    torch.testing.assert_close(x, given, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", ["sigmoid", "gelu", "prelu", "sequential", "norm"])
def test_narrow_layers(name, kind, dtype):
    layer, x = build(kind, name, dtype=dtype), signal(20, dtype=dtype)
    exact = copy.deepcopy(layer).double()
    y = layer(x)[0]
    right = exact(x.double())[0]
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), right, rtol=0, atol=0.06)
    stream = Stream(layer, 3)
    got = torch.stack([stream(x_t) for x_t in x.unbind(1)], dim=1)
    torch.testing.assert_close(got.double(), right, rtol=0, atol=0.06)
    y.float().square().sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad is not None
        assert parameter.grad.dtype == parameter.dtype


@pytest.mark.parametrize("feedback", [False, True])
@pytest.mark.parametrize("name", ["prelu", "linear"])
def test_a_module_that_encodes_in_a_narrow_layer(name, feedback):
    encoder = nn.PReLU() if name == "prelu" else nn.Linear(1, 1)
    given = {"hidden_to_memory": feedback, "memory_to_memory": feedback}
    layer = LMU(3, 7, 6, 12.0, encoder_activation=encoder, **given).bfloat16()
    x = signal(20, dtype=torch.bfloat16)
    right = copy.deepcopy(layer).double()(x.double())[0]
    torch.testing.assert_close(layer(x)[0].double(), right, rtol=0, atol=0.06)
    fast = LMUFFT(3, 7, 6, theta=12.0, encoder_activation=encoder).bfloat16()
    stream, y = Stream(fast, 3), fast(x)[0]
    got = torch.stack([stream(x_t) for x_t in x.unbind(1)], dim=1)
    torch.testing.assert_close(got, y, rtol=0, atol=0.03)


@pytest.mark.parametrize("kind", LAYERS)
def test_modules_train_with_the_layer(kind):
    layer, x = build(kind, "prelu"), signal()
    assert "hidden_activation.weight" in dict(layer.named_parameters())
    layer(x)[0].square().sum().backward()
    assert layer.hidden_activation.weight.grad.abs() > 0
    nn.init.constant_(layer.hidden_activation.weight, 9.0)
    layer.reset_parameters()
    assert layer.hidden_activation.weight == 0.25
    dropped = build(kind, "prelu")
    dropped.hidden_activation = nn.Dropout(0.5)
    assert not torch.equal(dropped(x)[0], dropped(x)[0])
    right = dropped.eval()(x)[0]
    stream = Stream(dropped.train(), 3)  # a stream is of evaluation, and leaves the module
    got = torch.stack([stream(x_t) for x_t in x.unbind(1)], dim=1)
    torch.testing.assert_close(got, right)
    assert dropped.hidden_activation.training


class Leaky(nn.Module):
    """Keeps a state from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.v: Tensor | float = 0.0

    def forward(self, z: Tensor) -> Tensor:
        self.v = 0.9 * self.v + z
        return self.v


def test_one_with_a_state_sees_steps_in_their_order():
    with pytest.raises(ValueError, match=r"hidden_activation has a state, .* use LMU\("):
        LMUFFT(3, 7, 6, theta=12.0, hidden_activation=Leaky())
    torch.manual_seed(0)
    for feedback in (False, True):
        leaky: Any = Leaky()
        layer = LMU(
            3, 7, 6, 12.0, hidden_activation=leaky, hidden_to_memory=feedback,
            memory_to_memory=feedback,
        )  # fmt: skip
        x = torch.randn(2, 9, 3)
        right = layer(x)[0]
        leaky.v, state = 0.0, None
        for x_t, right_t in zip(x.unbind(1), right.unbind(1), strict=True):
            y, state = layer.step(x_t, state)
            torch.testing.assert_close(y, right_t)


def test_a_cell_is_one_step_of_the_layer():
    for name in NAMES:
        function = name if name in PLAIN else OTHERS[name]()
        layer = build("LMU", name)
        cell = LMUCell(3, 7, 6, 12.0, hidden_activation=function).double()
        cell.load_state_dict(layer.state_dict())
        x, state, outputs = signal(9), None, []
        for x_t in x.unbind(1):
            state = cell(x_t, state)
            outputs.append(state[0])
        torch.testing.assert_close(torch.stack(outputs, dim=1), layer(x)[0])


@pytest.mark.parametrize("layer", [LMU, LMUCell, LMUFFT])
@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("tan", ValueError, r"hidden_activation must be one of \['tanh', .* got 'tan'"),
        (None, TypeError, "hidden_activation must be one of .* got None"),
        (3, TypeError, "hidden_activation must be one of .* got 3"),
        (["relu"], TypeError, "hidden_activation must be one of"),
    ],
)
def test_wrong_activations(layer, value, kind, message):
    with pytest.raises(kind, match=message):
        layer(3, 7, 6, theta=12.0, hidden_activation=value)


@pytest.mark.parametrize(
    ("argument", "kind"),
    [("hidden_activation", kind) for kind in LAYERS]
    + [("encoder_activation", kind) for kind in LAYERS if "FFT" not in kind],
)
@pytest.mark.parametrize(
    "wrong", [lambda z: z[:, :0], lambda z: z[:1], lambda z: 3.0, lambda z: torch.cat([z, z], 1)]
)
def test_one_that_gives_another_shape_is_told(wrong, argument, kind):
    layer = build(kind, "tanh")
    setattr(layer, argument, wrong)
    x = signal()
    stream = Stream(layer, 3)
    for call in (lambda: layer(x), lambda: layer.step(x[:, 0]), lambda: stream(x[:, 0]),
                 lambda: layer(x, lengths=[33, 8, 0]),
                 lambda: layer(x, return_sequences=False)):  # fmt: skip
        with pytest.raises(ValueError, match="an activation must give a tensor of the shape that"):
            call()


def test_repr_names_it():
    assert "hidden_activation='gelu'" in repr(LMU(3, 7, 6, 12.0, hidden_activation="gelu"))
    assert "hidden_activation=shifted" in repr(LMU(3, 7, 6, 12.0, hidden_activation=shifted))
    assert "hidden_activation" not in repr(LMU(3, 7, 6, 12.0, hidden_activation="tanh"))
    assert "hidden_activation='tanh'" in repr(LMUFFT(3, 7, 6, 9, 12.0, hidden_activation="tanh"))
