"""What every layer must do as an ``nn.Module``, whatever it computes."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from lmu import LMUFFT, LegendreMemory
from lmu.theory import discretize, legt
from tests import devices
from tests.variants import (
    CONSTANT,
    LEGENDRE,
    OPAQUE,
    TRANSFORMED,
    VARIANTS,
    each,
    memory_of,
    run,
    state_like,
)

# The contract, as the papers and ports name things.
PARAMETERS: dict[str, dict[str, tuple[int, ...]]] = {
    "memory": {},
    "LMUCell": {"e_x": (1, 3), "e_h": (1, 7), "e_m": (1, 6)}
    | {"W_x": (7, 3), "W_h": (7, 7), "W_m": (7, 6)},
    "LMU-bare": {},
    "LMU-channels": {"e_x": (2, 3), "e_h": (2, 7), "e_m": (2, 12), "b_u": (2,)}
    | {"W_x": (7, 3), "W_h": (7, 7), "W_m": (7, 12), "b_h": (7,)},
    "LMU-memory": {"e_x": (1, 3), "e_m": (1, 6)},
    "LMU-sequential": {"e_x": (1, 3), "e_h": (1, 7), "e_m": (1, 6)}
    | {"hidden_cell.0.weight": (7, 9), "hidden_cell.0.bias": (7,)},
    "LMUFFT": {"W_u.weight": (1, 3), "W_u.bias": (1,), "W_h.weight": (7, 9), "W_h.bias": (7,)},
    "LMUFFT-channels": {"W_h.weight": (7, 18), "W_h.bias": (7,)},
}


def contract(name: str, layer: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters, by the options alone."""
    if isinstance(layer, LegendreMemory):
        return {}
    given, n = VARIANTS[name].options, 7
    d = given.get("memory_size", 6)
    c = len(given["windows"]) if "windows" in given else given.get("memory_channels", 1)
    shapes: dict[str, tuple[int, ...]] = {}
    for key in ("encoder_activation", "hidden_activation"):
        if given.get(key) == "prelu":
            shapes[f"{key}.weight"] = (1,)
    encoded, joined = given.get("encode_input", True), given.get("input_to_hidden", True)
    if isinstance(layer, LMUFFT):
        shapes |= {"W_u.weight": (c, 3), "W_u.bias": (c,)} if encoded else {}
        return shapes | {"W_h.weight": (n, c * d + 3 * joined), "W_h.bias": (n,)}
    own = "hidden_cell" not in given
    for key, shape, there in (
        ("e_x", (c, 3), encoded),
        ("e_h", (c, n), given.get("hidden_to_memory", True)),
        ("e_m", (c, c * d), given.get("memory_to_memory", True)),
        ("b_u", (c,), given.get("memory_bias", False)),
        ("W_x", (n, 3), own and joined),
        ("W_h", (n, n), own),
        ("W_m", (n, c * d), own),
        ("b_h", (n,), given.get("hidden_bias", False)),
    ):
        shapes |= {key: shape} if there else {}
    gates = {"gru": 3, "lstm": 4}.get(given.get("hidden_cell") or "")
    if gates:
        read = c * d + 3 * joined
        for key, width in (("weight_ih", (read,)), ("weight_hh", (n,)), ("bias_ih", ()),
                           ("bias_hh", ())):  # fmt: skip
            shapes[f"hidden_cell.{key}"] = (gates * n, *width)
    if given.get("hidden_cell") == "linear without bias":
        shapes["hidden_cell.weight"] = (n, c * d + 3 * joined)
    if given.get("hidden_cell") == "sequential":
        shapes |= {"hidden_cell.0.weight": (n, c * d + 3 * joined), "hidden_cell.0.bias": (n,)}
    return shapes


