"""Every method of a read-out, against its equations in float64."""

import os
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from lmu.ops import READOUT_METHODS, Problem, choose_readout, explain_readout, native, readout
from lmu.ops.readout.naive import naive
from lmu.theory import discretize, impulse_response, legt
from tests import cores, devices
from tests.devices import exact, place, place_system

F64 = torch.float64
# The kernels run here only in the interpreter, which test_readout_kernels.py starts.
runs_kernels = os.environ.get("TRITON_INTERPRET") == "1" or devices.current.type == "cuda"
methods = pytest.mark.parametrize(
    "method",
    [
        *(cores.param(method) for method in READOUT_METHODS if method != "triton"),
        pytest.param("triton", marks=pytest.mark.skipif(not runs_kernels, reason="needs CUDA")),
    ],
)
initial = pytest.mark.parametrize("with_m_0", [False, True], ids=["zero", "m0"])
# batch, time, channels, input, order, hidden
sizes = pytest.mark.parametrize(
    "size",
    [(1, 1, 1, 1, 1, 1), (2, 2, 3, 2, 5, 4), (3, 61, 2, 1, 7, 9), (2, 509, 1, 2, 24, 6)],
    ids=str,
)

Arguments = dict[str, Any]


def arguments(
    batch: int, length: int, channels: int, features: int, order: int, hidden: int,
    *, with_m_0: bool, dtype: torch.dtype = F64,
) -> Arguments:  # fmt: skip
    g = torch.Generator().manual_seed(length)

    def draw(*shape: int) -> Tensor:
        return place(torch.randn(shape, dtype=F64, generator=g).to(dtype))

    Ad, Bd = place_system(*discretize(*legt(order, 40.0)))
    return {
        "u": draw(batch, length, channels),
        "x": draw(batch, length, features),
        "Ad": Ad,
        "Bd": Bd,
        "W_m": draw(hidden, channels * order),
        "W_x": draw(hidden, features),
        "bias": draw(hidden),
        "m_0": draw(batch, channels, order) if with_m_0 else None,
    }


def with_gradients(run, inputs: Arguments) -> tuple[list[Tensor], dict[str, Tensor]]:
    inputs = {key: None if t is None else t.clone().requires_grad_() for key, t in inputs.items()}
    outputs = list(run(**inputs))
    g = torch.Generator().manual_seed(0)
    seeds = [torch.randn(o.shape, dtype=F64, generator=g).to(o.dtype).to(o.device) for o in outputs]
    known = {key: t for key, t in inputs.items() if t is not None}
    grads = torch.autograd.grad(
        outputs, [*known.values()], seeds, allow_unused=True, materialize_grads=True
    )
    return outputs, dict(zip(known, grads, strict=True))


def run(method: str):
    return lambda **inputs: readout(**inputs, method=method)


