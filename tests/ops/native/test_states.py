"""Memory states and their read-out in the compiled core, against plain operations in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lmu import LMUFFT
from lmu.ops import memory, native, readout
from lmu.ops.native.states_plan import LONGEST, layout_of
from lmu.ops.readout import native_layer
from lmu.ops.readout.naive import naive
from lmu.ops.readout.native_last import encoded_last
from lmu.ops.readout.native_layer import encoded_readout
from lmu.ops.system import System
from lmu.theory import discretize, legt
from tests import cores

F64 = torch.float64
pytestmark = pytest.mark.usefixtures("built")
# batch, time, channels, input, order, hidden: chunks of one and several lengths, tiles that are
# not full, channels that share vectors and the last of them alone; short sequences of high order.
SIZES = [
    (1, 1, 1, 1, 1, 1),
    (5, 61, 3, 2, 5, 9),
    (2, 300, 5, 3, 4, 20),
    (1, 257, 2, 1, 33, 17),
    (19, 70, 1, 1, 8, 65),
    (3, 16, 2, 2, 40, 20),
    (9, 29, 1, 1, 33, 5),
]
sizes = pytest.mark.parametrize("size", SIZES, ids=str)
started = pytest.mark.parametrize("started", [False, True])


@pytest.fixture
def built() -> None:
    cores.need()


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=F64)


def systems(channels: int, order: int, own: bool) -> tuple[Tensor, Tensor]:
    if not own:
        return discretize(*legt(order, 40.0))
    each = [discretize(*legt(order, 30.0 + 15 * c)) for c in range(channels)]
    Ad, Bd = zip(*each, strict=True)
    return torch.stack(Ad), torch.stack(Bd)


def gradients(call: Any, inputs: dict[str, Any]) -> list[Tensor]:
    """Results and gradients of all inputs, by fixed random seeds."""
    inputs = {k: t.clone().requires_grad_() for k, t in inputs.items() if t is not None}
    results = call(**inputs)
    g = torch.Generator().manual_seed(0)
    seeds = [torch.randn(r.shape, dtype=F64, generator=g).to(r.dtype) for r in results]
    return [*results, *torch.autograd.grad(results, [*inputs.values()], seeds)]


def compare(got: list[Tensor], right: list[Tensor], dtype: torch.dtype) -> None:
    bound = 1e-5 if dtype == torch.float32 else 1e-12
    for a, b in zip(got, right, strict=True):
        assert a.shape == b.shape
        assert (a.double() - b).norm() <= bound * (b.norm() + 1e-3)


def narrowed(inputs: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """All but the dynamics in ``dtype``, and so exactly known to float64."""
    return {
        k: t if t is None or k in {"Ad", "Bd"} else t.to(dtype) for k, t in inputs.items()
    }  # fmt: skip


def readout_inputs(size: tuple[int, ...], own: bool, started: bool) -> dict[str, Any]:
    batch, length, channels, features, order, hidden = size
    Ad, Bd = systems(channels, order, own)
    return {
        "u": draw(batch, length, channels), "x": draw(batch, length, features), "Ad": Ad, "Bd": Bd,
        "W_m": draw(hidden, channels * order) / order, "W_x": draw(hidden, features),
        "bias": draw(hidden), "m_0": draw(batch, channels, order) if started else None,
    }  # fmt: skip


def each_channel(method: str):
    """A read-out whose channels are read one by one, where they have dynamics of their own."""

    def call(u: Tensor, x: Tensor, Ad: Tensor, Bd: Tensor, W_m: Tensor, W_x: Tensor, bias: Tensor,
             m_0: Tensor | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
        if Ad.ndim == 2:
            return naive(u, x, Ad, Bd, W_m, W_x, bias, m_0, "tanh")
        m, m_n = memory(u, Ad, Bd, m_0, method=method)
        return torch.tanh(m.flatten(2) @ W_m.mT + x @ W_x.mT + bias), m_n

    return call


@sizes
@started
@pytest.mark.parametrize("own", [False, True])
def test_read_out_and_all_gradients(variant, dtype, size, started, own):
    inputs = narrowed(readout_inputs(size, own, started), dtype)
    wide = {k: None if t is None else t.double() for k, t in inputs.items()}
    got = gradients(lambda **t: readout(**t, method="native", activation="tanh"), inputs)
    compare(got, gradients(each_channel("naive"), wide), dtype)


@sizes
@started
@pytest.mark.parametrize("own", [False, True])
def test_states_and_all_gradients(variant, dtype, size, started, own):
    inputs = narrowed(readout_inputs(size, own, started), dtype)
    inputs = {k: inputs[k] for k in ("u", "Ad", "Bd", "m_0")}
    wide = {k: None if t is None else t.double() for k, t in inputs.items()}
    got = gradients(lambda **t: memory(**t, method="native"), inputs)
    compare(got, gradients(lambda **t: memory(**t, method="naive"), wide), dtype)


def layer_inputs(size: tuple[int, ...], started: bool, joined: bool) -> dict[str, Any]:
    batch, length, channels, features, order, hidden = size
    return {
        "x": draw(batch, length, features), "W_u": draw(channels, features), "b_u": draw(channels),
        "W_h": draw(hidden, channels * order + features * joined) / order, "b_h": draw(hidden),
        "m_0": draw(batch, channels, order) if started else None,
    }  # fmt: skip


def whole_layer(order: int, encoder: str = "relu", activation: str = "sigmoid", own: int = 0):
    system = System(*systems(own, order, own > 0), constant=True)

    def call(x: Tensor, W_u: Tensor, b_u: Tensor, W_h: Tensor, b_h: Tensor,
             m_0: Tensor | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
        return encoded_readout(x, W_u, b_u, encoder, system, W_h, b_h, m_0, activation)

    return call


def part_by_part(order: int, own: int = 0):
    Ad, Bd = systems(own, order, own > 0)

    def call(x: Tensor, W_u: Tensor, b_u: Tensor, W_h: Tensor, b_h: Tensor,
             m_0: Tensor | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
        m, m_n = memory(torch.relu(x @ W_u.mT + b_u), Ad, Bd, m_0, method="naive")
        joined = torch.cat([m.flatten(2), x[..., : W_h.shape[1] - len(W_u) * order]], dim=2)
        return torch.sigmoid(joined @ W_h.mT + b_h), m_n

    return call


@sizes
@started
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_whole_layer_and_all_gradients(variant, dtype, size, started, joined, own):
    inputs = narrowed(layer_inputs(size, started, joined), dtype)
    wide = {k: None if t is None else t.double() for k, t in inputs.items()}
    each = size[2] if own else 0
    got = gradients(whole_layer(size[4], own=each), inputs)
    compare(got, gradients(part_by_part(size[4], each), wide), dtype)


def last_of_all(order: int, own: int = 0):
    Ad, Bd = systems(own, order, True) if own else systems(1, order, False)
    system = System(Ad, Bd, constant=True)

    def call(x: Tensor, W_u: Tensor, b_u: Tensor, W_h: Tensor, b_h: Tensor) -> tuple[Tensor, ...]:
        return encoded_last(x, W_u, b_u, "relu", system, W_h, b_h, "sigmoid")

    def all_steps(x: Tensor, W_u: Tensor, b_u: Tensor, W_h: Tensor, b_h: Tensor):
        m = memory(torch.relu(x @ W_u.mT + b_u), Ad, Bd, method="naive")[0][:, -1]
        read = x[:, -1, : W_h.shape[1] - m[0].numel()]
        return torch.sigmoid(torch.cat([m.flatten(1), read], dim=1) @ W_h.mT + b_h), m

    return call, all_steps


# More rows than are taken at once, and few; a single input and channel, whose steps fill vectors.
@pytest.mark.parametrize("size", [*SIZES, (130, 20, 2, 1, 17, 7), (3, 40, 1, 1, 6, 5)], ids=str)
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_last_output_and_all_gradients(variant, dtype, size, joined, own):
    inputs = narrowed(layer_inputs(size, False, joined), dtype)
    wide = {k: None if t is None else t.double() for k, t in inputs.items()}
    call, all_steps = last_of_all(size[4], size[2] if own else 0)
    compare(gradients(call, inputs), gradients(all_steps, wide), dtype)


def test_last_output_can_be_differentiated_twice():
    inputs = layer_inputs((2, 5, 2, 2, 3, 4), False, True)
    values = [t.requires_grad_() for t in inputs.values() if t is not None]
    call = last_of_all(3)[0]
    assert torch.autograd.gradcheck(call, values, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, values, atol=1e-4, fast_mode=True)


def test_one_response_serves_all_lengths():
    """Shorter sequences read the last part of a longer one's."""
    call, all_steps = last_of_all(6)
    for length in (33, 5, 64, 1, 100):
        inputs = layer_inputs((3, length, 2, 2, 6, 5), False, True)
        compare(gradients(call, inputs), gradients(all_steps, inputs), F64)


