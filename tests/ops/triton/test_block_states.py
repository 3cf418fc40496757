"""The kernels against loops in float64: interpreted on any machine, compiled where CUDA is."""

import subprocess
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

import lmu

# Before 3.7, triton's interpreter turns arrays to numbers, which NumPy deprecates, later refuses.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")

F32, F64 = torch.float32, torch.float64
DEVICES = {"interpreter": "cpu", "cuda": "cuda"}


def load(monkeypatch, interpret: bool) -> ModuleType:
    """A fresh import of the module, at which triton decides whether kernels are compiled."""
    pytest.importorskip("triton")
    if interpret:
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    else:
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    path = Path(lmu.__file__).parent / "ops" / "triton" / "block_states.py"
    spec = spec_from_file_location("block_states", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    numpy = tuple(int(number) for number in np.__version__.split(".")[:2])
    if interpret and module._triton_version() < (3, 7) and numpy >= (2, 4):
        pytest.skip("this triton cannot interpret kernels with NumPy 2.4: upgrade triton to 3.7")
    return module


@pytest.fixture
def interpreted(monkeypatch) -> ModuleType:
    return load(monkeypatch, interpret=True)


@pytest.fixture(
    params=[
        "interpreter",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
        ),
    ]
)
def where(request, monkeypatch) -> tuple[ModuleType, str]:
    return load(monkeypatch, request.param == "interpreter"), DEVICES[request.param]


sizes = pytest.mark.parametrize(
    ("batch", "steps", "hidden", "width"),
    [
        (1, 1, 1, 16),
        (1, 5, 33, 48),
        (3, 1, 212, 224),
        (3, 5, 48, 48),
        (17, 1, 70, 80),
        (17, 5, 212, 224),
        (33, 2, 15, 32),
    ],
)
dtypes = pytest.mark.parametrize(("dtype", "bound"), [(F32, 1e-5), (F64, 1e-13)], ids=str)


class Memory:
    """Tensors amid NaN: what is read or written outside of them shows."""

    MARGIN = 1024

    def __init__(self, module: ModuleType, device: str, dtype: torch.dtype) -> None:
        if dtype == F64 and module._triton_version() < module.FLOAT64_SINCE:
            pytest.skip("this triton cannot multiply float64")
        self.device, self.dtype = device, dtype
        self.buffers: list[Tensor] = []
        self.generator = torch.Generator().manual_seed(0)

    def draw(self, *shape: int, scale: float = 1.0) -> Tensor:
        values = torch.randn(shape, generator=self.generator, dtype=F64) * scale
        return self.put(values)

    def put(self, values: Tensor) -> Tensor:
        size = values.numel()
        buffer = torch.full(
            (size + 2 * self.MARGIN,), torch.nan, dtype=self.dtype, device=self.device
        )
        self.buffers.append(buffer)
        inside = buffer[self.MARGIN : -self.MARGIN].view(values.shape)
        return inside.copy_(values)

    def assert_nothing_else_is_written(self) -> None:
        for buffer in self.buffers:
            assert buffer[: self.MARGIN].isnan().all()
            assert buffer[-self.MARGIN :].isnan().all()


def operator(memory: Memory, hidden: int, width: int) -> tuple[Tensor, int]:
    """From a state to the next, and where the columns begin that are padding."""
    end = (hidden + width) // 2
    M = memory.draw(width, width, scale=width**-0.5)
    M[end:] = 0
    M[:, end:] = 0
    return M, end


def advanced(states: Tensor, before: Tensor, M: Tensor, hidden: int) -> Tensor:
    states, before, M = states.double(), before.double(), M.double()
    state = torch.nn.functional.pad(before, (0, len(M) - hidden))
    out = []
    for base in states.unbind(1):
        total = base + state @ M
        state = torch.cat([total[:, :hidden].tanh(), total[:, hidden:]], dim=1)
        out.append(state)
    return torch.stack(out, dim=1)


