"""Every activation in every method of a read-out, against its equations in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lmu.ops import readout
from lmu.ops.readout.naive import naive
from tests import devices
from tests.devices import exact, named
from tests.ops.readout.test_readout import Arguments, arguments, initial, methods, with_gradients


def normalize(z: Tensor) -> Tensor:
    """A function of the units of a step together, which is called on rows of them."""
    assert z.ndim == 2
    return z.softmax(dim=1)


FUSED = ["relu", "tanh", "sigmoid", "identity"]
fused = pytest.mark.parametrize("activation", FUSED)
every = pytest.mark.parametrize("activation", [*FUSED, "gelu", torch.sin, normalize], ids=named)


def run(method: str, activation: Any):
    return lambda **inputs: readout(**inputs, method=method, activation=activation)


def truth(activation: Any):
    return lambda **inputs: naive(**inputs, activation=activation)


@methods
@initial
@every
def test_outputs_and_all_gradients(method, with_m_0, activation):
    inputs = arguments(3, 61, 2, 1, 7, 9, with_m_0=with_m_0)
    right = with_gradients(truth(activation), inputs)
    got = with_gradients(run(method, activation), inputs)
    torch.testing.assert_close(got, right, rtol=1e-9, atol=1e-9)


@methods
@fused
def test_nothing_is_read_before_it_is_written(poisoned, method, activation):
    inputs = arguments(3, 61, 2, 1, 7, 9, with_m_0=False)
    right = with_gradients(truth(activation), inputs)
    got = with_gradients(run(method, activation), inputs)
    torch.testing.assert_close(got, right, rtol=1e-9, atol=1e-9)


@methods
@fused
def test_gradcheck_and_second_derivative(method, activation):
    inputs = arguments(2, 5, 2, 1, 3, 2, with_m_0=False)
    names = [key for key, t in inputs.items() if t is not None]
    values = [inputs[key].requires_grad_() for key in names]

    def call(*values: Tensor) -> tuple[Tensor, ...]:
        return run(method, activation)(m_0=None, **dict(zip(names, values, strict=True)))

    assert torch.autograd.gradcheck(call, values, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, values, atol=1e-4, fast_mode=True)


@methods
@initial
@every
def test_float32_and_autocast(method, with_m_0, activation):
    inputs = arguments(2, 61, 1, 1, 16, 5, with_m_0=with_m_0, dtype=torch.float32)
    wide: Arguments = {key: None if t is None else exact(t) for key, t in inputs.items()}
    right = naive(**wide, activation=activation)
    for enabled in (False, True):
        with torch.autocast(devices.current.type, torch.bfloat16, enabled=enabled):
            got = run(method, activation)(**inputs)
        for result, number in zip(got, right, strict=True):
            assert result.dtype == torch.float32
            assert (exact(result) - number).norm() / number.norm() < 1e-5


@methods
@every
def test_split_and_resume_equals_whole(method, activation):
    inputs = arguments(2, 61, 2, 1, 7, 9, with_m_0=True)
    whole, m_n = run(method, activation)(**inputs)
    parts: list[Tensor] = []
    m: Tensor = inputs["m_0"]
    for part in (slice(0, 20), slice(20, 21), slice(21, 61)):
        x, u = inputs["x"][:, part], inputs["u"][:, part]
        y, m = run(method, activation)(**inputs | {"x": x, "u": u, "m_0": m})
        parts.append(y)
    torch.testing.assert_close((torch.cat(parts, dim=1), m), (whole, m_n), rtol=1e-9, atol=1e-9)


@methods
@pytest.mark.parametrize("activation", ["tanh", torch.sin], ids=named)
def test_compiles_as_one_graph(method, activation):
    torch._dynamo.reset()
    inputs = arguments(2, 40, 1, 1, 7, 3, with_m_0=False)
    call = run(method, activation)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(with_gradients(compiled, inputs), with_gradients(call, inputs))


@methods
@fused
def test_empty_batch(method, activation):
    inputs = arguments(1, 9, 1, 1, 3, 4, with_m_0=False)
    inputs |= {"u": inputs["u"][:0], "x": inputs["x"][:0]}
    y, m = run(method, activation)(**inputs)
    assert y.shape == (0, 9, 4)
    assert m.shape == (0, 1, 3)


def test_wrong_activations():
    inputs = arguments(1, 2, 1, 1, 2, 2, with_m_0=False)
    with pytest.raises(ValueError, match=r"activation must be one of \['tanh', .*, got 'swish'"):
        readout(**inputs, activation="swish")
    with pytest.raises(TypeError, match=r"activation must be one of .*, got None"):
        readout(**inputs, activation=None)  # pyright: ignore[reportArgumentType]
