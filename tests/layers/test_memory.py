"""The Legendre memory alone, against its equation written out in float64."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lmu import LMU, LMUFFT, LegendreMemory, LMUCell, Stream
from lmu.layers.memory import STATES
from lmu.ops import READOUT_METHODS
from lmu.theory import decode_window, discretize, legt
from tests import cores, variants
from tests.variants import MEMORIES, each

F64 = torch.float64
THETAS = (12.0, 9.0, 30.0)
READOUTS = [name for name in READOUT_METHODS if name != "triton"]


def build(theta: Any = THETAS, **kwargs: Any) -> LegendreMemory:
    options: dict[str, Any] = {"dtype": F64} | kwargs
    return LegendreMemory(6, theta, 3, **options)


def signal(length: int = 40, batch: int = 4, **kwargs: Any) -> Tensor:
    g = torch.Generator().manual_seed(2)
    return torch.randn(batch, length, 3, dtype=F64, generator=g).to(kwargs.get("dtype", F64))


def equation(u: Tensor, m: Tensor | None = None, discretizer: str = "zoh") -> Tensor:
    """``m_t = Ad m_{t-1} + Bd u_t`` of each channel and step, (batch, time, channels * order)."""
    systems = [discretize(*legt(6, theta), discretizer) for theta in THETAS]  # pyright: ignore
    m = u.new_zeros(len(u), 18) if m is None else m.to(F64)
    states = []
    for u_t in u.to(F64).unbind(1):
        parts = [
            m[:, 6 * c : 6 * c + 6] @ Ad.T + u_t[:, c : c + 1] * Bd
            for c, (Ad, Bd) in enumerate(systems)
        ]
        m = torch.cat(parts, dim=1)
        states.append(m)
    return torch.stack(states, dim=1)


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("length", [1, 2, 40])
@pytest.mark.parametrize("method", ["auto", *map(cores.param, STATES)])
@pytest.mark.parametrize("discretizer", ["zoh", "bilinear", "euler-unchecked"])
def test_states_are_the_equation(discretizer, method, length, started):
    memory, u = build(method=method, discretizer=discretizer), signal(length)
    m_0 = torch.randn(4, 18, dtype=F64) if started else None
    m, m_n = memory(u, m_0)
    right = equation(u, m_0, discretizer)
    torch.testing.assert_close((m, m_n), (right, right[:, -1]))
    torch.testing.assert_close(memory.final(u, m_0), right[:, -1])


def test_one_channel_is_the_default():
    memory = LegendreMemory(6, 12.0, dtype=F64)
    m, m_n = memory(signal()[..., :1])
    torch.testing.assert_close(m, equation(signal())[..., :6])
    assert m_n.shape == (4, 6)
    assert memory.channels == 1


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("method", ["auto", *map(cores.param, READOUTS)])
@pytest.mark.parametrize("activation", ["identity", "relu", "gelu", torch.sin, nn.Softmax(dim=1)])
def test_a_readout_is_one_of_the_states(activation, method, started):
    memory, u = build(), signal()
    W, b = torch.randn(5, 18, dtype=F64), torch.randn(5, dtype=F64)
    m_0 = torch.randn(4, 18, dtype=F64) if started else None
    m = equation(u, m_0)
    named = {"identity": lambda z: z, "relu": torch.relu, "gelu": nn.functional.gelu}
    function = named.get(activation, activation)
    z = m @ W.T + b
    right = function(z.flatten(0, 1)).view_as(z)
    y, m_n = memory.readout(u, W, m_0, bias=b, activation=activation, method=method)
    torch.testing.assert_close((y, m_n), (right, m[:, -1]))
    y, _ = memory.readout(u, W, m_0, method=method)
    torch.testing.assert_close(y, m @ W.T)


def test_gradients_of_a_readout():
    memory, u = build(learn_a=True, learn_b=True), signal(6, 2).requires_grad_()
    W, b, m_0 = (torch.randn(n, dtype=F64, requires_grad=True) for n in ((2, 18), (2,), (2, 18)))

    def read(u, W, b, m_0, Ad, Bd):
        parameters = {"Ad": Ad, "Bd": Bd}
        with torch.nn.utils.stateless._reparametrize_module(memory, parameters):
            return memory.readout(u, W, m_0, bias=b, activation="tanh")

    given = (u, W, b, m_0, memory.Ad, memory.Bd)
    assert torch.autograd.gradcheck(read, given, fast_mode=True)


@each(MEMORIES)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_steps_are_the_whole(name, dtype):
    memory = variants.build(name, dtype=dtype)
    u = variants.sample(memory, 53, dtype=dtype)
    m, m_n = memory(u)
    state, states = None, []
    for u_t in u.unbind(1):
        state = memory.step(u_t, state)
        states.append(state)
    torch.testing.assert_close(torch.stack(states, dim=1), m)
    torch.testing.assert_close(state, m_n)


def test_the_window_is_read_from_the_state():
    theta, order = 50.0, 16
    memory = LegendreMemory(order, theta, 2, dtype=F64)
    t = torch.arange(200, dtype=F64)
    u = torch.stack([torch.sin(t / 9), torch.cos(t / 13)], dim=1)[None]
    m, m_n = memory(u)
    delays = torch.arange(5, 45, 4)
    got = memory.decode(m_n, delays)
    torch.testing.assert_close(got[0], u[0, 199 - delays], rtol=0, atol=2e-3)
    r = (delays.double() + 0.5) / theta
    for c in range(2):
        part = m_n[:, c * order : (c + 1) * order]
        torch.testing.assert_close(got[..., c], decode_window(part, r))
    assert memory.decode(m).shape == (1, 200, 50, 2)
    layers = (LMU(1, 2, order, theta, memory_channels=2, dtype=F64),
              LMUCell(1, 2, order, theta, memory_channels=2, dtype=F64),
              LMUFFT(1, 2, order, theta=theta, memory_channels=2, dtype=F64))  # fmt: skip
    for layer in layers:
        torch.testing.assert_close(layer.decode(m_n, delays), got, rtol=0, atol=0)


def test_windows_of_channels_are_read_with_their_own_lengths():
    memory = build()
    m = torch.randn(4, 18, dtype=F64)
    got = memory.decode(m, [0.0, 3.25])
    for c, theta in enumerate(THETAS):
        r = torch.tensor([0.5, 3.75], dtype=F64) / theta
        torch.testing.assert_close(got[..., c], decode_window(m[:, 6 * c : 6 * c + 6], r))
    assert memory.decode(m).shape == (4, 9, 3)  # of the shortest window
    with pytest.raises(ValueError, match=r"delays must lie within -0.5 and 8.5 steps"):
        memory.decode(m, [9.0])


@pytest.mark.parametrize("started", [False, True])
def test_padding_has_no_influence(started):
    memory, u, lengths = build(), signal(), [40, 7, 0, 23]
    m_0 = torch.randn(4, 18, dtype=F64) if started else None
    spoilt = u.clone()
    for row, n in zip(spoilt, lengths, strict=True):
        row[n:] = torch.nan
    spoilt.requires_grad_()
    m, m_n = memory(spoilt, m_0, lengths)
    right = equation(u, m_0)
    for i, n in enumerate(lengths):
        start = torch.zeros(18, dtype=F64) if m_0 is None else m_0[i]
        torch.testing.assert_close(m[i, :n], right[i, :n])
        torch.testing.assert_close(m_n[i], right[i, n - 1] if n else start)
        assert not m[i, n:].any()
    torch.testing.assert_close(memory.final(spoilt, m_0, torch.tensor(lengths)), m_n)
    (m.square().sum() + m_n.sum()).backward()
    assert spoilt.grad is not None
    for i, n in enumerate(lengths):
        assert not spoilt.grad[i, n:].any()
    assert spoilt.grad.isfinite().all()


@pytest.mark.parametrize("is_sorted", [False, True])
def test_packed_in_packed_out(is_sorted):
    memory, u, lengths = build(), signal(), [40, 23, 23, 7] if is_sorted else [7, 40, 1, 23]
    packed = pack_padded_sequence(u, torch.tensor(lengths), True, enforce_sorted=is_sorted)
    m, m_n = memory(packed)
    padded, steps = pad_packed_sequence(m, batch_first=True)
    right, end = memory(u, lengths=lengths)
    torch.testing.assert_close((padded, m_n), (right, end))
    assert steps.tolist() == lengths
    torch.testing.assert_close(memory.final(packed), end)


@pytest.mark.parametrize("lengths", [None, [40, 7, 0, 23]])
def test_the_state_of_one_sequence_is_for_all(lengths):
    memory, u = build(), signal()
    m_0 = torch.randn(1, 18, dtype=F64)
    right = memory(u, m_0.expand(4, -1), lengths)
    torch.testing.assert_close(memory(u, m_0, lengths), right)
    torch.testing.assert_close(memory.final(u, m_0, lengths), right[1])
    torch.testing.assert_close(memory.step(u[:, 0], m_0), right[0][:, 0] if lengths is None else
                               memory.step(u[:, 0], m_0.expand(4, -1)))  # fmt: skip
    W = torch.randn(5, 18, dtype=F64)
    torch.testing.assert_close(memory.readout(u, W, m_0), memory.readout(u, W, m_0.expand(4, -1)))


@pytest.mark.parametrize("lengths", [None, [40, 7, 0, 23]])
def test_a_float64_state_stays_one(lengths):
    memory, u = build(dtype=torch.float32), signal(dtype=torch.float32)
    m_0 = torch.randn(4, 18, dtype=F64)
    m, m_n = memory(u, m_0, lengths)
    assert (m.dtype, m_n.dtype) == (torch.float32, F64)
    assert memory.final(u, m_0, lengths).dtype == F64
    assert memory.step(u[:, 0], m_0).dtype == F64
    assert memory.readout(u, torch.randn(5, 18), m_0)[1].dtype == F64
    exact = build()(u.double(), m_0, lengths)
    torch.testing.assert_close(m.double(), exact[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(m_n, exact[1], atol=1e-6, rtol=1e-5)


def test_no_sequence_at_all():
    memory, u = build(), signal(batch=0).requires_grad_()
    m, m_n = memory(u)
    assert (m.shape, m_n.shape) == ((0, 40, 18), (0, 18))
    assert memory.final(u).shape == memory(u, lengths=[])[1].shape == (0, 18)
    assert memory.step(u[:, 0]).shape == (0, 18)
    y, _ = memory.readout(u, torch.randn(5, 18, dtype=F64))
    assert y.shape == (0, 40, 5)
    (m.sum() + m_n.sum() + y.sum()).backward()


LEARNED = [{"learn_a": True}, {"learn_b": True}, {"learn_theta": True},
           {"learn_a": True, "learn_b": True}]  # fmt: skip


@pytest.mark.parametrize("learned", LEARNED, ids=str)
@pytest.mark.parametrize("theta", [9.0, THETAS])
@pytest.mark.parametrize("method", ["auto", *map(cores.param, STATES)])
def test_what_is_learned_has_the_gradients_of_the_equation(method, theta, learned):
    memory = LegendreMemory(4, theta, 3, method=method, dtype=F64, **learned)
    keys, values = zip(*memory.named_parameters(), strict=True)
    assert set(keys) == {{"learn_a": "Ad", "learn_b": "Bd", "learn_theta": "log_theta"}[key]
                         for key in learned}  # fmt: skip
    u, m_0 = signal(5, 2).requires_grad_(), torch.randn(2, 12, dtype=F64, requires_grad=True)

    def call(u, m_0, *values):
        parameters = dict(zip(keys, values, strict=True))
        return torch.func.functional_call(memory, parameters, (u, m_0))

    assert torch.autograd.gradcheck(call, (u, m_0, *values), fast_mode=True)


def test_a_learned_window_is_found():
    """Of a target that another window makes."""
    u, right = signal(60, 8)[..., :1], LegendreMemory(4, 20.0, dtype=F64)
    memory = LegendreMemory(4, 14.0, learn_theta=True, dtype=F64)
    target = right(u)[0]
    optimizer = torch.optim.Adam(memory.parameters(), lr=0.05)
    for _ in range(120):
        optimizer.zero_grad()
        (memory(u)[0] - target).square().mean().backward()
        optimizer.step()
    assert memory.theta == pytest.approx(20.0, rel=1e-2)


def test_explain_names_what_runs():
    memory = build()
    assert memory.explain(500, 8).method in STATES
    assert memory.explain(500, 8, initial_state=True).method in STATES
    choice = build(method="fft").explain(500)
    assert (choice.method, choice.reason) == ("fft", "asked for by name")
    assert choice.cost is not None


def test_a_layer_holds_one():
    """The memory of a layer is the object alone: the same numbers from the same input."""
    torch.manual_seed(0)
    layer = LMUFFT(3, 5, 6, theta=THETAS, memory_channels=3, encode_input=False, dtype=F64)
    u = signal()
    _, (_, m_n) = layer(u, return_state=True)
    torch.testing.assert_close(layer.memory(u)[1], m_n)
    torch.testing.assert_close(m_n, equation(u)[:, -1])
    recorded, _ = LMU(3, 5, 6, THETAS, memory_channels=3, dtype=F64).record(u)
    torch.testing.assert_close(recorded.m, equation(recorded.u))
    assert isinstance(layer.memory, LegendreMemory)


def test_hooks_of_the_memory_are_called_by_the_parallel_layer():
    torch.manual_seed(0)
    layer = LMUFFT(2, 5, 6, theta=20.0, dtype=F64)
    plain = LMUFFT(2, 5, 6, theta=20.0, dtype=F64)
    plain.load_state_dict(layer.state_dict())
    x, calls = torch.randn(3, 15, 2, dtype=F64), []
    seen = layer.memory.register_forward_hook(lambda _, given, out: calls.append(out[0].shape))
    for given in ({}, {"return_sequences": False}, {"lengths": [15, 4, 0]}):
        calls.clear()
        torch.testing.assert_close(layer(x, **given), plain(x, **given))
        assert calls == [(3, 15, 6)] or ("lengths" in given and calls[0] == (3, 15, 6))
    calls.clear()
    state, stream = None, Stream(layer, 3)
    for x_t, y_t in zip(x.unbind(1), plain(x)[0].unbind(1), strict=True):
        y, state = layer.step(x_t, state)
        torch.testing.assert_close((y, stream(x_t)), (y_t, y_t))
    assert len(calls) == 30
    assert layer.explain(50).reason.startswith("memory is a LegendreMemory with hooks")
    seen.remove()
    handle = layer.memory.register_forward_hook(lambda _, given, out: (2 * out[0], 2 * out[1]))
    y = layer(x, return_state=True)
    with torch.no_grad():
        plain.W_h.weight[:, :6] *= 2
    right = plain(x, return_state=True)
    torch.testing.assert_close((y[0], y[1][1]), (right[0], 2 * right[1][1]))
    handle.remove()
    forced = LMUFFT(2, 5, 6, theta=20.0, method="fft")
    forced.memory.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="'fft' reads weights, and memory is a LegendreMemory"):
        forced(torch.zeros(1, 9, 2))


@pytest.mark.parametrize("kind", [LMU, LMUCell])
@pytest.mark.parametrize("hook", ["forward", "forward_pre", "full_backward"])
def test_hooks_of_the_memory_are_refused_where_nothing_would_call_them(kind, hook):
    layer = kind(2, 5, 6, 20.0)
    handle = getattr(layer.memory, f"register_{hook}_hook")(lambda *_: None)
    x = torch.randn(3, 2)
    calls = [lambda: layer(x)] if kind is LMUCell else [
        lambda: layer(x[None]), lambda: layer(x[None], lengths=[2]), lambda: layer.step(x),
        lambda: layer.record(x[None]), lambda: Stream(layer, 3)(x),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ValueError, match=r"a hook of the memory is never called: .* Register"):
            call()
    handle.remove()
    for call in calls:
        call()


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"memory_size": 0}, ValueError, "memory_size must be at least 1, got 0"),
    ({"memory_size": 2.5}, TypeError, "memory_size must be an int, got 2.5"),
    ({"channels": 0}, ValueError, "channels must be at least 1, got 0"),
    ({"theta": -1.0}, ValueError, "theta must be a positive, finite number .* got -1"),
    ({"theta": math.nan}, ValueError, "got nan"),
    ({"theta": None}, TypeError, "theta must be a number of time steps, got None"),
    ({"theta": (1.0, 2.0)}, ValueError, "one for each of the 3 channels, got 2 numbers"),
    ({"learn_a": 1}, TypeError, "learn_a must be True or False, got 1"),
    ({"learn_theta": True, "learn_b": True}, ValueError, "choose one of the two"),
    ({"discretizer": "tustin"}, ValueError, "discretizer must be one of .* got 'tustin'"),
    ({"discretizer": None}, ValueError, "discretizer=None says that system holds the discrete"),
    ({"discretizer": "euler", "memory_size": 20}, ValueError, "powers of Ad grow"),
    ({"method": "final"}, ValueError, r"method must be 'auto' or one of \['naive'.* got 'final'"),
    ({"method": 3}, ValueError, "method must be 'auto' or one of .* got 3"),
    ({"device": "nonsense"}, ValueError, "device must be one such as 'cpu'"),
    ({"dtype": torch.int64}, TypeError, "dtype must be a floating one"),
]


@pytest.mark.parametrize(("wrong", "kind", "message"), WRONG, ids=str)
def test_wrong_arguments(wrong, kind, message):
    with pytest.raises(kind, match=message):
        LegendreMemory(**{"memory_size": 6, "theta": 12.0, "channels": 3} | wrong)


CALLS: list[tuple[str, tuple[Any, ...], type[Exception], str]] = [
    ("forward", (torch.zeros(2, 9, 2),), ValueError, r"\(batch, time, channels=3\), got \(2, 9, 2"),
    ("forward", (torch.zeros(9, 3),), ValueError, r"add the missing axis with x.unsqueeze\(0\)"),
    ("forward", (torch.zeros(2, 0, 3),), ValueError, "at least one time step"),
    ("forward", (torch.zeros(2, 9, 3).half(),), TypeError, "float16 but the layer torch.float32"),
    ("forward", ([[1.0]],), TypeError, "the input must be a torch.Tensor, got list"),
    ("forward", (torch.zeros(2, 9, 3), torch.zeros(2, 6)), ValueError, r"m must have .* \(2, 18\)"),
    ("forward", (torch.zeros(2, 9, 3), (1, 2)), TypeError, "m must be a torch.Tensor, got tuple"),
    ("forward", (torch.zeros(2, 9, 3), None, [9]), ValueError, "one number for each of the 2 seq"),
    ("forward", (torch.zeros(2, 9, 3), None, [10, 1]), ValueError, "within 0 and 9, the steps"),
    ("final", (torch.zeros(2, 9, 3), torch.zeros(3, 18)), ValueError, r"m must have the shape"),
    ("step", (torch.zeros(2, 9, 3),), ValueError, r"must have the shape \(batch, channels=3\)"),
    ("step", (torch.zeros(2, 3), torch.zeros(2, 17)), ValueError, r"\(2, 18\), got \(2, 17\)"),
    ("readout", (torch.zeros(2, 9, 3), torch.zeros(5, 17)), ValueError, "W"),
    ("readout", (torch.zeros(2, 9, 3), torch.zeros(18)), ValueError, "W"),
    ("decode", (torch.zeros(2, 17),), ValueError, r"m must have the shape \(..., 18\)"),
    ("decode", (torch.zeros(2, 18), [12.0]), ValueError, "within -0.5 and 11.5 steps"),
    ("decode", (torch.zeros(2, 18).int(),), TypeError, "m"),
    ("explain", (0,), ValueError, "length"),
]


@pytest.mark.parametrize(("name", "arguments", "kind", "message"), CALLS)
def test_wrong_calls(name, arguments, kind, message):
    with pytest.raises(kind, match=message):
        getattr(LegendreMemory(6, 12.0, 3), name)(*arguments)


def test_wrong_readouts():
    memory, u, W = build(), signal(), torch.zeros(5, 18, dtype=F64)
    with pytest.raises(ValueError, match="method must be"):
        memory.readout(u, W, method="magic")
    with pytest.raises(ValueError, match="activation must be one of"):
        memory.readout(u, W, activation="tan")
    with pytest.raises(TypeError, match=r"activation must be one of .* got 3"):
        memory.readout(u, W, activation=3)  # pyright: ignore[reportArgumentType]
    for shape in ((4,), (), (5, 1), (1,)):
        with pytest.raises(ValueError, match=r"bias must have the shape \(5,\), got"):
            memory.readout(u, W, bias=torch.zeros(shape, dtype=F64))
    with pytest.raises(ValueError, match=r"W must have the shape \(5, 18\), got \(5, 12\)"):
        memory.readout(u, W[:, :12])
    with pytest.raises(TypeError, match=r"W is torch.float32 but the layer torch.float64"):
        memory.readout(u, W.float())
    with pytest.raises(TypeError, match=r"bias is torch.float32 but the layer torch.float64"):
        memory.readout(u, W, bias=torch.zeros(5))
    with pytest.raises(ValueError, match="W is on meta but the layer on cpu"):
        memory.readout(u, W.to("meta"))


def test_repr_names_the_arguments():
    text = repr(LegendreMemory(6, 12.0, 3, learn_b=True, method="fft", discretizer="bilinear"))
    assert text == ("LegendreMemory(memory_size=6, theta=12, learn_b=True, discretizer='bilinear', "
                    "channels=3, method='fft')")  # fmt: skip
    assert repr(LegendreMemory(6, (1.0, 2.0), 2)) == (
        "LegendreMemory(memory_size=6, theta=(1, 2), channels=2)"
    )
