"""Every method of the nonlinear LMU, against its equations in float64."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lmu.ops import (
    LMU_METHODS,
    LMUWeights,
    Problem,
    block_dynamics,
    choose_lmu,
    explain_lmu,
    lmu_sequence,
    native,
)
from lmu.ops.lmu.block_matrices import block_matrices
from lmu.ops.lmu.naive import naive
from lmu.theory import discretize, legt
from tests import cores, devices
from tests.devices import exact, place

F64 = torch.float64
on_cuda = pytest.param(
    "triton", marks=pytest.mark.skipif(devices.current.type != "cuda", reason="needs --device cuda")
)
NATIVE = ["native", "native_blocks"]
methods = pytest.mark.parametrize("method", ["loop", "blocks", *map(cores.param, NATIVE), on_cuda])
without_feedback = pytest.mark.parametrize(
    "method", ["loop", "blocks", "parallel", *map(cores.param, NATIVE), on_cuda]
)


def arguments(
    batch: int, length: int, features: int, hidden: int, order: int, channels=1, dtype=F64
):
    g = torch.Generator().manual_seed(length)

    def draw(*shape: int) -> Tensor:
        return place((torch.randn(shape, dtype=F64, generator=g) / shape[-1] ** 0.5).to(dtype))

    systems = [discretize(*legt(order, 30.0 + 5 * c)) for c in range(channels)]
    E = torch.block_diag(*(Ad - torch.eye(order, dtype=F64) for Ad, _ in systems)).to(dtype)
    Bd = torch.block_diag(*(Bd[:, None] for _, Bd in systems)).to(dtype)
    order *= channels
    weights = LMUWeights(
        e_x=draw(channels, features),
        e_h=draw(channels, hidden),
        e_m=draw(channels, order),
        W_x=draw(hidden, features),
        W_h=draw(hidden, hidden),
        W_m=draw(hidden, order),
        E=place(E),
        Bd=place(Bd),
    )
    return draw(batch, length, features), draw(batch, hidden), draw(batch, order), weights


def with_gradients(run, x: Tensor, h: Tensor, m: Tensor, w: LMUWeights, unused: bool = False):
    inputs = [t.clone().requires_grad_() for t in (x, h, m, *w)]
    outputs = run(*inputs[:3], LMUWeights(*inputs[3:]))
    g = torch.Generator().manual_seed(0)
    seeds = [torch.randn(o.shape, dtype=F64, generator=g).to(o.dtype).to(o.device) for o in outputs]
    return outputs, torch.autograd.grad(
        outputs, inputs, seeds, allow_unused=unused, materialize_grads=unused
    )


def run(method):
    def call(x, h, m, w):
        y, (h, m) = lmu_sequence(x, h, m, w, method=method)
        return y, h, m

    return call


@methods
@pytest.mark.parametrize("rows", [1, 5, 1000])
@pytest.mark.parametrize(
    "sizes",
    [
        *[(1, 1, 1, 1, 1), (2, 2, 3, 5, 4), (3, 61, 1, 4, 9), (2, 33, 2, 8, 5)],
        *[(1, 1, 1, 2, 2, 3), (3, 40, 2, 5, 3, 2), (2, 33, 2, 8, 2, 5), (2, 7, 2, 3, 1, 20)],
    ],
    ids=str,
)
def test_states_and_all_gradients(monkeypatch, method, rows, sizes):
    # Blocks of 8 to 23 steps, whose weights' gradients are one product for up to ``rows`` rows.
    monkeypatch.setattr("lmu.ops.lmu.blocks_backward.ROWS", rows)
    args = arguments(*sizes)
    torch.testing.assert_close(with_gradients(run(method), *args), with_gradients(naive, *args))


@methods
def test_nothing_is_read_before_it_is_written(poisoned, method):
    for channels in (1, 2):
        args = arguments(3, 61, 1, 4, 9, channels)
        right = with_gradients(naive, *args)
        torch.testing.assert_close(with_gradients(run(method), *args), right)


@methods
def test_gradcheck(method):
    x, h, m, w = arguments(2, 4, 2, 3, 3)
    inputs = [t.requires_grad_() for t in (x, h, m, *w)]

    def call(x, h, m, *weights):
        return run(method)(x, h, m, LMUWeights(*weights))

    assert torch.autograd.gradcheck(call, inputs)


@methods
def test_float32_is_close_to_float64(method):
    """300 steps at order 64; the recurrence itself amplifies rounding, more so backward."""
    x, h, m, w = arguments(2, 300, 1, 32, 64, dtype=torch.float32)
    wide = LMUWeights(*map(exact, w))
    right = with_gradients(naive, exact(x), exact(h), exact(m), wide)
    got = with_gradients(run(method), x, h, m, w)
    for results, truths, bound in zip(got, right, (1e-5, 6e-5), strict=True):
        for actual, truth in zip(results, truths, strict=True):
            assert (exact(actual) - truth).norm() / truth.norm() < bound


@methods
def test_input_that_is_not_contiguous_and_expanded_gradient(method):
    x, h, m, w = arguments(2, 9, 3, 5, 4)
    x = x.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    grads = [torch.autograd.grad(f(x, h, m, w)[0].sum(), x)[0] for f in (run(method), naive)]
    torch.testing.assert_close(*grads)


@methods
def test_only_some_gradients_wanted(method):
    x, h, m, w = arguments(2, 9, 3, 5, 4)
    w.W_m.requires_grad_()
    (y, (_, m_n)) = lmu_sequence(x, h, m, w, method=method)
    (got,) = torch.autograd.grad(y.square().sum() + m_n.sum(), w.W_m)
    right_y, _, right_m = naive(x, h, m, w)
    (right,) = torch.autograd.grad(right_y.square().sum() + right_m.sum(), w.W_m)
    torch.testing.assert_close(got, right)


@methods
def test_second_derivative(method):
    x, h, m, w = arguments(1, 3, 1, 2, 2, 2)
    inputs = [t.requires_grad_() for t in (x, h, w.W_h, w.e_m)]

    def call(x, h, W_h, e_m):
        return run(method)(x, h, m, w._replace(W_h=W_h, e_m=e_m))

    assert torch.autograd.gradgradcheck(call, inputs)


@methods
@pytest.mark.parametrize(
    "sizes", [(3, 40, 2, 5, 4), (12, 36, 2, 4, 5), (2, 33, 1, 5, 3, 2)], ids=str
)
def test_gradients_with_a_graph_of_their_own(method, sizes):
    # Batches of the size of a block, and others: what broadcasts by chance must not pass for right.
    x, h, m, w = arguments(*sizes)
    inputs = [t.requires_grad_() for t in (x, h, m, *w)]
    results = []
    for call in (run(method), naive):
        y, h_n, m_n = call(x, h, m, w)
        total = y.square().sum() + h_n.sum() + m_n.square().sum()
        first = torch.autograd.grad(total, inputs, create_graph=True)
        norm = torch.stack([g.square().sum() for g in first]).sum()
        second = torch.autograd.grad(norm, inputs)
        results.append((first, second))
    torch.testing.assert_close(*results)


@without_feedback
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (2, 2, 3, 5, 4), (3, 61, 1, 4, 9)], ids=str)
def test_without_feedback_of_h(method, sizes):
    x, h, m, w = arguments(*sizes)
    zero = torch.zeros_like(w.e_h)

    def call(x, h, m, w):
        return run_without_feedback(method)(x, h, m, w._replace(e_h=zero))

    def right(x, h, m, w):
        return naive(x, h, m, w._replace(e_h=zero))

    got, expected = (with_gradients(f, x, h, m, w, unused=True) for f in (call, right))
    torch.testing.assert_close(got, expected)


def run_without_feedback(method):
    def call(x, h, m, w):
        y, (h, m) = lmu_sequence(x, h, m, w, method=method, feedback=False)
        return y, h, m

    return call


def test_second_derivative_without_feedback():
    x, h, m, w = arguments(1, 3, 1, 2, 2)
    inputs = [t.requires_grad_() for t in (x, h, w.W_h, w.e_m)]

    def call(x, h, W_h, e_m):
        weights = w._replace(W_h=W_h, e_m=e_m, e_h=torch.zeros_like(w.e_h))
        return run_without_feedback("parallel")(x, h, m, weights)

    assert torch.autograd.gradgradcheck(call, inputs)


def test_parallel_refuses_feedback():
    with pytest.raises(ValueError, match="'parallel' cannot run: e_h feeds the hidden state back"):
        lmu_sequence(*arguments(1, 2, 1, 2, 2), method="parallel")


# It fails in evaluating a condition on sizes that are all symbols.
old = pytest.mark.skipif(
    torch.__version__ < "2.7",  # compared as versions, not as text
    reason="the compiler of PyTorch 2.6 fails on symbolic sizes",
)


# Layers of dynamic sizes, which hold this operator, are compiled in make test.
@pytest.mark.parametrize("dynamic", [False, pytest.param(True, marks=[old, pytest.mark.slow])])
@pytest.mark.parametrize("method", ["blocks", *map(cores.param, NATIVE)])
def test_sequences_compile_as_one_operator(method, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(run(method), fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for length in (40, 61):
        args = arguments(2, length, 2, 5, 4, 2)
        torch.testing.assert_close(with_gradients(compiled, *args), with_gradients(naive, *args))
        with torch.no_grad():
            torch.testing.assert_close(compiled(*args), naive(*args))


# opcheck's own, in PyTorch 2.14.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("needed", ["x", "weights", "all"])
@pytest.mark.parametrize("engine", ["torch", cores.param("native")])
def test_blocks_are_a_valid_operator(engine, needed):
    x, h, m, w = arguments(2, 30, 2, 5, 4)
    powers = block_dynamics(w.E, w.Bd, 8)
    inputs = [x, h, m, *block_matrices(w, powers)]
    for t in {"x": inputs[:1], "weights": inputs[3:], "all": inputs}[needed]:
        t.requires_grad_()
    torch.library.opcheck(torch.ops.lmu.blocks.default, (engine, "tanh", *inputs))


# opcheck's own, in PyTorch 2.14.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("method", [cores.param("native")])
@pytest.mark.parametrize("needed", ["x", "weights", "all"])
def test_steps_are_a_valid_operator(method, needed):
    x, h, m, w = arguments(2, 30, 2, 5, 4)
    for t in {"x": [x], "weights": [*w], "all": [x, h, m, *w]}[needed]:
        t.requires_grad_()
    torch.library.opcheck(torch.ops.lmu.steps.default, (x, h, m, [*w], "tanh"))


def test_powers_keep_the_digits_of_increments():
    Ad, Bd = discretize(*legt(16, 10_000.0))
    D, H = block_dynamics(Ad - torch.eye(16, dtype=F64), Bd[:, None], 13)
    for j in range(14):
        power = torch.linalg.matrix_power(Ad, j)
        torch.testing.assert_close(D[j], power - torch.eye(16, dtype=F64), rtol=1e-9, atol=1e-12)
        if j < 13:
            torch.testing.assert_close(H[j], power @ Bd)


def test_choice_without_the_core_is_the_loop_where_matrices_would_not_be_repaid():
    with native.use(None):
        check_choice_of_loop()


def check_choice_of_loop():
    options: dict[str, Any]
    long = Problem(784, 256, 212, 100)
    assert choose_lmu(long) == "blocks"
    assert choose_lmu(long, feedback=False) == "parallel"
    flops = [LMU_METHODS[method].cost(long).flops for method in ("loop", "blocks", "parallel")]
    assert flops == sorted(flops, reverse=True)
    assert explain_lmu(long).cost == LMU_METHODS["blocks"].cost(long)
    for problem, options in (
        (Problem(3, 2048, 4), {}),
        (long, {"transformed": True}),
        (Problem(1, 256, 4), {"feedback": False}),
    ):
        choice = explain_lmu(problem, **options)
        assert choice.method == choose_lmu(problem, **options) == "loop"
        assert choice.reason


INTERPRETED = """
import torch, tests.ops.lmu.test_sequence as t
for sizes in [(2, 2, 3, 5, 4), (17, 33, 1, 8, 5, 2)]:
    args = t.arguments(*sizes, dtype=torch.float32)
    exact = t.with_gradients(t.run("blocks"), *args)
    for a, b in zip(t.with_gradients(t.run("triton"), *args), exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

x, h, m, w = t.arguments(2, 30, 2, 5, 4, dtype=torch.float32)
inputs = [x, h, m, *t.block_matrices(w, t.block_dynamics(w.E, w.Bd, 8))]
for tensor in inputs:
    tensor.requires_grad_()
torch.library.opcheck(torch.ops.lmu.blocks.default, ('triton', 'tanh', *inputs))
"""


def test_triton_kernels_give_the_same_in_the_interpreter():
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": f".{os.pathsep}src"}
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", INTERPRETED]
    ran = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.skipif(devices.current.type != "cpu", reason="of the CPU")
def test_triton_kernels_refuse_a_cpu():
    with pytest.raises((ImportError, ValueError), match=r"triton not|need CUDA tensors"):
        lmu_sequence(*arguments(1, 2, 1, 2, 2, dtype=torch.float32), method="triton")


def test_unknown_method():
    with pytest.raises(
        ValueError,
        match=r"'auto' or one of \['loop', 'blocks', .*'parallel'\], got 'quick'",
    ):
        lmu_sequence(*arguments(1, 2, 1, 2, 2), method="quick")
