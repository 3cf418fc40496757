"""ONNX files, run by onnxruntime, against the layers that they were made from."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from lmu import LMU, LMUFFT, LMUCell
from lmu.interop import onnx as interop
from lmu.interop._graph import ChunkGraph, build_graph
from lmu.interop._loops import while_loop
from lmu.interop._trace import can_export
from lmu.interop.onnx import export_onnx, quantize_onnx
from lmu.models import SequenceClassifier

pytestmark = pytest.mark.skipif(not can_export(), reason="this PyTorch cannot export")

F32, F64 = torch.float32, torch.float64
LENGTHS = (1, 2, 15, 16, 17, 31, 33, 64, 65, 127, 128, 129, 257)  # chunks have 16, 64, 128 steps
Build = Callable[..., nn.Module]


def silu(x: Tensor) -> Tensor:
    return torch.nn.functional.silu(x)


def classifier(layer: nn.Module, **kwargs: Any) -> nn.Module:
    return SequenceClassifier(layer, 4, dropout=0.5).to(**kwargs)


FFT: dict[str, Build] = {
    "fft": lambda **kw: LMUFFT(3, 7, 6, None, 12.0, **kw),
    "fft, short chunks": lambda **kw: LMUFFT(3, 64, 96, 9, 40.0, **kw),
    "fft, last": lambda **kw: LMUFFT(3, 7, 6, 9, 12.0, return_sequences=False, **kw),
    "fft, channels": lambda **kw: LMUFFT(3, 7, 6, None, 12.0, memory_channels=2, **kw),
    "fft, thetas": lambda **kw: LMUFFT(3, 7, 6, None, (12.0, 5.0), memory_channels=2, **kw),
    "fft, thetas, last": lambda **kw: LMUFFT(
        3, 7, 6, None, (12.0, 5.0), memory_channels=2, return_sequences=False, **kw
    ),
    "fft, learned": lambda **kw: LMUFFT(3, 7, 6, None, 12.0, learn_a=True, learn_b=True, **kw),
    "fft, theta": lambda **kw: LMUFFT(3, 7, 6, None, 12.0, learn_theta=True, **kw),
    "fft, linear": lambda **kw: LMUFFT(3, 7, 6, None, 12.0, encoder_activation=None, **kw),
    "fft, silu": lambda **kw: LMUFFT(3, 7, 6, None, 12.0, encoder_activation=silu, **kw),
    "fft, bare": lambda **kw: LMUFFT(
        2, 7, 6, None, 12.0, memory_channels=2, encode_input=False, input_to_hidden=False, **kw
    ),
    "fft, classifier": lambda **kw: classifier(LMUFFT(3, 7, 6, None, 12.0), **kw),
}
RECURRENT: dict[str, Build] = {
    "lmu": lambda **kw: LMU(3, 7, 6, 12.0, **kw),
    "lmu, open": lambda **kw: LMU(
        3, 7, 6, 12.0, hidden_to_memory=False, memory_to_memory=False, **kw
    ),
    "lmu, theta": lambda **kw: LMU(3, 7, 6, 12.0, learn_theta=True, **kw),
    "lmu, bare": lambda **kw: LMU(
        2, 7, 6, 12.0, memory_channels=2, encode_input=False, input_to_hidden=False, **kw
    ),
    "lmu, all": lambda **kw: LMU(
        3, 7, 6, (12.0, 5.0), memory_channels=2, memory_bias=True, hidden_bias=True,
        encoder_activation=silu, dropout=0.5, recurrent_dropout=0.5, **kw
    ),
    "lmu, no cell": lambda **kw: LMU(
        3, None, 6, 12.0, hidden_cell=None, hidden_to_memory=False, **kw
    ),
    "lmu, linear cell": lambda **kw: LMU(3, 7, 6, 12.0, hidden_cell=nn.Linear(9, 7, **kw), **kw),
    "lmu, linear cell, channels": lambda **kw: LMU(
        2, 7, 6, 12.0, memory_channels=2, hidden_cell=nn.Linear(14, 7, **kw), **kw
    ),
    "lmu, cell that gives what it got": lambda **kw: LMU(
        3, 6, 6, 12.0, hidden_cell=nn.Identity(), hidden_to_memory=False,
        input_to_hidden=False, **kw
    ),
    "lmu, gru": lambda **kw: LMU(3, 7, 6, 12.0, hidden_cell=nn.GRUCell(9, 7, **kw), **kw),
    "lmu, last": lambda **kw: LMU(3, 7, 6, 12.0, return_sequences=False, **kw),
    "lmu, classifier": lambda **kw: classifier(LMU(3, 7, 6, 12.0), **kw),
}  # fmt: skip
ALL = FFT | RECURRENT


def build(name: str, dtype: torch.dtype = F64) -> nn.Module:
    torch.manual_seed(0)
    model = ALL[name](dtype=dtype).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            # What starts at zero, as e_m and biases do, would hide what a graph does with it.
            if key.split(".")[-1] in {"e_m", "b_u", "b_h"} and not parameter.any():
                nn.init.normal_(parameter, std=0.3)
            if key.endswith("log_theta"):
                parameter += 0.3  # another window than the layer was built with
    return model


def layer_of(model: nn.Module) -> Any:
    return model.layer if isinstance(model, SequenceClassifier) else model


def make_input(model: nn.Module, batch: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch * 1000 + length)
    shape = batch, length, layer_of(model).input_size
    x = torch.randn(shape, dtype=F64, generator=generator)
    return x.to(next(model.parameters()).dtype)


@torch.no_grad()
def eager(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, hidden state and memory, as the layer computes them."""
    layer = layer_of(model)
    kwargs = {"return_state": True} if isinstance(layer, LMUFFT) else {}
    y, (h, m) = layer(x, **kwargs)
    return [y if layer is model else model(x), h, m]