@methods
@sizes
@initial
def test_outputs_and_all_gradients(method, size: Any, with_m_0):
    inputs = arguments(*size, with_m_0=with_m_0)
    got, right = with_gradients(run(method), inputs), with_gradients(naive, inputs)
    torch.testing.assert_close(got, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sizes", [(1, 1), (2, 1), (2, 2), (3, 2)])
def test_fft_of_some_sequences_at_a_time(monkeypatch, sizes):
    # Not by its dotted name: `lmu.ops.readout` is the function.
    monkeypatch.setattr(import_module("lmu.ops.readout.fft"), "_groups", lambda *_: sizes)
    inputs = arguments(3, 61, 2, 1, 7, 9, with_m_0=False)
    got, right = with_gradients(run("fft"), inputs), with_gradients(naive, inputs)
    torch.testing.assert_close(got, right, rtol=1e-9, atol=1e-9)


@methods
@initial
def test_nothing_is_read_before_it_is_written(poisoned, method, with_m_0):
    inputs = arguments(3, 61, 2, 1, 7, 9, with_m_0=with_m_0)
    got, right = with_gradients(run(method), inputs), with_gradients(naive, inputs)
    torch.testing.assert_close(got, right, rtol=1e-9, atol=1e-9)


@methods
@initial
def test_constant_impulse_response_can_be_given(method, with_m_0):
    inputs = arguments(2, 61, 2, 1, 7, 9, with_m_0=with_m_0)
    H = impulse_response(inputs["Ad"], inputs["Bd"], 70)
    torch.testing.assert_close(readout(**inputs, method=method, H=H), naive(**inputs))


@methods
@initial
def test_dynamics_for_each_channel(method, with_m_0):
    inputs = arguments(2, 61, 2, 1, 7, 9, with_m_0=with_m_0)
    systems = [place_system(*discretize(*legt(7, theta))) for theta in (20.0, 50.0)]
    Ad, Bd = (torch.stack(parts) for parts in zip(*systems, strict=True))
    right = {}
    for c, (A, B) in enumerate(systems):  # the read-out of a channel alone, before the relu
        one = inputs | {
            "u": inputs["u"][..., c : c + 1],
            "W_m": inputs["W_m"][:, 7 * c : 7 * c + 7],
        }
        one |= {"m_0": None if inputs["m_0"] is None else inputs["m_0"][:, c : c + 1]}
        one |= {"Ad": A, "Bd": B, "bias": inputs["bias"] + 1e3}
        right[c] = naive(**one)
    both = inputs | {"Ad": Ad, "Bd": Bd, "bias": inputs["bias"] + 1e3}
    y, m_n = readout(**both, method=method)
    common = inputs["x"] @ inputs["W_x"].T + inputs["bias"] + 1e3
    torch.testing.assert_close(y, right[0][0] + right[1][0] - common)
    torch.testing.assert_close(m_n, torch.cat([right[0][1], right[1][1]], dim=1))


@methods
@initial
def test_float32_at_high_order(method, with_m_0):
    """Order 512 over 4096 steps: within 1e-5 of float64, relative."""
    Ad, Bd = place_system(*discretize(*legt(512, 4096.0)))
    inputs = arguments(1, 4096, 1, 1, 512, 8, with_m_0=with_m_0, dtype=torch.float32)
    inputs |= {"Ad": Ad, "Bd": Bd}
    inputs["W_m"] = inputs["W_m"] / 512**0.5
    wide: dict[str, Any] = {key: None if t is None else exact(t) for key, t in inputs.items()}
    for got, right in zip(readout(**inputs, method=method), naive(**wide), strict=True):
        assert got.dtype == torch.float32
        assert (exact(got) - right).norm() / right.norm() < 1e-5


@methods
@initial
@pytest.mark.parametrize("fast", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_gradcheck_and_second_derivative(method, with_m_0, fast):
    inputs = arguments(2, 5, 2, 1, 3, 2, with_m_0=with_m_0)
    names = [key for key, t in inputs.items() if t is not None]
    values = [inputs[key].requires_grad_() for key in names]

    def call(*values: Tensor) -> tuple[Tensor, ...]:
        changed: Arguments = inputs | dict(zip(names, values, strict=True))
        return readout(**changed, method=method)

    assert torch.autograd.gradcheck(call, values, fast_mode=fast)
    assert torch.autograd.gradgradcheck(call, values, atol=1e-4, fast_mode=fast)


@methods
@pytest.mark.parametrize(
    ("with_m_0", "length"),
    [
        (True, 70),
        (False, 1),
        pytest.param(True, 1, marks=pytest.mark.slow),
        pytest.param(False, 70, marks=pytest.mark.slow),
    ],
)
def test_compiles_as_one_graph(method, with_m_0, length):
    torch._dynamo.reset()
    inputs = arguments(2, length, 1, 1, 7, 3, with_m_0=with_m_0)
    compiled = torch.compile(run(method), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        with_gradients(compiled, inputs), with_gradients(run(method), inputs)
    )


def test_choice_without_the_core():
    def pick(length, order=468, **kwargs):
        problem = Problem(length, order, rows=346, batch=100)
        choice = explain_readout(problem, **kwargs)
        assert choice.method == choose_readout(problem, **kwargs)
        assert choice.reason
        assert choice.cost is not None
        return choice.method

    with native.use(None):
        assert pick(784) == "fft"
        assert pick(784, order=4) != "fft"
        assert pick(1) == "states"
        assert pick(784, initial_state=True) == pick(784, transformed=True) == "chunked"


def test_wrong_arguments():
    drawn: Arguments = arguments(2, 5, 2, 1, 3, 2, with_m_0=False)
    inputs: Arguments = {key: None if t is None else t.cpu() for key, t in drawn.items()}
    with pytest.raises(ValueError, match=r"'auto' or one of .*'chunked'.*, got 'magic'"):
        readout(**inputs, method="magic")
    for name, wrong, error, says in [
        ("u", torch.zeros(5), ValueError, "u must have the shape"),
        ("u", [0.0], TypeError, "u must be a torch.Tensor, got list"),
        (
            "x",
            torch.zeros(2, 4, 1),
            ValueError,
            r"x must have the shape \(2, 5, 1\), got \(2, 4, 1",
        ),
        (
            "x",
            torch.zeros(1, 5, 1),
            ValueError,
            r"x must have the shape \(2, 5, 1\), got \(1, 5, 1",
        ),
        ("W_m", torch.zeros(2, 5), ValueError, r"W_m must have the shape \(2, 6\), got \(2, 5\)"),
        ("W_x", torch.zeros(3, 1), ValueError, r"W_x must have the shape \(2, 1\), got \(3, 1\)"),
        ("W_x", torch.zeros(2, 1).int(), TypeError, "W_x must be floating, got torch.int32"),
        ("bias", torch.zeros(2, 1), ValueError, r"bias must have the shape"),
        ("bias", torch.zeros(2, device="meta"), ValueError, "u is on cpu but bias on meta"),
    ]:
        with pytest.raises(error, match=says):
            readout(**dict(inputs, **{name: wrong}))
    with pytest.raises(TypeError, match=r"x is torch.float64, wider than u of torch.float32"):
        readout(**dict(inputs, u=torch.zeros(2, 5, 2)))
