"""What is asked for on the way: memory states, windows, thetas; and activations with habits."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.functional import jacobian
from torch.nn.utils import prune

from lmu import LMU, LMUFFT, LMUCell, LMUStack, Stream
from lmu._arguments import explained, instance
from lmu.layers._stateful import has_state
from lmu.ops import memory
from tests import variants
from tests.variants import OPAQUE, SEQUENCES, each

F64 = torch.float64


@pytest.mark.parametrize("lengths", [None, [15, 6, 0]])
@pytest.mark.parametrize("kind", ["usual", "channels", "GRU", "bfloat16"])
def test_memory_states_and_inputs_on_request(kind, lengths):
    torch.manual_seed(0)
    options = {
        "usual": {"dtype": F64},
        "channels": {"memory_channels": 2, "memory_bias": True, "dtype": F64},
        "GRU": {"hidden_cell": nn.GRUCell(8, 4, dtype=F64), "dtype": F64},
        "bfloat16": {"dtype": torch.bfloat16},
    }[kind]
    layer = LMU(2, 4, 6, 12.0, **options)
    x = torch.randn(3, 15, 2, dtype=options["dtype"])
    got, after = layer.record(x, lengths=lengths)
    torch.testing.assert_close((got.output, after), layer(x, lengths=lengths))
    assert got.output.dtype == x.dtype
    c = layer.memory_channels
    right, _ = memory(got.u, layer.memory.Ad, layer.memory.Bd)
    for row, end in enumerate(lengths or [15] * 3):
        torch.testing.assert_close(got.m[row, :end], right.flatten(2)[row, :end])
    assert got.u.shape == (3, 15, c)
    assert got.m.shape == (3, 15, 6 * c)
    got.m.sum().backward()
    assert layer.e_x is not None
    assert layer.e_x.grad is not None


def test_windows_at_delays_of_each_row():
    layer = LMUCell(1, 2, 6, 12.0, dtype=F64)
    m = torch.randn(3, 6, dtype=F64)
    delays = torch.tensor([[0.0, 3.5], [2.0, 11.0], [1.0, -0.5]])
    right = torch.stack([layer.decode(m[i], delays[i]) for i in range(3)])
    torch.testing.assert_close(layer.decode(m, delays), right)
    assert layer.decode(m, delays[:, :1]).shape == (3, 1, 1)
    with pytest.raises(ValueError, match=r"or \(3, 'points'\) for each row of m, got \(2, 2\)"):
        layer.decode(m, delays[:2])


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("theta", [10.0, 784.0, 0.1, 1234.5])
def test_a_learned_theta_is_shown_as_it_was_asked_for(theta, dtype):
    layer = LMU(1, 2, 4, theta, learn_theta=True, dtype=dtype)
    assert layer.theta == theta
    several = LMUFFT(1, 2, 4, None, (theta, 3.0), memory_channels=2, learn_theta=True, dtype=dtype)
    assert several.theta == (theta, 3.0)
    with torch.no_grad():
        layer.memory.log_theta.add_(0.1)
    assert layer.theta == pytest.approx(layer.memory.log_theta.exp().item(), rel=1e-6)


def test_a_cell_without_hidden_units_takes_no_hidden_state():
    cell = LMUCell(2, None, 6, 12.0, hidden_cell=None, hidden_to_memory=False, dtype=F64)
    x, m = torch.randn(3, 2, dtype=F64), torch.randn(3, 6, dtype=F64)
    torch.testing.assert_close(cell(x, (None, m)), cell(x, (torch.zeros(3, 8, dtype=F64), m)))


IN_PLACE = [
    LMU(2, 4, 6, 12.0, encode_input=False, memory_channels=2, encoder_activation=torch.relu_),
    LMU(
        2, 4, 6, 12.0, encode_input=False, memory_channels=2, encoder_activation=nn.ReLU(True),
        hidden_to_memory=False, memory_to_memory=False,
    ),
    LMUFFT(2, 4, 6, None, 12.0, encode_input=False, memory_channels=2,
           encoder_activation=torch.tanh_),
]  # fmt: skip


@pytest.mark.parametrize("layer", IN_PLACE)
def test_an_activation_in_place_leaves_the_callers_input(layer):
    x = torch.randn(3, 9, 2)
    given = x.clone()
    y = layer(x)[0]
    state, stream = None, Stream(layer, 3)
    for x_t, y_t in zip(x.unbind(1), y.unbind(1), strict=True):
        got, state = layer.step(x_t, state)
        torch.testing.assert_close((got, stream(x_t)), (y_t, y_t))
    torch.testing.assert_close(x, given, rtol=0, atol=0)


class Leaky(nn.Module):
    """Keeps a state from call to call, as a spiking neuron does."""

    def __init__(self) -> None:
        super().__init__()
        self.v: Tensor | float = 0.0

    def forward(self, u: Tensor) -> Tensor:
        self.v = 0.9 * self.v + u
        return self.v


def test_an_activation_with_a_state_sees_one_step_after_another():
    torch.manual_seed(0)
    layer = LMU(
        2, 4, 6, 12.0, encoder_activation=Leaky(), hidden_to_memory=False, memory_to_memory=False
    )
    assert layer.explain(100).method == "loop"
    x = torch.randn(1, 9, 2)
    y = layer(x)[0]
    layer.encoder_activation.v = 0.0  # pyright: ignore[reportFunctionMemberAccess]
    state, outputs = None, []
    for x_t in x.unbind(1):
        h, state = layer.step(x_t, state)
        outputs.append(h)
    torch.testing.assert_close(torch.stack(outputs, dim=1), y)
    with pytest.raises(ValueError, match=r"has a state, .* use LMU\(hidden_to_memory=False"):
        LMUFFT(2, 4, 6, None, 12.0, encoder_activation=Leaky())


@pytest.mark.parametrize("activation", [nn.Dropout(0.5), nn.PReLU(), nn.RReLU(), torch.sin])
def test_other_activations_have_none(activation):
    layer = LMUFFT(2, 4, 6, None, 12.0, memory_channels=3, encoder_activation=activation)
    assert layer(torch.randn(1, 9, 2))[0].shape == (1, 9, 4)


@pytest.mark.filterwarnings("ignore:.torch.jit.script")
@each(
    [name for name in SEQUENCES if name not in OPAQUE and "both" not in name], expensive=True,
    quick={"LMU", "LMU-blocks", "LMU-e_m", "LMU-prelu", "LMUFFT", "LMUFFT-fft", "LMUFFT-theta",
           "LMUFFT-last", "LMUFFT-gelu", "memory"},
)  # fmt: skip
def test_many_gradients_at_once_and_forwards(name):
    layer = variants.build(name, hidden_size=3, memory_size=4, dtype=F64)
    x = variants.sample(layer, 17, 1, F64)
    run = lambda x: layer(x)[0]  # noqa: E731
    right = jacobian(run, x)
    torch.testing.assert_close(jacobian(run, x, vectorize=True), right)
    inputs = [x.requires_grad_(), *layer.parameters()]
    y = run(x).flatten()
    options: Any = {"allow_unused": True, "materialize_grads": True}
    apart = [torch.autograd.grad(y_i, inputs, retain_graph=True, **options) for y_i in y]
    one = torch.eye(len(y), dtype=F64, device=y.device)
    together = torch.autograd.grad(y, inputs, one, is_grads_batched=True, **options)
    for i, got in enumerate(together):
        torch.testing.assert_close(got, torch.stack([grads[i] for grads in apart]))
    if name == "LMU-blocks":
        return  # forced, and not to be had forwards: PyTorch says so
    x, v = x.detach(), torch.randn_like(x)
    torch.testing.assert_close(jacobian(run, x, vectorize=True, strategy="forward-mode"), right)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(run(forward_ad.make_dual(x, v))).tangent
    torch.testing.assert_close(tangent, torch.einsum("...btk,btk->...", right, v))


def test_states_are_found_wherever_they_are():
    """In a function around a module, in the hidden cell, in what is assigned later."""
    torch.manual_seed(0)
    x = torch.randn(2, 9, 2)
    neuron = Leaky()
    closed: dict[str, Any] = {"hidden_to_memory": False, "memory_to_memory": False}
    around = LMU(2, 4, 6, 12.0, encoder_activation=lambda u: neuron(u), **closed)
    cell: Any = nn.Sequential(nn.Linear(8, 4), Leaky())
    inside = LMU(2, 4, 6, 12.0, hidden_cell=cell, **closed)
    later = LMU(2, 4, 6, 12.0, encoder_activation=torch.tanh, **closed)
    later.encoder_activation = Leaky()
    pairs: Any = ((around, neuron), (inside, cell[1]), (later, later.encoder_activation))
    for layer, leaky in pairs:
        right = layer(x)[0]
        leaky.v, state, stream = 0.0, None, Stream(layer, 2)
        for x_t, right_t in zip(x.unbind(1), right.unbind(1), strict=True):
            y, state = layer.step(x_t, state)
            torch.testing.assert_close(y, right_t)
        leaky.v = 0.0
        stream = Stream(layer, 2)
        got = torch.stack([stream(x_t) for x_t in x.unbind(1)], dim=1)
        torch.testing.assert_close(got, right)
    with pytest.raises(ValueError, match="has a state"):
        LMUFFT(2, 4, 6, None, 12.0, encoder_activation=lambda u: neuron(u))


@pytest.mark.parametrize("kind", [LMU, LMUFFT])
def test_an_activation_sees_rows_as_in_a_step(kind):
    options = {"memory_channels": 3, "encoder_activation": nn.Softmax(dim=1)}
    if kind is LMU:
        layer = LMU(2, 4, 6, 12.0, hidden_to_memory=False, memory_to_memory=False, **options)
    else:
        layer = LMUFFT(2, 4, 6, None, 12.0, **options)
    x, state = torch.randn(2, 9, 2), None
    for x_t, right in zip(x.unbind(1), layer(x)[0].unbind(1), strict=True):
        y, state = layer.step(x_t, state)
        torch.testing.assert_close(y, right)


def test_hooks_make_the_weights_that_a_record_would_read():
    layer = LMU(2, 4, 6, 12.0)
    prune.identity(layer, "W_h")
    with pytest.raises(ValueError, match=r"remove it first, as by prune\.remove\(\)"):
        layer.record(torch.zeros(1, 3, 2))
    prune.remove(layer, "W_h")
    layer.record(torch.zeros(1, 3, 2))


def test_asking_an_activation_draws_nothing_from_the_callers_random_numbers():
    torch.manual_seed(5)
    right = torch.rand(3)
    torch.manual_seed(5)
    asked = has_state(nn.Sequential(nn.Dropout(0.5), nn.PReLU()))
    assert asked is False
    torch.testing.assert_close(torch.rand(3), right, rtol=0, atol=0)


def test_weights_that_hooks_make_are_no_state():
    linear = nn.Linear(3, 3)
    prune.l1_unstructured(linear, "weight", 0.5)
    linear(torch.randn(2, 3))  # now it cannot be copied
    assert has_state(linear, 3) is False


@pytest.mark.parametrize("lengths", [None, [9, 4]])
def test_a_call_asks_for_all_steps_or_the_last(lengths: list[int] | None) -> None:
    x = torch.randn(2, 9, 3)
    for kind in (
        lambda every: LMU(3, 4, 5, 9.0, return_sequences=every),
        lambda every: LMUFFT(3, 4, 5, theta=9.0, return_sequences=every),
        lambda every: LMUStack([LMUFFT(3, 4, 5, theta=9.0, return_sequences=every)]),
    ):
        torch.manual_seed(0)
        every = kind(True)
        last = kind(False)
        last.load_state_dict(every.state_dict())
        right = every(x, lengths=lengths)[0], last(x, lengths=lengths)[0]
        torch.testing.assert_close(last(x, lengths=lengths, return_sequences=True)[0], right[0])
        torch.testing.assert_close(every(x, lengths=lengths, return_sequences=False)[0], right[1])


def test_lack_of_memory_is_no_wrong_argument() -> None:
    @explained(x=instance(int))
    def lacks(x: int) -> None:
        raise RuntimeError(["can't allocate memory", "sizes do not match"][x])

    with pytest.raises(RuntimeError, match="can't allocate memory"):
        lacks(0)
    with pytest.raises(ValueError, match="does not fit together, x: 1: sizes do not match"):
        lacks(1)