@started
def test_whole_layer_can_be_differentiated_twice(started):
    inputs = layer_inputs((2, 5, 2, 2, 3, 4), started, True)
    known = {k: t.requires_grad_() for k, t in inputs.items() if t is not None}

    def call(*values: Tensor) -> tuple[Tensor, ...]:
        return whole_layer(3, "tanh", "tanh")(**dict(zip(known, values, strict=True)))

    values = [*known.values()]
    assert torch.autograd.gradcheck(call, values, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, values, atol=1e-4, fast_mode=True)


@pytest.mark.parametrize("size", [SIZES[2], SIZES[4]], ids=str)
def test_results_repeat_to_the_bit_in_any_number_of_threads(threads, size):
    inputs = narrowed(layer_inputs(size, True, True), torch.float32)
    first = gradients(whole_layer(size[4]), inputs)
    for _ in range(3):
        again = gradients(whole_layer(size[4]), inputs)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_gradients_of_some_arguments_alone(threads):
    inputs = layer_inputs((3, 200, 2, 2, 5, 6), True, True)
    names = [k for k, t in inputs.items() if t is not None]
    every = dict(zip(names, gradients(whole_layer(5), inputs)[2:], strict=True))
    for name in names:
        one = {k: t.clone().requires_grad_(k == name) for k, t in inputs.items()}
        results = whole_layer(5)(**one)
        g = torch.Generator().manual_seed(0)
        seeds = [torch.randn(r.shape, dtype=F64, generator=g) for r in results]
        (got,) = torch.autograd.grad(results, [one[name]], seeds)
        torch.testing.assert_close(got, every[name], rtol=1e-12, atol=1e-12)


