"""The kernels of the chunked read-out, in the interpreter."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lmu import LMUFFT
from lmu.ops import READOUT_METHODS, Problem, choose_readout, readout
from tests import devices
from tests.ops.readout.test_readout import arguments

ROOT = Path(__file__).parents[3]
TESTS = [f"tests/ops/readout/test_{name}.py" for name in ("readout", "activations")]
# gradcheck runs the kernels once for each number: minutes in the interpreter. The layer is compiled
# below.
on_cpu = pytest.mark.skipif(devices.current.type != "cpu", reason="of the CPU")
FAST = "triton and not gradcheck and not compiles"


def in_interpreter(*command: str, float64: bool = True) -> str:
    pytest.importorskip("triton")
    from lmu.ops.triton import block_states

    if float64 and block_states._triton_version() < block_states.FLOAT64_SINCE:
        pytest.skip("this triton cannot multiply float64")
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": f".{os.pathsep}src"}
    ran = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.slow
def test_they_pass_the_tests_of_all_methods():
    ignored = "ignore:Conversion of an array:DeprecationWarning"  # as in test_block_states.py
    ran = in_interpreter(
        "-m", "pytest", "tests/ops/readout/test_readout.py", "-k", FAST, "-W", ignored
    )
    assert " passed" in ran
    assert "skipped" not in ran


# Several tiles each way, no size a multiple of a tile, and steps of two channels' own dynamics.
TILES = """
import torch, tests.ops.readout.test_readout as t
from lmu.ops import readout
from lmu.ops.readout.triton import readout_chunks
from lmu.theory import discretize, legt
from torch.library import opcheck

def compare(args, exact, tolerance):
    def run(method):
        return lambda **a: readout(**a, method=method)
    (y, m), grads = t.with_gradients(run("triton"), args)
    (y_0, m_0), grads_0 = t.with_gradients(run("chunked"), exact)
    for a, b in [(y, y_0), (m, m_0), *((grads[k], grads_0[k]) for k in grads)]:
        off = (a.double() - b).norm() / b.norm().clamp(min=1e-9)
        assert off < tolerance, off

big = t.arguments(5, 209, 2, 3, 35, 70, with_m_0=True)
systems = [discretize(*legt(35, theta)) for theta in (40.0, 90.0)]
big["Ad"], big["Bd"] = (torch.stack(parts) for parts in zip(*systems))
"""
NARROW = """
narrow = {k: v if k in ("Ad", "Bd") else v.float() for k, v in big.items()}
compare(narrow, big, 1e-5)
"""
STRIDED = """
strided = dict(big)
strided["u"] = big["u"].mT.contiguous().mT
strided["x"] = big["x"].transpose(0, 1).contiguous().transpose(0, 1)
compare(strided, big, 1e-12)

g = torch.Generator().manual_seed(0)
draw = lambda *s: torch.randn(s, generator=g, dtype=torch.float64).requires_grad_()
steps, order = 5, 3
sources, R = draw(4, 2, steps + order), draw(2, 2 * steps - 1 + order * steps, 6)
opcheck(readout_chunks, (sources, R, draw(4, steps, 2), draw(2, 6), True))

opcheck(readout_chunks, (sources, R, draw(4, steps, 2), draw(2, 6), False))

for f in ("identity", "tanh", "gelu", torch.sin):
    results = []
    for method in ("triton", "chunked"):
        run = lambda **a: readout(**a, method=method, activation=f)
        results.append(t.with_gradients(run, t.arguments(3, 37, 2, 1, 7, 9, with_m_0=True)))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)

small = t.arguments(2, 9, 1, 1, 3, 4, with_m_0=False)
small["u"].requires_grad_()
second = []
for method in ("triton", "chunked"):
    y = readout(**small, method=method)[0].square().sum()
    (grad,) = torch.autograd.grad(y, small["u"], create_graph=True)
    second.append(torch.autograd.grad(grad.square().sum(), small["u"])[0])