def open_session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


def run(session: onnxruntime.InferenceSession, **inputs: Tensor) -> list[Tensor]:
    arrays = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return [torch.from_numpy(np.array(array)) for array in arrays]


def start(model: nn.Module, batch: int) -> tuple[Tensor, Tensor]:
    layer = layer_of(model)
    zeros = torch.zeros(batch, layer.hidden_size, dtype=next(model.parameters()).dtype)
    return zeros, zeros.new_zeros(batch, layer.memory_channels * layer.memory_size)


def run_steps(session: Any, model: nn.Module, x: Tensor) -> list[Tensor]:
    """A stream: the outputs of all steps, or of a classifier the last, and the state."""
    h, m = start(model, len(x))
    outputs = []
    for x_t in x.unbind(1):
        y, h, m = run(session, x=x_t, h=h, m=m)
        outputs.append(y)
    last = not getattr(layer_of(model), "return_sequences", layer_of(model) is model)
    last |= layer_of(model) is not model
    return [outputs[-1] if last else torch.stack(outputs, dim=1), h, m]


def operators(graph: Any) -> set[str]:
    """The operators of a graph and of the graphs inside it."""
    found = set()
    for node in graph.node:
        found.add(node.op_type)
        for attribute in node.attribute:
            found |= operators(attribute.g)
    return found


def mostly_slow(*quick: str) -> list[Any]:
    """All models, of which few are exported in make test: it takes seconds.

    What the graphs of the others compute is tested without an exporter below.
    """
    slow = pytest.mark.slow
    return [pytest.param(name, marks=[] if name in quick else [slow]) for name in ALL]


def plain_loop(step: Any, carry: Any, xs: Any, wanted: bool) -> Any:
    outputs = []
    for slices in zip(*xs, strict=True):
        carry, output = step(carry, slices)
        outputs.append(output)
    return carry, torch.stack(outputs) if wanted else None


@torch.no_grad()
@pytest.mark.parametrize("name", ALL)
def test_graphs_before_they_are_exported(name: str) -> None:
    model = build(name)
    step, sequence = (build_graph(model, form, plain_loop) for form in ("step", "sequence"))
    for batch, length in ((1, 1), (3, 2), (2, 17), (1, 64), (3, 65), (2, 129)):
        x = make_input(model, batch, length)
        torch.testing.assert_close(list(sequence(x)), eager(model, x))
        h, m = start(model, batch)
        y = h
        for x_t in x.unbind(1):
            y, h, m = step(x_t, h, m)
        right = eager(model, x)
        torch.testing.assert_close([h, m], right[1:])
        torch.testing.assert_close(y, right[0] if right[0].ndim == 2 else right[0][:, -1])


@pytest.mark.parametrize("name", mostly_slow("fft, thetas, last", "lmu", "lmu, classifier"))
def test_steps(name: str, tmp_path: Path) -> None:
    model = build(name)
    session = open_session(export_onnx(model, tmp_path / "step.onnx"))
    assert [i.name for i in session.get_inputs()] == ["x", "h", "m"]
    assert [o.name for o in session.get_outputs()] == ["y", "h_n", "m_n"]
    assert all(i.shape[0] == "batch" for i in session.get_inputs())
    for batch, length in ((1, 13), (4, 29)):
        x = make_input(model, batch, length)
        torch.testing.assert_close(run_steps(session, model, x), eager(model, x))