def assert_same(first, second, **tolerance) -> None:
    for a, b in zip(tree_leaves(first), tree_leaves(second), strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def squares(out: Any) -> Tensor:
    return torch.stack([leaf.square().sum() for leaf in tree_leaves(out)]).sum()


def backward(layer, x: Tensor) -> dict[str, Tensor]:
    """Gradients of the parameters and, as ``input``, of the input."""
    layer.zero_grad()
    x = x.detach().requires_grad_()
    squares(layer(x)).backward()
    assert x.grad is not None
    gradients = {key: p.grad for key, p in layer.named_parameters() if p.grad is not None}
    return {"input": x.grad, **gradients}


@each(CONSTANT)
def test_state_dict_holds_the_contract_and_nothing_else(name, build):
    layer = build()
    shapes = {key: tuple(value.shape) for key, value in layer.state_dict().items()}
    assert shapes == contract(name, layer)
    assert shapes == PARAMETERS.get(name, shapes)
    learned = build(learn_a=True, learn_b=True).state_dict()
    prefix = "" if isinstance(layer, LegendreMemory) else "memory."
    assert learned.keys() == shapes.keys() | {prefix + "Ad", prefix + "Bd"}


@each(CONSTANT)
def test_learned_dynamics_start_as_the_system_and_receive_gradients(name, build, make_input):
    layer = build(learn_a=True, learn_b=True)
    memory, plain = memory_of(layer), memory_of(build())
    Ad, Bd = plain.Ad.float(), plain.Bd.float()
    if name in LEGENDRE:
        thetas = layer.theta if isinstance(layer.theta, tuple) else (layer.theta,)
        systems = [discretize(*legt(6, theta)) for theta in thetas]
        A, B = (torch.stack(parts).float() for parts in zip(*systems, strict=True))
        assert_same((Ad.cpu().view_as(A), Bd.cpu().view_as(B)), (A, B), rtol=0, atol=0)
    assert_same((memory.Ad.data, memory.Bd.data), (Ad, Bd), rtol=0, atol=0)
    backward(layer, make_input())
    assert isinstance(memory.Ad.grad, Tensor)
    assert isinstance(memory.Bd.grad, Tensor)
    assert memory.Ad.grad.abs().max() > 0 or make_input().ndim == 2  # m_0 = 0 hides Ad at one step
    assert memory.Bd.grad.abs().max() > 0
    assert_same(layer(make_input()), build()(make_input()))


# In fast mode a random direction is checked, and otherwise each number by itself.
@each(CONSTANT, expensive=True)
@pytest.mark.parametrize(
    ("learned", "fast"),
    [
        (("learn_a",), True),
        (("learn_b",), True),
        (("learn_a", "learn_b"), True),
        pytest.param(("learn_a", "learn_b"), False, marks=pytest.mark.slow),
    ],
)
def test_gradcheck_through_parameters_input_and_state(name, build, make_input, learned, fast):
    layer = build(dtype=torch.float64, **dict.fromkeys(learned, True))
    keys, values = zip(*layer.named_parameters(), strict=True)
    x = make_input(length=4, dtype=torch.float64).requires_grad_()
    state, spec = tree_flatten(state_like(layer, x))
    state = [s.detach().requires_grad_() for s in state]
    kwargs = getattr(layer, "with_state", {})

    def call(x, *rest):
        parameters = dict(zip(keys, rest[len(state) :], strict=True))
        given = tree_unflatten(rest[: len(state)], spec)
        out = torch.func.functional_call(layer, parameters, (x, given), kwargs)
        return tuple(tree_leaves(out))

    # A state that was copied through gives no gradient: h_0 where nothing reads it.
    assert torch.autograd.gradcheck(call, (x, *state, *values), fast_mode=fast)


@each(CONSTANT)
def test_reset_parameters_draws_anew_and_restores_learned_dynamics(name, build):
    layer = build(learn_a=True)
    before = {key: p.detach().clone() for key, p in layer.named_parameters()}
    with torch.no_grad():
        memory_of(layer).Ad.zero_()
    layer.reset_parameters()
    after = dict(layer.named_parameters())
    unchanged = {key for key in after if torch.equal(after[key], before[key])}
    # Biases and e_m start at zero, and the slope of a PReLU at a quarter.
    always = {"Ad", "memory.Ad", "e_m", "b_u", "b_h"}
    always |= {"encoder_activation.weight", "hidden_activation.weight"}
    assert unchanged == always & after.keys()


@each(CONSTANT)
def test_deepcopy_pickle_and_weights_only_round_trips(build, make_input):
    layer, x = build(learn_b=True), make_input()
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    loaded = build(learn_b=True)
    loaded.reset_parameters()
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded):
        assert_same(twin(x), layer(x), rtol=0, atol=0)


@each(CONSTANT)
def test_pickles_hold_no_derived_tensors(build, make_input):
    layer = build()
    fresh = len(pickle.dumps(layer))
    layer(make_input(length=100))
    assert len(pickle.dumps(layer)) == fresh
    assert memory_of(layer).Ad is not None


@each(CONSTANT)
def test_going_to_double_gives_double_accuracy(build, make_input):
    layer = build()
    twin = build(dtype=torch.float64)
    twin.load_state_dict(layer.state_dict())
    x = make_input(dtype=torch.float64)
    assert_same(layer.double()(x), twin(x), rtol=0, atol=1e-15)
    back = layer.float()(x.float())
    assert_same(back, build()(x.float()), rtol=0, atol=0)


