"""Every activation in every method of the nonlinear LMU, against its equations in float64."""

from typing import Any

import pytest
import torch

from lmu.ops import (
    LMU_METHODS,
    LMUWeights,
    Problem,
    block_dynamics,
    choose_lmu,
    explain_lmu,
    lmu_sequence,
    lmu_step,
    native,
)
from lmu.ops.lmu.block_matrices import block_matrices
from lmu.ops.lmu.naive import naive
from lmu.ops.recurrence import plain, recurrence
from tests import cores, devices
from tests.devices import exact, named, place
from tests.ops.lmu.test_sequence import F64, NATIVE, arguments, with_gradients

FUSED = ["tanh", "relu", "sigmoid", "identity"]
fused = pytest.mark.parametrize("activation", FUSED)
every = pytest.mark.parametrize("activation", [*FUSED, "gelu", torch.sin], ids=named)
RUNS: list[Any] = [("blocks", name) for name in FUSED]
RUNS += [
    pytest.param(method, name, marks=cores.param(method).marks, id=f"{method}-{name}")
    for method in NATIVE
    for name in FUSED
]
RUNS += [(method, f) for method in ("loop", "auto") for f in (*FUSED, "gelu", torch.sin)]
runs = pytest.mark.parametrize(("method", "activation"), RUNS, ids=named)


def run(method: str, activation: Any, feedback: bool = True):
    def call(x, h, m, w):
        y, (h, m) = lmu_sequence(
            x, h, m, w, method=method, activation=activation, feedback=feedback
        )
        return y, h, m

    return call


def truth(activation: Any):
    return lambda x, h, m, w: naive(x, h, m, w, activation)


def without_feedback(*sizes: int, dtype=F64):
    x, h, m, w = arguments(*sizes, dtype=dtype)
    w = w._replace(e_h=torch.zeros_like(w.e_h))
    return x, h, m, w if len(w.e_x) == 1 else w._replace(e_m=torch.zeros_like(w.e_m))


@runs
@pytest.mark.parametrize(
    "sizes", [(3, 61, 1, 4, 9), (2, 33, 2, 8, 3, 2), (1, 1, 1, 1, 1)], ids=named
)
def test_states_and_all_gradients(method, activation, sizes):
    args = arguments(*sizes)
    right = with_gradients(truth(activation), *args)
    torch.testing.assert_close(with_gradients(run(method, activation), *args), right)


@every
@pytest.mark.parametrize("sizes", [(3, 61, 1, 4, 9), (2, 33, 2, 8, 3, 2)], ids=named)
def test_parallel_states_and_all_gradients(activation, sizes):
    args = without_feedback(*sizes)
    (y, h, m), grads = with_gradients(run("parallel", activation, False), *args, unused=True)
    (y_0, h_0, m_0), right = with_gradients(truth(activation), *args, unused=True)
    torch.testing.assert_close((y, h, m), (y_0, h_0, m_0))
    # Nothing is fed back, so that nothing flows to e_h, and with several channels none to e_m.
    unread = {"e_h", "e_m"} if sizes[-1] == 2 else {"e_h"}
    for name, got, gradient in zip(("x", "h", "m", *LMUWeights._fields), grads, right, strict=True):
        if name not in unread and not (len(sizes) == 6 and name in {"E", "Bd"}):
            torch.testing.assert_close(got, gradient, msg=lambda text, n=name: f"{n}: {text}")


@fused
def test_nothing_is_read_before_it_is_written(poisoned, activation):
    args = arguments(3, 61, 1, 4, 9)
    right = with_gradients(truth(activation), *args)
    torch.testing.assert_close(with_gradients(run("blocks", activation), *args), right)


