"""What users of KerasLMU 0.9 run into, and what these layers do there.

Each test is named after a fault; the comment above it says what happens there.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.linalg import expm
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves, tree_map

from lmu import LMU, LMUFFT, Bidirectional, LMUStack, Stream
from lmu.ops import LMU_METHODS, READOUT_METHODS
from lmu.theory import least_theta, legt

F64 = torch.float64
BUILD = {
    "LMU": lambda theta=12.0, **kw: LMU(2, 6, 5, theta, **kw),
    "LMUFFT": lambda theta=12.0, **kw: LMUFFT(2, 6, 5, 20, theta, **kw),
    "LMUFFT-any-length": lambda theta=12.0, **kw: LMUFFT(2, 6, 5, None, theta, **kw),
    "LMUFFT-last": lambda theta=12.0, **kw: LMUFFT(
        2, 6, 5, 20, theta, return_sequences=False, **kw
    ),
}
layers = pytest.mark.parametrize("name", BUILD)


def build(name: str, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    return BUILD[name](**kwargs)


def draw(batch: int, length: int, dtype: torch.dtype = torch.float32) -> Tensor:
    g = torch.Generator().manual_seed(length)
    return torch.randn(batch, length, 2, dtype=F64, generator=g).to(dtype)


def call(layer: Any, x: Any, state: Any = None, **kwargs: Any) -> tuple[Any, Any]:
    """Output and whole state."""
    kwargs |= {"return_state": True} if isinstance(layer, LMUFFT) else {}
    return layer(x, state, **kwargs)


def by_steps(layer: Any, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    """The same, one step after another."""
    outputs = []
    for x_t in x.unbind(1):
        y, state = layer.step(x_t, state)
        outputs.append(y)
    last = getattr(layer, "return_sequences", True) is False
    return outputs[-1] if last else torch.stack(outputs, dim=1), state


def memory_by_steps(u: Tensor, order: int, theta: float, exponential: Any = expm) -> Tensor:
    """The last state (batch, channels * order), discretized by SciPy and stepped in float64."""
    block = np.zeros((order + 1, order + 1))
    A, B = legt(order, theta)
    block[:order, :order], block[:order, order] = A.numpy(), B.numpy()
    system = exponential(block)
    Ad, Bd = system[:order, :order], system[:order, order]
    m = np.zeros((*u.shape[::2], order))
    for u_t in u.double().detach().numpy().swapaxes(0, 1):
        m = m @ Ad.T + u_t[..., None] * Bd
    return torch.as_tensor(m).flatten(1)


# The matrix exponential is taken in float32: states of order 468 are wrong by 1e-3 after 784 steps.
@pytest.mark.parametrize("kind", ["LMU", "LMUFFT"])
def test_discretization_in_float32(kind):
    x = torch.rand(2, 784, 1, generator=torch.Generator().manual_seed(0))
    if kind == "LMU":
        layer: Any = LMU(1, None, 468, 784.0, encode_input=False, hidden_cell=None,
                         hidden_to_memory=False, memory_to_memory=False)  # fmt: skip
    else:
        layer = LMUFFT(1, 4, 468, 784, 784.0, encode_input=False, encoder_activation=None)
    with torch.no_grad():
        _, (_, m) = call(layer, x)
    exact = memory_by_steps(x, 468, 784.0)
    fault = memory_by_steps(
        x, 468, 784.0, lambda block: torch.linalg.matrix_exp(torch.tensor(block).float()).numpy()
    )
    assert m.dtype == torch.float32
    assert (m - exact).norm() <= 1e-5 * exact.norm()
    assert (fault - exact).norm() >= 5e-4 * exact.norm()


# The impulse response is that of the length at the first call: wrong numbers or an error at others.
@layers
def test_another_length_or_batch_size_than_the_first(name):
    layer = build(name, dtype=F64)
    for batch, length in ((4, 20), (1, 7), (3, 50), (4, 20)):
        x = draw(batch, length, F64)
        assert_close(call(layer, x), by_steps(layer, x))


# A mask is accepted and ignored: padding goes into memory, and NaN in it everywhere.
@pytest.mark.parametrize("packed", [False, True])
@layers
def test_masks_are_ignored(name, packed):
    layer, lengths = build(name, dtype=F64), [9, 20, 1]
    x = draw(3, 20, F64)
    for row, n in zip(x, lengths, strict=True):
        row[n:] = float("nan")
    x.requires_grad_()
    if packed:
        sequences = pack_padded_sequence(x, torch.tensor(lengths), True, enforce_sorted=False)
        y, state = call(layer, sequences)
        y = y if isinstance(y, Tensor) else pad_packed_sequence(y, batch_first=True)[0]
    else:
        y, state = call(layer, x, lengths=lengths)
    for i, n in enumerate(lengths):
        alone = call(layer, x[i : i + 1, :n])
        inside = y[i : i + 1, :n] if y.ndim == 3 else y[i : i + 1]
        assert_close((inside, tree_map(lambda s, i=i: s[i : i + 1], state)), alone)
        assert y.ndim == 2 or not y[i, n:].any()
    y.square().sum().backward()
    assert all(t.grad.isfinite().all() for t in (x, *layer.parameters()) if t.grad is not None)


# With a window too short for Euler's method, states grow without bound, or so far that noise is all
# that is left of them, in silence.
@layers
def test_euler_with_too_short_a_window(name):
    with pytest.raises(ValueError, match=r"noise is more than .* Use discretizer='zoh'"):
        build(name, theta=6.0, discretizer="euler")


# A negative theta gives numbers such as 1e20, in silence.
@pytest.mark.parametrize("theta", [-12.0, 0.0])
@layers
def test_negative_theta(name, theta):
    with pytest.raises(ValueError, match=f"positive, finite number of time steps, got {theta}:"):
        build(name, theta=theta)


# What is trained is 1/theta, clipped at zero, where the window is infinite; nor does anything keep
# theta long enough for Euler's method.
@pytest.mark.parametrize("rate", [-1000.0, 1000.0])
@pytest.mark.parametrize("discretizer", ["zoh", "bilinear", "euler"])
@layers
def test_trained_theta_leaves_its_range(name, discretizer, rate):
    layer = build(name, learn_theta=True, discretizer=discretizer)
    x = draw(3, 20)
    optimizer = torch.optim.SGD([layer.memory.log_theta], lr=abs(rate))
    for _ in range(8):
        pull = -layer.memory.log_theta if rate > 0 else layer.memory.log_theta
        (layer(x)[0].square().mean() + pull).backward()
        optimizer.step()
        optimizer.zero_grad()
        assert 0 < layer.theta < math.inf
        if discretizer == "euler":
            assert layer.theta >= least_theta(5, "euler")
        y = torch.cat([leaf.flatten() for leaf in tree_leaves(call(layer, x))])
        assert y.isfinite().all()
        assert y.abs().max() < 100
    assert (layer.theta > 12.0) == (rate > 0)


# The FFT of float16 or bfloat16 crashes.
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "method", ["final", "states", "fft", "chunked", "blocks", "loop", "parallel"]
)
def test_low_precision_crashes(method, dtype):
    name = (
        "LMUFFT" if method in READOUT_METHODS else "LMU" if method in LMU_METHODS else "LMUFFT-last"
    )
    options = {} if method == "final" else {"method": method}
    options |= {"hidden_to_memory": False} if method == "parallel" else {}
    layer, exact = (build(name, **options).to(dtype) for _ in range(2))
    exact.double()
    x = draw(3, 50, dtype)
    y, right = layer(x)[0], exact(x.double())[0]
    assert y.dtype == dtype
    assert_close(y.double(), right, rtol=0, atol=0.02)
    y.square().sum().backward()
    right.square().sum().backward()
    for p, q in zip(layer.parameters(), exact.parameters(), strict=True):
        assert (p.grad.double() - q.grad).norm() <= 0.03 * q.grad.norm() + 1e-3


# Layers build themselves at the first call, which fails inside a compiled function.
@layers
def test_first_call_inside_a_compiled_function(name):
    torch._dynamo.reset()
    layer, twin = build(name), build(name)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for x in (draw(3, 20), draw(3, 33)):
        assert_close(compiled(x), twin(x))


# Wrapped for both directions, or stacked, they crash.
def test_bidirectional_and_stacked():
    def pair(size: int) -> Bidirectional:
        return Bidirectional(*(LMUFFT(size, 3, 4, None, t, dtype=F64) for t in (9.0, 14.0)))

    torch.manual_seed(0)
    pairs, last = [pair(2), pair(6)], LMU(6, 5, 4, 12.0, dtype=F64)
    model = LMUStack([*pairs, last], norm=None, residual=False)
    x = y = draw(3, 20, F64).requires_grad_()
    for both in pairs:
        ahead, back = both.forward_layer(y)[0], both.backward_layer(y.flip(1))[0]
        y = torch.cat([ahead, back.flip(1)], dim=2)
    right = last(y)[0]
    output, (h_n, states) = model(x)
    assert_close(output, right)
    assert_close(h_n, right[:, -1])
    assert len(states) == 3
    inputs = [x, *model.parameters()]
    assert_close(*(torch.autograd.grad(t.square().sum(), inputs) for t in (output, right)))


# A window that is no whole number of steps crashes where the length is not known beforehand.
@pytest.mark.parametrize("last", [False, True])
def test_fraction_of_a_step_in_theta(last):
    layer = LMUFFT(2, 6, 5, None, 100.5, memory_channels=2, encode_input=False,
                   encoder_activation=None, return_sequences=not last, dtype=F64)  # fmt: skip
    for length in (5, 150):
        x = draw(2, length, F64)
        _, (h, m) = call(layer, x)
        assert_close(m, memory_by_steps(x, 5, 100.5))
        assert_close(h, layer.W_h(torch.cat([m, x[:, -1]], dim=1)).relu())


# The layers take no initial state, give no last one, and cannot be told to keep theirs.
@layers
def test_state_neither_in_nor_out_nor_kept(name):
    layer, x = build(name, dtype=F64), draw(3, 30, F64)
    whole, end = call(layer, x)
    first, state = call(layer, x[:, :11])
    second, after = call(layer, x[:, 11:], state)
    joined = torch.cat([first, second], dim=1) if whole.ndim == 3 else second
    assert_close((joined, after), (whole, end))
    stream = Stream(layer, batch_size=3)
    outputs = [stream(x_t) for x_t in x.unbind(1)]
    assert_close((outputs[-1], stream.state), (whole[:, -1] if whole.ndim == 3 else whole, end))


# Dropout of the input spares the path around the memory in one layer and not in the other.
@layers
def test_dropout_of_the_input_differs_between_layers(name):
    layer, plain = build(name, dropout=0.4, dtype=F64), build(name, dtype=F64)
    x = draw(3, 30, F64)
    torch.manual_seed(1)
    dropped = F.dropout(x, 0.4)
    torch.manual_seed(1)
    assert_close(call(layer, x), call(plain, dropped))
    torch.manual_seed(1)
    kept = F.dropout(x[:, 0], 0.4)
    torch.manual_seed(1)
    assert_close(layer.step(x[:, 0]), plain.step(kept))
    assert_close(call(layer.eval(), x), call(plain, x))
