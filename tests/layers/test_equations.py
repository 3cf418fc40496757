"""The layers against their equations, written out step by step in float64."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from lmu import LMU, LMUFFT, LMUCell
from lmu.ops import memory
from lmu.theory import discretize, legt
from tests import devices
from tests.fuzz.equations import Equations
from tests.variants import (
    SEQUENCES,
    SINGLE,
    VARIANTS,
    build,
    each,
    features,
    fill,
    memory_of,
    run,
    sample,
    step,
)

F64 = torch.float64


def lmu_equations(layer, x: Tensor, h: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Voelker et al. (2019), equations 4, 6 and 7, for one sequence (time, input)."""
    p = {key: value.double() for key, value in layer.named_parameters()}
    Ad, Bd = discretize(*legt(layer.memory_size, layer.theta), layer.discretizer)
    outputs = []
    for x_t in x.double():
        u = p["e_x"] @ x_t + p["e_h"] @ h + p["e_m"] @ m
        m = Ad @ m + Bd * u
        h = torch.tanh(p["W_x"] @ x_t + p["W_h"] @ h + p["W_m"] @ m)
        outputs.append(h)
    return torch.stack(outputs), h, m


def lmu_fft_equations(layer, x: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Chilkuri & Eliasmith (2021), equations 18 to 20, for one sequence (time, input)."""
    p = {key: value.double() for key, value in layer.named_parameters()}
    Ad, Bd = discretize(*legt(layer.memory_size, layer.theta), layer.discretizer)
    outputs = []
    for x_t in x.double():
        u = torch.relu(p["W_u.weight"] @ x_t + p["W_u.bias"])
        m = Ad @ m + Bd * u
        h = torch.relu(p["W_h.weight"] @ torch.cat([m, x_t]) + p["W_h.bias"])
        outputs.append(h)
    return torch.stack(outputs), m


def conf_of(name: str, layer: Any) -> dict[str, Any]:
    """A variant as :mod:`tests.fuzz.equations` describes layers, by its options."""
    given = VARIANTS[name].options
    kind = VARIANTS[name].kind.__name__
    encoder = given.get("encoder_activation", "relu" if kind == "LMUFFT" else None)
    options = {"hidden_activation": "relu" if kind == "LMUFFT" else "tanh", "cell": "own"}
    options |= {"cell": given["hidden_cell"]} if "hidden_cell" in given else {}
    options |= {key: given[key] for key in options.keys() & given.keys()}
    memory = memory_of(layer)
    theta = VARIANTS[name].options.get("windows", (1.0,))
    return options | {
        "kind": kind,
        "input_size": features(layer),
        "hidden_size": getattr(layer, "hidden_size", 1),
        "memory_size": given.get("memory_size", 6),
        "memory_channels": memory.channels,
        "theta": [12.0 * window for window in theta],
        "discretizer": given.get("discretizer", "zoh"),
        "system": layer.system,
        "learn_theta": given.get("learn_theta", False),
        "input_to_hidden": given.get("input_to_hidden", True),
        "activation": {"torch.tanh": "tanh"}.get(encoder, encoder),
        "return_sequences": given.get("return_sequences", True),
    }


def gradients(out: Any, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    total = torch.stack([leaf.square().sum() for leaf in tree_leaves(out)]).sum()
    return torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)


def by_steps(cell: Any, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    outputs = []
    for x_t in x.unbind(1):
        y, state = step(cell, x_t, state)
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


@each(SINGLE)
@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("lengths", [None, [23, 0, 9]])
def test_every_layer_computes_its_equations(name: str, started: bool, lengths: list[int] | None):
    is_cell = VARIANTS[name].kind is LMUCell
    if lengths is not None and (is_cell or (started and name == "LMU-blocks")):
        pytest.skip("it takes no lengths, or none with a state")
    layer = fill(build(name, dtype=F64))
    x = devices.place(torch.randn(3, 23, features(layer), dtype=F64)).requires_grad_()
    state = None
    if started:
        before = sample(layer, 4, 3, F64, seed=2)
        state = tree_map(lambda s: s.detach().requires_grad_(), run(layer, before)[1])
    found = by_steps(layer, x, state) if is_cell else run(layer, x, state, lengths=lengths)
    inputs = [x, *tree_leaves(state), *layer.parameters()]
    inputs = [t for t in inputs if t is not None]
    slopes = gradients(found, inputs)

    # The equations are run on the CPU.
    twin, there = copy.deepcopy(layer).cpu(), x.detach().cpu().requires_grad_()
    if started:
        state = tree_map(lambda s: s.detach().cpu().requires_grad_(), state)
    steps = torch.tensor([23] * 3 if lengths is None else lengths)
    right = Equations().run(conf_of(name, layer), twin, there, state, steps)
    inputs = [there, *tree_leaves(state), *twin.parameters()]
    inputs = [t for t in inputs if t is not None]
    close = partial(torch.testing.assert_close, check_device=False)
    close(tree_leaves(found), tree_leaves(right))
    close(slopes, gradients(right, inputs))


def sequence(length: int, features: int = 2) -> Tensor:
    g = torch.Generator().manual_seed(length)
    return torch.randn(2, length, features, dtype=F64, generator=g)


def randomize(layer):
    """Parameters of order one, so that no term of an equation is near zero (``e_m`` starts so)."""
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, dtype=F64, generator=g) / p.shape[-1] ** 0.5)
    return layer


@pytest.mark.parametrize("length", [1, 2, 53])
@pytest.mark.parametrize("method", ["auto", "loop", "blocks"])
@pytest.mark.parametrize("discretizer", ["zoh", "bilinear", "euler"])
def test_lmu(length: int, method: str, discretizer: str):
    layer = randomize(LMU(2, 5, 4, 60.0, discretizer=discretizer, method=method, dtype=F64))
    x = sequence(length)
    h_0, m_0 = torch.rand(2, 5, dtype=F64), torch.rand(2, 4, dtype=F64)
    output, (h_n, m_n) = layer(x, (h_0, m_0))
    for b in range(2):
        right, h, m = lmu_equations(layer, x[b], h_0[b], m_0[b])
        torch.testing.assert_close(output[b], right)
        torch.testing.assert_close((h_n[b], m_n[b]), (h, m))
    assert torch.equal(output[:, -1], h_n)


def test_cell_is_one_step_of_the_layer():
    layer = randomize(LMU(2, 5, 4, 6.0, dtype=F64))
    cell = LMUCell(2, 5, 4, 6.0, dtype=F64)
    cell.load_state_dict(layer.state_dict())
    x, state, outputs = sequence(20), None, []
    for x_t in x.unbind(1):
        state = cell(x_t, state)
        outputs.append(state[0])
    output, last = layer(x)
    torch.testing.assert_close(torch.stack(outputs, dim=1), output)
    torch.testing.assert_close(state, last)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@each([name for name in SEQUENCES if "last" not in name and "both" not in name], expensive=True)
def test_steps_of_a_stream_give_the_numbers_of_the_whole(name, dtype):
    layer = fill(build(name, dtype=dtype), 0.1)
    x = sample(layer, 53, dtype=dtype)
    whole, last = run(layer, x)
    state: Any = None
    outputs: list[Tensor] = []
    for x_t in x.unbind(1):
        output, state = step(layer, x_t, state)
        outputs.append(output)
    torch.testing.assert_close(torch.stack(outputs, dim=1), whole)
    torch.testing.assert_close(state, last)
    if VARIANTS[name].kind in {LMU, LMUFFT}:
        assert outputs[-1].data_ptr() != state[1].data_ptr()
    if VARIANTS[name].kind is LMU:  # whose hidden state is fed back: writing to the output must
        assert outputs[-1].data_ptr() != tree_leaves(state)[0].data_ptr()  # not change it
    for tensor in tree_leaves(state):
        assert tensor.untyped_storage().nbytes() == tensor.nbytes  # keeps nothing else alive


@pytest.mark.parametrize("method", ["auto", "states", "fft", "chunked"])
@pytest.mark.parametrize("seq_len", [None, 1, 53, 400])
@pytest.mark.parametrize("length", [1, 2, 53])
@pytest.mark.parametrize("discretizer", ["zoh", "bilinear", "euler"])
def test_lmu_fft_at_any_length(length, seq_len, discretizer, method):
    layer = LMUFFT(2, 5, 4, seq_len, 60.0, method=method, discretizer=discretizer, dtype=F64)
    randomize(layer)
    x = sequence(length)
    m_0 = torch.rand(2, 4, dtype=F64)
    output, (h_n, m_n) = layer(x, (torch.zeros(2, 5, dtype=F64), m_0), return_state=True)
    for b in range(2):
        right, m = lmu_fft_equations(layer, x[b], m_0[b])
        torch.testing.assert_close(output[b], right)
        torch.testing.assert_close(m_n[b], m)
    assert torch.equal(output[:, -1], h_n)


@pytest.mark.parametrize("given_state", [False, True])
def test_lmu_fft_final_state_in_both_places(given_state):
    layer = randomize(LMUFFT(2, 5, 4, 53, 6.0, dtype=F64))
    state = (torch.zeros(2, 5, dtype=F64), torch.rand(2, 4, dtype=F64)) if given_state else None
    _, (h_n, m_n) = layer(sequence(53), state, return_state=True)
    layer.return_sequences = False
    output, last = layer(sequence(53), state)
    assert torch.equal(output, last)
    output, (h, m) = layer(sequence(53), state, return_state=True)
    torch.testing.assert_close((output, h, m), (h_n, h_n, m_n))


@pytest.mark.parametrize("split", [1, 26, 52])
@each([name for name in SEQUENCES if "both" not in name])
def test_split_and_resume_equals_whole(name, split):
    layer = fill(build(name, dtype=F64))
    x = sample(layer, 53, dtype=F64)
    whole, last = run(layer, x)
    first, state = run(layer, x[:, :split])
    second, end = run(layer, x[:, split:], state)
    torch.testing.assert_close(end, last)
    joined = torch.cat([first, second], dim=1) if whole.ndim == 3 else second
    torch.testing.assert_close(joined, whole)


@pytest.mark.parametrize("kind", ["LMU", "LMUFFT", "LMUFFT-last"])
def test_float32_error_at_order_468(kind):
    """The layers of the paper's size, 784 steps: within 1e-5 of float64, relative."""
    torch.manual_seed(0)
    if kind == "LMU":
        layer, kwargs = LMU(1, 212, 468, 784), {}
    else:
        layer = LMUFFT(1, 346, 468, 784, 784, return_sequences=kind == "LMUFFT")
        kwargs = {"return_state": True}
    x = torch.rand(4, 784, 1)
    with torch.no_grad():
        output, (h, m) = layer(x, **kwargs)
        exact_output, (exact_h, exact_m) = layer.double()(x.double(), **kwargs)
    for got, exact in ((output, exact_output), (h, exact_h), (m, exact_m)):
        assert (got - exact).norm() / exact.norm() < 1e-5


def test_explain_names_what_runs():
    assert LMUFFT(1, 346, 468, 784, 784).explain(784, 100).method in {"fft", "native_fft"}
    assert LMUFFT(1, 4, 3, 784, 784).explain(784, initial_state=True).method in {
        "chunked",
        "native",
    }
    assert LMUFFT(1, 4, 3, 9, 9.0, return_sequences=False).explain(9).method == "final"
    assert LMU(1, 4, 3, 9.0).explain(784).method in {"blocks", "native", "native_blocks"}
    assert LMU(1, 4, 3, 9.0, hidden_to_memory=False).explain(784).method == "parallel"


@pytest.mark.parametrize("seed", range(8))
def test_lmu_fft_encoder_is_never_dead_for_non_negative_input(seed):
    torch.manual_seed(seed)
    layer = LMUFFT(1, 64, 4, 8, 8.0, return_sequences=False)
    layer(torch.rand(3, 8, 1))[0].sum().backward()
    assert layer.W_u is not None
    assert layer.W_u.weight.grad is not None
    assert layer.W_u.weight.grad.abs().max() > 0


def test_initial_values():
    torch.manual_seed(0)
    layer: Any = LMU(4, 300, 200, 50.0)
    assert layer.e_h is not None
    assert layer.e_m is not None
    for encoder, fan_in in ((layer.e_x, 4), (layer.e_h, 300)):
        assert encoder.abs().max() <= (3 / fan_in) ** 0.5
    assert layer.e_h.std().item() == pytest.approx(300**-0.5, rel=0.1)  # LeCun: variance 1/fan_in
    assert not layer.e_m.any()
    for kernel in (layer.W_x, layer.W_h, layer.W_m):
        assert kernel.std().item() == pytest.approx((2 / sum(kernel.shape)) ** 0.5, rel=0.1)


def test_an_input_that_is_not_encoded_goes_to_the_memory_as_it_is():
    x = torch.randn(2, 9, 1, dtype=torch.float64)
    layers = [
        LMUFFT(1, 4, 6, 9, 9.0, dtype=torch.float64, encode_input=False),
        LMU(1, 4, 6, 9.0, dtype=torch.float64, encode_input=False, hidden_to_memory=False),
    ]
    expected = memory(x, layers[0].memory.Ad, layers[0].memory.Bd)[1].squeeze(1)
    for layer in layers:
        layer.return_sequences = False
        arguments = {"return_state": True} if isinstance(layer, LMUFFT) else {}
        torch.testing.assert_close(layer(x, **arguments)[1][1], expected)
    relu = LMUFFT(
        1, 4, 6, 9, 9.0, dtype=torch.float64, encode_input=False, encoder_activation=torch.relu
    )
    torch.testing.assert_close(
        relu(x, return_state=True)[1][1],
        memory(x.relu(), relu.memory.Ad, relu.memory.Bd)[1].squeeze(1),
    )