def retreated(states: Tensor, slopes: Tensor, MT: Tensor) -> Tensor:
    states, slopes, MT = states.double(), slopes.double(), MT.double()
    slopes = torch.nn.functional.pad(slopes, (0, len(MT) - slopes.shape[2]), value=1.0)
    state = torch.zeros_like(states[:, 0])
    out = []
    for g, slope in zip(states.unbind(1)[::-1], slopes.unbind(1)[::-1], strict=True):
        state = (g + state @ MT) * slope
        out.append(state)
    return torch.stack(out[::-1], dim=1)


def close(got: Tensor, right: Tensor, bound: float) -> None:
    torch.testing.assert_close(got.double(), right, rtol=bound, atol=bound)


@sizes
@dtypes
def test_advance(where, dtype, bound, batch, steps, hidden, width):
    module, device = where
    memory = Memory(module, device, dtype)
    states, before = memory.draw(batch, steps, width), memory.draw(batch, hidden)
    M, end = operator(memory, hidden, width)
    bases, others = states.clone(), (before.clone(), M.clone())
    module.advance(states, before, M, hidden)
    close(states, advanced(bases, *others, hidden), bound)
    assert torch.equal(states[..., end:], bases[..., end:])
    memory.assert_nothing_else_is_written()
    torch.testing.assert_close((before, M), others, rtol=0, atol=0)


@sizes
@dtypes
def test_retreat(where, dtype, bound, batch, steps, hidden, width):
    module, device = where
    memory = Memory(module, device, dtype)
    states = memory.draw(batch, steps, width)
    slopes = memory.put(1 - memory.draw(batch, steps, hidden).tanh().square())
    MT, end = operator(memory, hidden, width)
    grads, others = states.clone(), (slopes.clone(), MT.clone())
    module.retreat(states, slopes, MT)
    close(states, retreated(grads, *others), bound)
    assert torch.equal(states[..., end:], grads[..., end:])
    memory.assert_nothing_else_is_written()
    torch.testing.assert_close((slopes, MT), others, rtol=0, atol=0)


@dtypes
def test_block_after_block_as_in_training(where, dtype, bound):
    """The state before a block is a view of the states of the last one."""
    module, device = where
    memory = Memory(module, device, dtype)
    with torch.inference_mode():
        first, second = memory.draw(3, 4, 48), memory.draw(3, 2, 48)
        M, _ = operator(memory, 41, 48)
        h = memory.draw(3, 1).expand(3, 41).contiguous()
        right = advanced(first, h, M, 41)
        right = advanced(second, right[:, -1, :41], M, 41)
        module.advance(first, h, M, 41)
        module.advance(second, first[:, -1, :41], M, 41)
        close(second, right, bound)


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_tanh_is_good_to_the_last_places(where, dtype):
    module, device = where
    memory = Memory(module, device, dtype)
    x = torch.cat(
        [
            torch.linspace(-25, 25, 16_000, dtype=F64),
            torch.linspace(-0.7, 0.7, 16_000, dtype=F64),
            torch.logspace(-40, 0, 15_980, dtype=F64),
            torch.tensor([0.0, -0.0, torch.inf, -torch.inf] * 5, dtype=F64),
        ]
    )
    states = memory.put(x.view(1000, 1, 48))
    right = states.double().tanh()
    zero = memory.put(torch.zeros(48, 48))
    module.advance(states, memory.put(torch.zeros(1000, 48)), zero, 48)
    size = right.abs().to(dtype)
    unit = torch.nextafter(size, torch.full_like(size, 2)) - size
    assert ((states.double() - right).abs() <= 4 * unit.double()).all()


def test_nan_stays_in_its_row(where):
    module, device = where
    memory = Memory(module, device, F32)
    states, before, (M, _) = memory.draw(3, 2, 48), memory.draw(3, 33), operator(memory, 33, 48)
    states[1, 0, 0] = torch.nan
    module.advance(states, before, M, 33)
    assert states[1, :, 0].isnan().all()
    assert states[[0, 2]].isfinite().all()