def test_inputs_may_have_any_strides(variant):
    inputs: dict[str, Any] = readout_inputs((4, 90, 3, 2, 5, 6), False, True)
    right = readout(**inputs, method="native")
    strided: dict[str, Any] = {
        k: t.mT.contiguous().mT if isinstance(t, Tensor) and t.ndim > 1 else t
        for k, t in inputs.items()
    }
    assert not strided["W_m"].is_contiguous()
    torch.testing.assert_close(readout(**strided, method="native"), right)


def test_a_wide_state_goes_on_as_if_never_cut():
    """Float32 inputs in pieces, with the state between them in float64."""
    Ad, Bd = discretize(*legt(64, 5000.0))
    u = torch.ones(1, 4000, 1)
    right = memory(u.double(), Ad, Bd, method="naive")[1]
    m = torch.zeros(1, 1, 64, dtype=F64)
    for piece in u.split(40, dim=1):
        m = memory(piece, Ad, Bd, m, method="native")[1]
    assert m.dtype == F64
    assert (m - right).norm() / right.norm() < 1e-6


def test_float32_errs_by_no_more_than_its_digits_at_order_512():
    Ad, Bd = discretize(*legt(512, 4096.0))
    u = torch.rand(1, 4096, 1)
    right, last = memory(u.double(), Ad, Bd, method="naive")
    m, m_n = memory(u, Ad, Bd, method="native")
    assert (m - right).norm() / right.norm() < 2e-6
    assert (m_n - last).norm() / last.norm() < 2e-6