torch.testing.assert_close(*second)
assert second[0].abs().max() > 0
"""


def test_many_tiles_and_the_operator():
    in_interpreter("-c", TILES + STRIDED)


@pytest.mark.slow
def test_many_tiles_in_float32():
    in_interpreter("-c", TILES + NARROW)


LAYER = """
import torch
from lmu import LMUFFT
torch.manual_seed(0)
layer = LMUFFT(2, 6, 5, None, 9.0, method="triton")
x = torch.randn(3, 20, 2)
eager = layer(x)[0]
compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)[0]
torch.testing.assert_close(compiled, eager)
first, state = layer(x[:, :7], return_state=True)
second, _ = layer(x[:, 7:], state, return_state=True)
torch.testing.assert_close(torch.cat([first, second], dim=1), eager)
with torch.autocast("cpu", torch.bfloat16):
    narrow = layer(x)[0]
assert narrow.dtype == torch.bfloat16
assert 0 < (narrow.float() - eager).norm() / eager.norm() < 3e-2
x[1, 3] = torch.nan
assert layer(x)[0][1, 3:].isnan().all()
assert layer(x)[0][[0, 2]].isfinite().all()
x[1, 3] = 0
eager = layer(x)[0]
layer.method = "fft"
torch.testing.assert_close(layer(x)[0], eager)
"""


def test_the_layer_by_kernels_compiled_split_and_narrow():
    in_interpreter("-W", "ignore", "-c", LAYER, float64=False)


def test_they_compile_for_a_gpu_that_is_not_here():
    pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from lmu.ops.triton import readout as kernels

    tiles = ("TILE_M", "TILE_R", "TILE_K")
    tensors = {"sources", "R", "x1", "W1", "y", "dy", "dsources", "dR", "dx1", "dW1"}
    for name in ("_forward", "_sources", "_states", "_kernel", "_input", "_weights"):
        function = getattr(kernels, name)
        types = {
            argument: "constexpr" if argument in (*tiles, "RELU")
            else "*fp32" if argument in tensors else "i32"
            for argument in function.arg_names
        }  # fmt: skip
        values = {tile: getattr(kernels, tile) for tile in tiles} | {"RELU": True}
        constants = {(function.arg_names.index(n),): value for n, value in values.items()}
        if "constexprs" not in inspect.signature(ASTSource).parameters:
            pytest.skip("triton before 3.3 is asked in other words")
        source = ASTSource(fn=function, signature=types, constexprs=constants)
        options = {key: value for key, value in kernels.OPTIONS.items() if key not in tiles}
        made = compile(source, target=GPUTarget("cuda", 80, 32), options=options)
        assert "cubin" in made.asm
        assert made.metadata.shared < 99 * 1024  # what the smallest GPUs since sm_80 have


@on_cpu
def test_a_cpu_is_refused():
    pytest.importorskip("triton")
    with pytest.raises(ValueError, match="needs CUDA tensors, got tensors on cpu"):
        readout(**arguments(1, 2, 1, 1, 2, 2, with_m_0=False), method="triton")


def test_it_runs_by_name_only():
    assert "triton" not in {
        choose_readout(Problem(length, 64, 64, device="cuda")) for length in (10, 1000, 10**6)
    }
    layer = LMUFFT(1, 4, 3, None, 9.0, method="triton")
    choice = layer.explain(10_000)
    assert choice.method == "triton"
    assert choice.cost is not None
    dense = READOUT_METHODS["chunked"].cost(Problem(10_000, 3, 4))
    assert choice.cost.flops < dense.flops


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_on_a_gpu(dtype):
    drawn = arguments(7, 203, 2, 3, 35, 70, with_m_0=True)
    exact = {key: value.cpu() for key, value in drawn.items()}
    there = {
        key: value.to("cuda", torch.float64 if key in ("Ad", "Bd") else dtype)
        for key, value in exact.items()
    }
    y, m = readout(**there, method="triton")
    y_0, m_0 = readout(**exact, method="chunked")
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for a, b in ((y, y_0), (m, m_0)):
        assert (a.cpu().double() - b).norm() / b.norm() < tolerance