def test_empty_batch(where):
    module, device = where
    inputs = [torch.zeros(*shape, device=device) for shape in ((0, 2, 16), (0, 5), (16, 16))]
    module.advance(*inputs, 5)
    module.retreat(inputs[0], torch.zeros(0, 2, 5, device=device), inputs[2])


z = torch.zeros


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"states": z(2, 16)}, ValueError, r"\(batch, steps, width\) .* got \(2, 16\); pad"),
        ({"states": z(2, 0, 16)}, ValueError, "at least one step"),
        ({"states": z(2, 3, 20)}, ValueError, "multiple of 16"),
        ({"states": z(2, 3, 32)[..., ::2]}, ValueError, r"states must be contiguous, got strides"),
        ({"states": z(2, 3, 16).half()}, TypeError, "float32 or float64, got torch.float16"),
        ({"before": z(3, 5)}, ValueError, r"before must be \(2, 5\) .* got \(3, 5\)"),
        ({"before": z(2, 5).double()}, TypeError, "before must be torch.float32 as states are"),
        ({"before": z(2, 5, device="meta")}, ValueError, "on cpu as states are, got meta; move"),
        ({"before": z(5, 2).mT}, ValueError, r"contiguous rows, .* pass before.contiguous\(\)"),
        ({"M": z(16, 5)}, ValueError, r"M must be \(16, 16\)"),
        ({"M": z(16, 32)[:, ::2]}, ValueError, r"M must be contiguous, got strides \(32, 2\)"),
        ({"hidden": 0}, ValueError, "hidden must be 1 to 16, .* got 0"),
        ({"hidden": 17}, ValueError, "hidden must be 1 to 16, .* got 17"),
    ],
)
def test_wrong_arguments_of_advance(interpreted, changed, error, message):
    inputs = {"states": z(2, 3, 16), "before": z(2, 5), "M": z(16, 16), "hidden": 5} | changed
    with pytest.raises(error, match=message):
        interpreted.advance(**inputs)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"states": z(2, 3, 20)}, ValueError, "multiple of 16"),
        ({"slopes": z(2, 5)}, ValueError, r"slopes must be .* got \(2, 5\)"),
        ({"slopes": z(2, 3, 17)}, ValueError, "hidden must be 1 to 16, .* got 17"),
        ({"slopes": z(2, 3, 16)[..., :5]}, ValueError, "slopes must be contiguous"),
        ({"MT": z(16, 16).double()}, TypeError, "MT must be torch.float32"),
    ],
)
def test_wrong_arguments_of_retreat(interpreted, changed, error, message):
    inputs = {"states": z(2, 3, 16), "slopes": z(2, 3, 5), "MT": z(16, 16)} | changed
    with pytest.raises(error, match=message):
        interpreted.retreat(**inputs)


def test_compiled_kernels_refuse_the_cpu(monkeypatch):
    module = load(monkeypatch, interpret=False)
    with pytest.raises(ValueError, match=r"need CUDA tensors, got states on cpu; .*INTERPRET=1"):
        module.advance(z(2, 3, 16), z(2, 5), z(16, 16), 5)


def test_float64_with_a_triton_that_cannot(interpreted, monkeypatch):
    monkeypatch.setattr(interpreted.triton, "__version__", "3.4.0")
    with pytest.raises(TypeError, match=r"triton 3.4.0 cannot multiply float64; upgrade"):
        interpreted.advance(z(2, 3, 16).double(), z(2, 5), z(16, 16), 5)


def test_missing_triton_is_named_with_its_remedy(monkeypatch):
    monkeypatch.delitem(sys.modules, "lmu.ops.triton", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ImportError, match="run pip install triton") as caught:
        import_module("lmu.ops.triton")
    assert caught.value.name == "triton"


def test_layers_do_not_import_the_kernels():
    code = "import sys, lmu; sys.exit('lmu.ops.triton' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