@pytest.fixture(scope="module")
def sequence_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file of a model's sequence, exported once."""
    folder = tmp_path_factory.mktemp("sequences")

    @functools.cache
    def file(name: str) -> Path:
        return export_onnx(build(name), folder / f"{name}.onnx", form="sequence")

    return file


@pytest.mark.parametrize("name", mostly_slow("fft, thetas, last", "lmu, all"))
def test_sequences_of_any_length(name: str, sequence_file: Callable[[str], Path]) -> None:
    model = build(name)
    session = open_session(sequence_file(name))
    assert [i.shape[:2] for i in session.get_inputs()] == [["batch", "time"]]
    for batch in (1, 3, 8):
        for length in LENGTHS:
            x = make_input(model, batch, length)
            torch.testing.assert_close(run(session, x=x), eager(model, x))


@pytest.mark.parametrize("form", ["step", "sequence"])
@pytest.mark.parametrize(
    "build_large",
    [
        lambda: LMUFFT(1, 40, 64, None, 500.0),
        lambda: LMU(1, 40, 64, 500.0),
        pytest.param(
            lambda: classifier(LMUFFT(1, 40, 64, None, 500.0)), marks=pytest.mark.slow
        ),  # of the same layer
    ],
    ids=["LMUFFT", "LMU", "classifier"],
)
def test_float32_stays_close_over_long_sequences(
    build_large: Callable[[], nn.Module], form: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = build_large().eval()
    session = open_session(export_onnx(model, tmp_path / "model.onnx", form=form))
    x = make_input(model, 2, 3001)
    got = run(session, x=x) if form == "sequence" else run_steps(session, model, x)
    own = eager(model, x)
    exact = eager(model.double(), x.double())
    for a, b, e in zip(got, own, exact, strict=True):
        assert a.dtype == F32
        # A nonlinear recurrence makes rounding errors grow, the layer's own as these.
        allowed = max(1e-5, 4 * (b - e).abs().max().item())
        assert (a - e).abs().max() <= allowed
        assert (b - e).abs().max() < 1e-4


def test_a_step_goes_on_where_a_sequence_ended(tmp_path: Path) -> None:
    model = build("fft")
    whole = open_session(export_onnx(model, tmp_path / "a.onnx", form="sequence"))
    step = open_session(export_onnx(model, tmp_path / "b.onnx"))
    x = make_input(model, 3, 50)
    y, h, m = run(whole, x=x[:, :33])
    for x_t in x[:, 33:].unbind(1):
        y, h, m = run(step, x=x_t, h=h, m=m)
    torch.testing.assert_close([y, h, m], [eager(model, x)[0][:, -1], *eager(model, x)[1:]])


@pytest.mark.parametrize(
    "name", [p for p in mostly_slow("fft, thetas, last") if p.values[0] in FFT]
)
def test_no_fft_and_no_cap_on_the_length(name: str, sequence_file: Callable[[str], Path]) -> None:
    proto = onnx.load(sequence_file(name))
    used = operators(proto.graph)
    assert {"MatMul", "Scan"} <= used
    assert not used & {"DFT", "STFT", "Loop", "If"}
    assert {opset.domain for opset in proto.opset_import} == {""}


@pytest.mark.parametrize("name", ["fft, channels", "fft, thetas", "fft, last", "lmu"])
def test_both_loops_give_the_same(name: str) -> None:
    # Outside of an exporter they run as they are.
    model = build(name)
    graph = build_graph(model, "sequence", while_loop)
    assert isinstance(graph, ChunkGraph) == name.startswith("fft")
    x = make_input(model, 2, 40)
    with torch.no_grad():
        torch.testing.assert_close(list(graph(x)), eager(model, x))


def test_low_precision_is_computed_in_float32(tmp_path: Path) -> None:
    model = build("lmu", torch.bfloat16)
    session = open_session(export_onnx(model, tmp_path / "model.onnx"))
    assert {i.type for i in session.get_inputs()} == {"tensor(float)"}
    x = make_input(model, 2, 9)
    exact = eager(model.float(), x.float())
    torch.testing.assert_close(run_steps(session, model, x.float()), exact)


def test_metadata_and_nothing_about_this_machine(tmp_path: Path) -> None:
    path = export_onnx(build("fft, classifier", F32), tmp_path / "m.onnx", form="sequence")
    facts = open_session(path).get_modelmeta().custom_metadata_map
    assert facts["lmu.model"] == "SequenceClassifier(LMUFFT)"
    assert facts["lmu.form"] == "sequence"
    assert (facts["lmu.hidden_size"], facts["lmu.memory_size"]) == ("7", "6")
    assert (facts["lmu.theta"], facts["lmu.num_classes"]) == ("12", "4")
    assert str(Path(interop.__file__).parent).encode() not in path.read_bytes()
    assert b"site-packages" not in path.read_bytes()


def test_files_are_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "model.onnx"
    export_onnx(build("lmu"), path)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(KeyboardInterrupt):
        export_onnx(build("fft"), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_exporting_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = build("lmu, classifier").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    export_onnx(model, tmp_path / "model.onnx")
    assert model.training
    assert layer_of(model).training
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("model", "form", "error", "says"),
    [
        (nn.LSTM(1, 2), "step", TypeError, "got LSTM"),
        (LMUCell(1, 2, 3, 4.0), "step", TypeError, "got LMUCell"),
        (LMU(1, 2, 3, 4.0), "whole", ValueError, "'step' or 'sequence', got 'whole'"),
        (
            LMU(1, 2, 3, 4.0, hidden_cell=nn.LSTMCell(4, 2)),
            "step",
            ValueError,
            "LSTMCell cannot be exported",
        ),
    ],
    ids=["LSTM", "cell", "form", "LSTMCell"],
)
def test_what_cannot_be_exported(
    tmp_path: Path, model: nn.Module, form: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        export_onnx(model, tmp_path / "model.onnx", form=form)
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmu._extras.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "onnx>=\S+ "onnxruntime>='):
        export_onnx(build("lmu"), tmp_path / "model.onnx")
    with pytest.raises(ImportError, match=r'pip install "onnx>=\S+ "onnxruntime>='):
        quantize_onnx(tmp_path / "model.onnx", tmp_path / "int8.onnx")


@pytest.fixture(scope="module")
def large() -> nn.Module:
    torch.manual_seed(0)
    return LMUFFT(1, 64, 64, None, 200.0)


@pytest.fixture(scope="module")
def exact(large: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(large, tmp_path_factory.mktemp("int8") / "exact.onnx")


def test_int8_is_of_the_read_out_only(large: nn.Module, exact: Path, tmp_path: Path) -> None:
    path = quantize_onnx(exact, tmp_path / "int8.onnx")
    weights = {w.name: w for w in onnx.load(path).graph.initializer}
    assert weights["W_m_quantized"].data_type == onnx.TensorProto.INT8
    assert {"E", "B", "e_x", "W_x"} <= weights.keys()  # too small, or not of the read-out
    assert 64 * 64 * 2.5 < exact.stat().st_size - path.stat().st_size < 64 * 64 * 3
    x = make_input(large, 3, 1)
    h, m = (torch.randn(3, 64, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    y, _, m_n = run(open_session(path), x=x[:, 0], h=h, m=m)
    expected, _, expected_m = run(open_session(exact), x=x[:, 0], h=h, m=m)
    torch.testing.assert_close(m_n, expected_m)
    error = (y - expected).norm() / expected.norm()
    assert 1e-5 < error < 0.03


def test_int8_of_the_memory_where_it_is_wanted(exact: Path, tmp_path: Path) -> None:
    path = quantize_onnx(exact, tmp_path / "int8.onnx", memory=True)
    names = {w.name for w in onnx.load(path).graph.initializer}
    assert {"E_quantized", "W_m_quantized"} <= names
    assert "E" not in names
    facts = open_session(path).get_modelmeta().custom_metadata_map
    assert facts["lmu.int8"] == "W E"
    assert facts["lmu.memory_size"] == "64"


def test_what_cannot_be_int8(exact: Path, tmp_path: Path) -> None:
    small = export_onnx(build("fft", F32), tmp_path / "small.onnx")
    with pytest.raises(ValueError, match="nothing to quantize"):
        quantize_onnx(small, tmp_path / "out.onnx")
    double = export_onnx(build("fft"), tmp_path / "double.onnx")
    with pytest.raises(ValueError, match="float32"):
        quantize_onnx(double, tmp_path / "out.onnx")
    sequence = export_onnx(build("fft", F32), tmp_path / "sequence.onnx", form="sequence")
    once = quantize_onnx(exact, tmp_path / "once.onnx")
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"junk")
    for wrong in (sequence, once, junk):
        with pytest.raises(ValueError, match="form='step'"):
            quantize_onnx(wrong, tmp_path / "out.onnx")
    with pytest.raises(FileNotFoundError):
        quantize_onnx(tmp_path / "none.onnx", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