@pytest.mark.parametrize("position", [0, 40, 149])
def test_no_output_knows_what_comes_later(position):
    """Not even one that is NaN or infinite, as with a Fourier transform."""
    inputs = readout_inputs((2, 150, 2, 2, 5, 6), False, True)
    before = readout(**inputs, method="native")[0]
    inputs["u"][0, position] = torch.nan
    inputs["x"][0, position] = torch.inf
    after = readout(**inputs, method="native")[0]
    assert torch.equal(after[0, :position], before[0, :position])
    assert torch.equal(after[1], before[1])
    assert after[0, position].isnan().all()


def test_layouts_cover_time_and_fill_vectors():
    for batch in (1, 7, 100):
        for length in (1, 15, 16, 64, 65, 1000, 4001):
            for channels, order in ((1, 1), (16, 4), (5, 7), (3, 33)):
                for size, count in ((4, 1), (8, 2)):
                    o = layout_of(batch, length, channels, order, 64, size, count)
                    assert o.chunk <= LONGEST
                    assert 1 <= o.first(length) <= o.chunk
                    assert o.groups * o.inputs >= channels > (o.groups - 1) * o.inputs
                    assert o.width == o.inputs * order <= o.padded
                    assert o.padded * size % 64 == 0


def test_short_sequences_of_high_order_are_sums_of_responses():
    assert layout_of(1, 16, 3, 17, 64, 4, 2).direct
    assert layout_of(2, 64, 1, 468, 64, 4, 2).direct
    assert layout_of(1, 64, 1, 468, 64, 4, 2).direct
    assert not layout_of(1, 16, 3, 17, 64, 4, 2, constant=False).direct
    assert not layout_of(8, 65, 1, 468, 64, 4, 2).direct
    assert not layout_of(8, 18, 1, 17, 64, 4, 2).direct
    assert not layout_of(8, 4, 4, 6, 64, 4, 2).direct


def test_no_memory_is_reported(monkeypatch):
    monkeypatch.setattr(native, "run", lambda *_: (_ for _ in ()).throw(MemoryError("no memory")))
    with pytest.raises(MemoryError, match="no memory"):
        readout(**readout_inputs(SIZES[1], False, False), method="native")


def calls_of(monkeypatch: pytest.MonkeyPatch, layer: LMUFFT, x: Tensor) -> int:
    """How many times a layer is run whole."""
    count = 0
    original = native_layer.EncodedReadout.apply

    def apply(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        return original(*arguments)

    monkeypatch.setattr(native_layer.EncodedReadout, "apply", apply)
    layer(x)
    monkeypatch.undo()
    return count


@pytest.mark.parametrize(
    ("options", "whole"),
    [
        ({}, 1),
        ({"hidden_activation": "tanh", "encoder_activation": torch.tanh}, 1),
        ({"input_to_hidden": False, "encoder_activation": None}, 1),
        ({"hidden_activation": "gelu"}, 0),
        ({"hidden_activation": torch.sin}, 0),
        ({"encoder_activation": torch.sin}, 0),
        ({"encode_input": False}, 0),
        ({"learn_a": True}, 0),
        ({"learn_theta": True}, 0),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_layers_run_whole_where_nothing_in_them_is_called(monkeypatch, options, whole):
    layer = LMUFFT(2, 8, 5, theta=20.0, memory_channels=2, method="native", **options)
    x = torch.randn(3, 30, 2)
    assert calls_of(monkeypatch, layer, x) == whole
    with native.use(None):
        layer.method = "chunked"
        right = layer(x)
    layer.method = "native"
    torch.testing.assert_close(layer(x), right, rtol=1e-5, atol=1e-5)


def test_hooks_are_called_though_a_layer_could_run_whole(monkeypatch):
    layer, x = LMUFFT(2, 8, 5, theta=20.0, method="native"), torch.randn(3, 30, 2)
    assert calls_of(monkeypatch, layer, x) == 1
    encoder = layer.W_u
    assert isinstance(encoder, nn.Linear)
    seen = []
    handle = encoder.register_forward_hook(lambda *_: seen.append(1))
    assert calls_of(monkeypatch, layer, x) == 0
    assert seen
    handle.remove()
    assert calls_of(monkeypatch, layer, x) == 1