@each(CONSTANT)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_layers_run_and_keep_the_memory_in_float32(name, build, make_input, dtype):
    layer, x = build().to(dtype), make_input(dtype=dtype)
    *_, h, m = tree_leaves(run(layer, x))
    exact = build().to(dtype).double()
    *_, h_exact, m_exact = tree_leaves(run(exact, x.double()))
    # What a memory gives is the memory.
    assert h.dtype == (torch.float32 if isinstance(layer, LegendreMemory) else dtype)
    assert m.dtype == torch.float32
    assert_same((h.double(), m.double()), (h_exact, m_exact), rtol=0, atol=0.02)
    again = run(layer, x, state_like(layer, x))
    assert all(leaf.isfinite().all() for leaf in tree_leaves(again))


@each(CONSTANT)
def test_autocast_forward_and_backward(name, build, make_input):
    layer, x = build(), make_input()
    exact = tree_leaves(run(layer, x))
    right = backward(layer, x)
    with torch.autocast(devices.current.type, torch.bfloat16):
        got = tree_leaves(run(layer, x))
        upstream = layer(x.bfloat16())  # what a layer before it would hand over
        gradients = backward(layer, x)
    assert got[-1].dtype == torch.float32  # the memory
    for actual, expected in zip(got, exact, strict=True):
        torch.testing.assert_close(actual.float(), expected, rtol=0, atol=0.03)
    assert all(leaf.isfinite().all() for leaf in tree_leaves(upstream))
    for key, gradient in gradients.items():
        assert (gradient - right[key]).norm() < 0.05 * right[key].norm() + 1e-6


@each(CONSTANT)
def test_meta_device_then_empty_then_reset(build, make_input):
    layer = build(device="meta")
    assert all(t.is_meta for t in (*layer.parameters(), *layer.buffers()))
    layer.to_empty(device=devices.current)
    layer.load_state_dict(build().state_dict())
    assert_same(layer(make_input()), build()(make_input()), rtol=0, atol=0)
    layer.reset_parameters()
    assert all(leaf.isfinite().all() for leaf in tree_leaves(layer(make_input())))


@each(CONSTANT)
def test_shapes_on_the_meta_device(build, make_input):
    got = tree_leaves(build(device="meta")(make_input(device="meta", dtype=torch.float32)))
    for meta, real in zip(got, tree_leaves(build()(make_input())), strict=True):
        assert meta.is_meta
        assert (meta.shape, meta.dtype) == (real.shape, real.dtype)


@each(CONSTANT)
def test_inference_mode_leaves_nothing_behind_that_training_trips_over(build, make_input):
    layer = build()
    with torch.inference_mode():
        layer(make_input(length=30))  # longer than LMUFFT expects
        layer.float()
    assert not any(buffer.is_inference() for buffer in layer.buffers())
    assert_same(backward(layer, make_input()), backward(build(), make_input()))


@each(CONSTANT)
@pytest.mark.parametrize("chained", [False, True])
def test_gradients_with_a_graph_of_their_own_are_the_same(name, build, make_input, chained):
    # Where an argument of an op comes from another one, a path must not count twice.
    layer = build(dtype=torch.float64)
    x = make_input(dtype=torch.float64).requires_grad_()
    state = run(layer, x)[1] if chained else None
    total = squares(run(layer, x, state))
    inputs = (x, *layer.parameters())
    plain = torch.autograd.grad(total, inputs, retain_graph=True)
    assert_same(torch.autograd.grad(total, inputs, create_graph=True), plain)


# Layers with other thetas are built elsewhere in these tests.
@pytest.mark.filterwarnings("ignore:all members of this ensemble")
@each(TRANSFORMED, expensive=True)
def test_function_transforms(name, build, make_input):
    layer = build(dtype=torch.float64)
    x = make_input(dtype=torch.float64)
    parameters = dict(layer.named_parameters())

    def loss(parameters, x):
        return squares(torch.func.functional_call(layer, parameters, (x,)))

    gradients, of_input = torch.func.grad(loss, (0, 1))(parameters, x)
    assert_same({"input": of_input, **gradients}, backward(layer, x))
    if name in OPAQUE:
        return  # vmap over samples or an ensemble is beyond PyTorch's own cells
    one = torch.func.grad(loss, (0, 1))
    every, of_inputs = torch.func.vmap(one, in_dims=(None, 0))(parameters, x.unsqueeze(1))
    assert_same({key: g.sum(0) for key, g in every.items()}, gradients)
    assert_same(of_inputs.squeeze(1), of_input)
    if parameters:
        ensemble = {key: torch.stack([p, 2 * p]) for key, p in parameters.items()}
        assert_same(torch.func.vmap(loss, in_dims=(0, None))(ensemble, x)[0], loss(parameters, x))


