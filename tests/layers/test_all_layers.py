"""What every layer must do as an ``nn.Module``, whatever it computes."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from lmu.theory import discretize, legt
from tests.layers.conftest import BUILD, state_like

PARAMETERS = {
    "LMUCell": {"e_x": (1, 3), "e_h": (1, 7), "e_m": (1, 6)}
    | {"W_x": (7, 3), "W_h": (7, 7), "W_m": (7, 6)},
    "LMUFFT": {"W_u.weight": (1, 3), "W_u.bias": (1,), "W_h.weight": (7, 9), "W_h.bias": (7,)},
}
PARAMETERS["LMU-channels"] = {"e_x": (2, 3), "e_h": (2, 7), "e_m": (2, 12), "b_u": (2,)}
PARAMETERS["LMU-channels"] |= {"W_x": (7, 3), "W_h": (7, 7), "W_m": (7, 12), "b_h": (7,)}
PARAMETERS["LMU-channels-open"] = {"e_x": (2, 3), "W_h": (7, 7), "W_m": (7, 12)}
PARAMETERS["LMU-tanh"] = PARAMETERS["LMUCell"]
PARAMETERS["LMU-memory"] = {"e_x": (1, 3), "e_m": (1, 6)}
PARAMETERS["LMU-linear"] = {"e_x": (1, 3), "e_h": (1, 7), "e_m": (1, 6)}
PARAMETERS["LMU-linear"] |= {"hidden_cell.0.weight": (7, 9), "hidden_cell.0.bias": (7,)}


def gates(count: int, inputs: int) -> dict[str, tuple[int, ...]]:
    n = 7 * count
    shapes = {"weight_ih": (n, inputs), "weight_hh": (n, 7), "bias_ih": (n,), "bias_hh": (n,)}
    return {f"hidden_cell.{name}": shape for name, shape in shapes.items()}


PARAMETERS["LMU-gru"] = {"e_x": (2, 3)} | gates(3, 15)
PARAMETERS["LMU-lstm"] = {"e_x": (1, 3), "e_h": (1, 7), "e_m": (1, 6)} | gates(4, 6)
PARAMETERS["LMUFFT-channels"] = {"W_h.weight": (7, 18), "W_h.bias": (7,)}
PARAMETERS["LMU-open"] = PARAMETERS["LMU-tanh-open"] = {
    key: shape for key, shape in PARAMETERS["LMUCell"].items() if key not in {"e_h", "e_m"}
}
PARAMETERS |= {"LMU": PARAMETERS["LMUCell"], "LMUFFT-last": PARAMETERS["LMUFFT"]}


def assert_same(first, second, **tolerance) -> None:
    for a, b in zip(tree_leaves(first), tree_leaves(second), strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def backward(layer, x: Tensor) -> dict[str, Tensor]:
    layer.zero_grad()
    torch.stack([leaf.square().sum() for leaf in tree_leaves(layer(x))]).sum().backward()
    return {key: p.grad for key, p in layer.named_parameters() if p.grad is not None}


def test_state_dict_holds_the_contract_and_nothing_else(name, build):
    shapes = {key: tuple(value.shape) for key, value in build().state_dict().items()}
    assert shapes == PARAMETERS[name]
    learned = build(learn_a=True, learn_b=True).state_dict()
    assert learned.keys() == PARAMETERS[name].keys() | {"memory.Ad", "memory.Bd"}


def test_learned_dynamics_start_as_the_legendre_system_and_receive_gradients(build, make_input):
    layer = build(learn_a=True, learn_b=True)
    thetas = layer.theta if isinstance(layer.theta, tuple) else (layer.theta,)
    systems = [discretize(*legt(6, theta)) for theta in thetas]
    Ad, Bd = (torch.stack(parts).float() for parts in zip(*systems, strict=True))
    got = layer.memory.Ad.data.view_as(Ad), layer.memory.Bd.data.view_as(Bd)
    assert_same(got, (Ad, Bd), rtol=0, atol=0)
    gradients = backward(layer, make_input())
    assert (
        gradients["memory.Ad"].abs().max() > 0 or make_input().ndim == 2
    )  # m_0 = 0 hides Ad at one step
    assert gradients["memory.Bd"].abs().max() > 0
    assert_same(layer(make_input()), build()(make_input()))


# In fast mode a random direction is checked, and otherwise each number by itself.
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

    def call(x, *rest):
        kwargs = {"return_state": True} if "FFT" in name else {}
        parameters = dict(zip(keys, rest[len(state) :], strict=True))
        given = tree_unflatten(rest[: len(state)], spec)
        out = torch.func.functional_call(layer, parameters, (x, given), kwargs)
        return tuple(tree_leaves(out))

    # A state that was copied through gives no gradient: h_0 where nothing reads it.
    assert torch.autograd.gradcheck(call, (x, *state, *values), fast_mode=fast)


def test_reset_parameters_draws_anew_and_restores_learned_dynamics(build):
    layer = build(learn_a=True)
    before = {key: p.detach().clone() for key, p in layer.named_parameters()}
    with torch.no_grad():
        layer.memory.Ad.zero_()
    layer.reset_parameters()
    after = dict(layer.named_parameters())
    unchanged = {key for key in after if torch.equal(after[key], before[key])}
    assert unchanged == {"memory.Ad"} | (
        {"e_m", "b_u", "b_h"} & after.keys()
    )  # these start at zero


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


def test_pickles_hold_no_derived_tensors(build, make_input):
    layer = build()
    fresh = len(pickle.dumps(layer))
    layer(make_input(length=100))
    assert len(pickle.dumps(layer)) == fresh
    assert layer.memory.Ad is not None


def test_going_to_double_gives_double_accuracy(build, make_input):
    layer = build()
    twin = build(dtype=torch.float64)
    twin.load_state_dict(layer.state_dict())
    x = make_input(dtype=torch.float64)
    assert_same(layer.double()(x), twin(x), rtol=0, atol=1e-15)
    back = layer.float()(x.float())
    assert_same(back, build()(x.float()), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_layers_run_and_keep_the_memory_in_float32(name, build, make_input, dtype):
    layer = build().to(dtype)
    kwargs = {"return_state": True} if "FFT" in name else {}
    *_, h, m = tree_leaves(layer(make_input(dtype=dtype), **kwargs))
    assert (h.dtype, m.dtype) == (dtype, torch.float32)
    *_, h_exact, m_exact = tree_leaves(
        build().to(dtype).double()(make_input(dtype=dtype).double(), **kwargs)
    )
    assert_same((h.double(), m.double()), (h_exact, m_exact), rtol=0, atol=0.02)
    state = state_like(layer, make_input(dtype=dtype))
    again = layer(make_input(dtype=dtype), state, **kwargs)
    assert all(leaf.isfinite().all() for leaf in tree_leaves(again))


def test_autocast_forward_and_backward(name, build, make_input):
    layer, x = build(), make_input()
    kwargs = {"return_state": True} if "FFT" in name else {}
    exact = tree_leaves(layer(x, **kwargs))
    right = backward(layer, x)
    with torch.autocast("cpu", torch.bfloat16):
        got = tree_leaves(layer(x, **kwargs))
        upstream = layer(x.bfloat16())  # what a layer before it would hand over
        gradients = backward(layer, x)
    assert got[-1].dtype == torch.float32  # the memory
    for actual, expected in zip(got, exact, strict=True):
        torch.testing.assert_close(actual.float(), expected, rtol=0, atol=0.03)
    assert all(leaf.isfinite().all() for leaf in tree_leaves(upstream))
    for key, gradient in gradients.items():
        assert (gradient - right[key]).norm() < 0.05 * right[key].norm() + 1e-6


def test_meta_device_then_empty_then_reset(build, make_input):
    layer = build(device="meta")
    assert all(t.is_meta for t in (*layer.parameters(), *layer.buffers()))
    layer.to_empty(device="cpu")
    layer.load_state_dict(build().state_dict())
    assert_same(layer(make_input()), build()(make_input()), rtol=0, atol=0)
    layer.reset_parameters()
    assert all(leaf.isfinite().all() for leaf in tree_leaves(layer(make_input())))


def test_shapes_on_the_meta_device(build, make_input):
    got = tree_leaves(build(device="meta")(make_input(device="meta", dtype=torch.float32)))
    for meta, real in zip(got, tree_leaves(build()(make_input())), strict=True):
        assert meta.is_meta
        assert (meta.shape, meta.dtype) == (real.shape, real.dtype)


def test_inference_mode_leaves_nothing_behind_that_training_trips_over(build, make_input):
    layer = build()
    with torch.inference_mode():
        layer(make_input(length=30))  # longer than LMUFFT expects
        layer.float()
    assert not any(buffer.is_inference() for buffer in layer.buffers())
    assert_same(backward(layer, make_input()), backward(build(), make_input()))


@pytest.mark.parametrize("chained", [False, True])
def test_gradients_with_a_graph_of_their_own_are_the_same(name, build, make_input, chained):
    # Where an argument of an op comes from another one, a path must not count twice.
    layer = build(dtype=torch.float64)
    kwargs = {"return_state": True} if "FFT" in name else {}
    x = make_input(dtype=torch.float64).requires_grad_()
    state: Any = layer(x, **kwargs) if chained else None
    if chained and name != "LMUCell":
        state = state[1]
    total = torch.stack([leaf.square().sum() for leaf in tree_leaves(layer(x, state, **kwargs))])
    wanted = (x, *layer.parameters())
    plain = torch.autograd.grad(total.sum(), wanted, retain_graph=True)
    assert_same(torch.autograd.grad(total.sum(), wanted, create_graph=True), plain)


# Layers with other thetas are built elsewhere in these tests.
@pytest.mark.filterwarnings("ignore:all members of this ensemble")
def test_function_transforms(name, build, make_input):
    layer = build(dtype=torch.float64)
    x = make_input(dtype=torch.float64)
    parameters = dict(layer.named_parameters())

    def loss(parameters, x):
        out = tree_leaves(torch.func.functional_call(layer, parameters, (x,)))
        return torch.stack([leaf.square().sum() for leaf in out]).sum()

    gradients = torch.func.grad(loss)(parameters, x)
    assert_same(gradients, backward(layer, x))
    if name in {"LMU-gru", "LMU-lstm"}:
        return  # vmap over samples or an ensemble is beyond PyTorch's own cells
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x.unsqueeze(1))
    assert_same({key: g.sum(0) for key, g in each.items()}, gradients)
    ensemble = {key: torch.stack([p, 2 * p]) for key, p in parameters.items()}
    assert_same(torch.func.vmap(loss, in_dims=(0, None))(ensemble, x)[0], loss(parameters, x))


def test_forward_mode_derivative(name, build, make_input):
    layer = build(dtype=torch.float64)
    x = make_input(dtype=torch.float64)
    direction = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).view_as(x)

    def output(x):
        return tree_leaves(layer(x))[0]

    if name in {"LMU-gru", "LMU-lstm"}:
        pytest.skip("PyTorch's own cells have no forward-mode derivative")
    tangent = torch.func.jvp(output, (x,), (direction,))[1]
    step = 1e-6 * direction
    assert_same(tangent, (output(x + step) - output(x - step)) / 2e-6, rtol=1e-5, atol=1e-8)


def test_input_that_is_not_contiguous(name, build, make_input):
    x = make_input()
    twisted = x.transpose(0, -1).contiguous().transpose(0, -1)
    assert not twisted.is_contiguous()
    assert_same(build()(twisted), build()(x))


# Of each kind one: compiling takes seconds.
DYNAMIC = {"LMU", "LMU-channels", "LMU-lstm", "LMU-memory", "LMUFFT-channels", "LMUFFT-last"}
LEARNED = {"LMUCell", "LMU", "LMUFFT"}
DEFAULT_BACKEND = {"LMUCell", "LMU", "LMU-open", "LMU-channels", "LMU-gru", "LMUFFT", "LMUFFT-last"}
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
            *((name, False, False) for name in BUILD),
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
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in {"LMU", "LMUFFT-last"} else [pytest.mark.slow])
        for name in sorted(DEFAULT_BACKEND)
    ],
)
@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex")
def test_compiles_with_the_default_backend(name, build, make_input):
    torch._dynamo.reset()
    layer, x = build(), make_input()
    compiled = torch.compile(layer, fullgraph=True)
    assert_same(compiled(x), layer(x))
    assert_same(backward(compiled, x), backward(build(), x))


def test_repr_names_the_arguments(name, build):
    text = repr(build(learn_a=True, discretizer="bilinear"))
    parts = ["input_size=3", f"hidden_size={build().hidden_size}", "memory_size=6", "theta="]
    parts += ["learn_a=True", "discretizer='bilinear'"]
    for part in parts + (["seq_len=9"] if "FFT" in name else []):
        assert part in text
    assert "learn_b" not in text