@fused
@pytest.mark.parametrize("method", ["blocks", "parallel"])
def test_gradcheck_and_second_derivative(method, activation):
    feedback = method == "blocks"
    x, h, m, w = (arguments if feedback else without_feedback)(2, 4, 2, 3, 3)
    inputs = [t.requires_grad_() for t in (x, h, m, w.W_x, w.W_h, w.W_m, w.e_x)]

    def call(x, h, m, W_x, W_h, W_m, e_x):
        weights = w._replace(W_x=W_x, W_h=W_h, W_m=W_m, e_x=e_x)
        return run(method, activation, feedback)(x, h, m, weights)

    assert torch.autograd.gradcheck(call, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


@runs
def test_float32_and_autocast(method, activation):
    """100 steps at order 24; under autocast nothing is narrowed."""
    args = arguments(2, 100, 1, 12, 24, dtype=torch.float32)
    x, h, m, w = args
    # So that the recurrence forgets, with an activation that does not.
    w = w._replace(W_h=w.W_h / 2, e_h=w.e_h / 4, e_m=w.e_m / 4)
    right = naive(exact(x), exact(h), exact(m), LMUWeights(*map(exact, w)), activation)
    for enabled in (False, True):
        with torch.autocast(devices.current.type, torch.bfloat16, enabled=enabled):
            got = run(method, activation)(x, h, m, w)
        for result, number in zip(got, right, strict=True):
            assert result.dtype == torch.float32
            assert (exact(result) - number).norm() / number.norm() < 1e-5


@runs
@pytest.mark.parametrize("split", [1, 20])
def test_split_and_resume_equals_whole(method, activation, split):
    x, h, m, w = arguments(2, 41, 2, 5, 4)
    whole, h_n, m_n = run(method, activation)(x, h, m, w)
    first, h_1, m_1 = run(method, activation)(x[:, :split], h, m, w)
    second, h_2, m_2 = run(method, activation)(x[:, split:], h_1, m_1, w)
    torch.testing.assert_close((torch.cat([first, second], dim=1), h_2, m_2), (whole, h_n, m_n))


@every
def test_a_step_is_one_of_the_sequence(activation):
    x, h, m, w = arguments(2, 1, 2, 5, 4)
    shares = x[:, 0] @ w.e_x.mT, x[:, 0] @ w.W_x.mT
    _, *right = naive(x, h, m, w, activation)
    torch.testing.assert_close([*lmu_step(*shares, h, m, w, activation)], right)


@pytest.mark.parametrize(
    ("method", "activation"),
    [
        ("blocks", "relu"),
        *(pytest.param(m, "sigmoid", marks=cores.param(m).marks) for m in NATIVE),
        ("parallel", "sigmoid"),
        ("auto", "identity"),
        ("auto", "gelu"),
        ("loop", torch.sin),
        ("parallel", torch.sin),
    ],
    ids=named,
)
def test_compiles_as_one_graph(method, activation):
    torch._dynamo.reset()
    feedback = method != "parallel"
    args = (arguments if feedback else without_feedback)(2, 18, 2, 5, 4)
    call = run(method, activation, feedback)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    got = with_gradients(compiled, *args, unused=True)
    torch.testing.assert_close(got, with_gradients(call, *args, unused=True))


# opcheck's own, in PyTorch 2.14.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@fused
@pytest.mark.parametrize("engine", ["torch", cores.param("native")])
def test_blocks_are_a_valid_operator(engine, activation):
    x, h, m, w = arguments(2, 11, 2, 5, 4)
    inputs = [x, h, m, *block_matrices(w, block_dynamics(w.E, w.Bd, 8))]
    for t in inputs:
        t.requires_grad_()
    torch.library.opcheck(torch.ops.lmu.blocks.default, (engine, activation, *inputs))


@fused
def test_recurrence_is_a_valid_operator(activation):
    g = torch.Generator().manual_seed(0)
    inputs = [
        place(torch.randn(shape, dtype=F64, generator=g) / 2).requires_grad_()
        for shape in ((2, 20, 5), (2, 5), (5, 5))
    ]
    torch.library.opcheck(torch.ops.lmu.recurrence.default, (*inputs, activation))
    a, h, W = inputs
    results = [recurrence(a, h, W, activation), plain(a, h, W, activation)[0]]
    torch.testing.assert_close(*results)
    grads = [torch.autograd.grad(y.square().sum(), inputs) for y in results]
    torch.testing.assert_close(*grads)


def test_choice_without_the_core():
    with native.use(None):
        check_choice()


def check_choice():
    long = Problem(784, 256, 212, 100)
    for name in FUSED:
        assert choose_lmu(long, activation=name) == "blocks"
    for activation in ("gelu", torch.sin):
        choice = explain_lmu(long, activation=activation)
        assert choice.method == choose_lmu(long, activation=activation) == "loop"
        assert choice.reason == "blocks of time run the activations tanh, relu, sigmoid, identity"
        assert choose_lmu(long, activation=activation, feedback=False) == "parallel"


def test_wrong_activations():
    x, h, m, w = arguments(1, 2, 1, 2, 2)
    wrong: Any
    for wrong, error in (("swish", ValueError), (1, TypeError)):
        with pytest.raises(error, match=f"activation must be one of .*, got {wrong!r}"):
            lmu_sequence(x, h, m, w, activation=wrong)
        with pytest.raises(error, match=f"activation must be one of .*, got {wrong!r}"):
            lmu_step(x[:, 0], h, h, m, w, wrong)
        with pytest.raises(error, match=f"activation must be one of .*, got {wrong!r}"):
            choose_lmu(Problem(5, 4, 3), activation=wrong)
    for method, activation, says in (
        ("blocks", "gelu", r"'blocks' runs the activations tanh, .*, got gelu: choose"),
        ("blocks", torch.sin, r"'blocks' runs the activations .*, got a function"),
        ("triton", "relu", r"'triton' runs the activations tanh, got relu"),
    ):
        with pytest.raises(ValueError, match=says):
            lmu_sequence(x, h, m, w, method=method, activation=activation)
        assert method in LMU_METHODS