@each([name for name in TRANSFORMED if name not in OPAQUE], expensive=True)
def test_forward_mode_derivative(name, build, make_input):
    layer = build(dtype=torch.float64)
    x = make_input(dtype=torch.float64)
    direction = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).view_as(x)

    def output(x):
        return tree_leaves(layer(x))[0]

    tangent = torch.func.jvp(output, (x,), (direction,))[1]
    step = 1e-6 * direction
    assert_same(tangent, (output(x + step) - output(x - step)) / 2e-6, rtol=1e-5, atol=1e-8)


@each(CONSTANT)
def test_input_that_is_not_contiguous(name, build, make_input):
    x = make_input()
    twisted = x.transpose(0, -1).contiguous().transpose(0, -1)
    assert not twisted.is_contiguous()
    assert_same(build()(twisted), build()(x))


# Of each kind one: compiling takes seconds.
DYNAMIC = {"LMU", "LMU-channels", "LMU-lstm", "LMU-memory", "LMUFFT-channels", "LMUFFT-last"}
DYNAMIC |= {"memory", "LMU-sigmoid", "LMU-prelu"}
LEARNED = {"LMUCell", "LMU", "LMUFFT", "memory"}
DEFAULT_BACKEND = {"LMUCell", "LMU", "LMU-open", "LMU-channels", "LMU-gru", "LMUFFT", "LMUFFT-last"}
DEFAULT_BACKEND |= {"memory", "LMU-gelu", "LMUFFT-gelu"}
# Those that stand for the others in make test.
QUICK = {
    *((name, False, False) for name in ("LMUCell", "LMU-channels", "LMU-gru", "LMUFFT")),
    *((name, True, False) for name in ("LMU", "LMUFFT-last")),
    ("LMU", True, True),
}


@pytest.mark.parametrize(
    ("name", "dynamic", "learned"),
    [
        pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow])
        for case in (
            *((name, False, False) for name in CONSTANT),
            *((name, True, False) for name in sorted(DYNAMIC)),
            *((name, True, True) for name in sorted(LEARNED)),
        )
    ],
)
def test_compiles_as_one_graph(name, build, make_input, dynamic, learned):
    # In float64: a recurrence makes of float32's rounding, which differs, more than is allowed.
    torch._dynamo.reset()
    kwargs = {"learn_a": learned, "dtype": torch.float64}
    layer = build(**kwargs)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for length in (9, 13):  # LMUFFT expects 9: the longer one makes it extend what it keeps
        x = make_input(length, dtype=torch.float64)
        assert_same(compiled(x), build(**kwargs)(x))
        assert_same(backward(compiled, x), backward(build(**kwargs), x))


# Of these two stand for the others in make test: each takes a C++ compiler ten seconds.
@each(sorted(DEFAULT_BACKEND), expensive=True, quick={"LMU", "LMUFFT-last"})
@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex")
def test_compiles_with_the_default_backend(name, build, make_input):
    torch._dynamo.reset()
    # Rounding grows in a loop of float32 more than is allowed.
    dtype = torch.float64 if name == "LMU-gelu" else torch.float32
    layer, x = build(dtype=dtype), make_input(dtype=dtype)
    compiled = torch.compile(layer, fullgraph=True)
    assert_same(compiled(x), layer(x))
    assert_same(backward(compiled, x), backward(build(dtype=dtype), x))


@each(CONSTANT)
def test_repr_names_the_arguments(name, build):
    given = VARIANTS[name].options
    plain: Any = build()
    discretizer = {} if "system" in given else {"discretizer": "bilinear"}
    text = repr(build(learn_a=True, **discretizer))
    parts = [f"memory_size={given.get('memory_size', 6)}", "theta=", "learn_a=True"]
    parts += ["discretizer='bilinear'"] if discretizer else ["system=(...)"]
    if not isinstance(plain, LegendreMemory):
        parts += ["input_size=3", f"hidden_size={plain.hidden_size}"]
    names = {"prelu": "PReLU"}
    for key in ("hidden_activation", "method"):
        value = given.get(key)
        if isinstance(getattr(plain, key, None), nn.Module):
            parts.append(f"{key}): {names[str(value)]}")
        elif value is not None:
            parts.append(f"{key}={value!r}" if key == "method" else f"{key}=")
    for part in parts + (["seq_len=9"] if given.get("seq_len") else []):
        assert part in text
    assert "learn_b" not in text
