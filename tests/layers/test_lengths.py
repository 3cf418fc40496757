"""Any length of sequence: few graphs compiled, exports, no batch, no step, starts in between."""

import logging
import warnings
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lmu import LMU, LMUCell
from lmu.ops._loops import _has_scan
from tests import devices, variants
from tests.variants import LAYERS, SEQUENCES, each, fill, run, step

F64 = torch.float64
NESTED = [name for name in SEQUENCES if "stack" in name or "both" in name]
layers = each(SEQUENCES)
SCANS = pytest.mark.skipif(
    not _has_scan(), reason="this PyTorch has no operator for loops with gradients"
)
LENGTHS = [200, 300, 7, 64, 65, 128, 420]
FEW = [30, 40, 7, 64, 65]
slow = pytest.mark.slow


def build(name: str, **kwargs: Any) -> Any:
    return variants.build(name, theta=20.0, **kwargs)


def sample(layer: Any, length: int, batch: int = 2, seed: int = 1, **kwargs: Any) -> Tensor:
    return variants.sample(layer, length, batch, kwargs.get("dtype", F64), seed)


def row_of(state: Any, row: int) -> Any:
    return tree_map(lambda s: s[row : row + 1], state)


@pytest.mark.filterwarnings("ignore:.torch.jit.script")
@SCANS
@pytest.mark.parametrize(
    ("name", "with_state", "backend", "lengths"),
    [
        ("LMU", False, "eager", FEW),
        ("LMU-e_m", False, "eager", FEW),
        ("LMU-gru-fed", True, "eager", FEW),
        ("LMUFFT", True, "eager", FEW),
        ("LMUFFT-last", False, "eager", FEW),
        ("both-ways", False, "eager", FEW),
        ("memory", True, "eager", FEW),
        # A forced FFT has transforms of each length's own.
        *(
            pytest.param(name, False, "aot_eager", LENGTHS, marks=slow)
            for name in SEQUENCES
            if variants.VARIANTS[name].options.get("method") != "fft"
        ),
        *(
            pytest.param(name, True, "aot_eager", LENGTHS, marks=slow)
            for name in ("LMU", "LMU-gru-fed", "LMUFFT", "LMUFFT-last", "memory-channels")
        ),
    ],
    ids=str,
)
def test_three_graphs_serve_all_lengths(name, with_state, backend, lengths):
    torch._dynamo.reset()
    layer = build(name, dtype=F64)
    counter = torch._dynamo.testing.CompileCounterWithBackend(backend)
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    state = None
    if with_state:
        state = tree_map(torch.detach, run(layer, sample(layer, 5, seed=2))[1])
    for length in lengths:
        x = sample(layer, length).requires_grad_()
        got = run(compiled, x, state)
        right = run(layer, x, state)
        torch.testing.assert_close(got, right)
        wanted = [x, *layer.parameters()]
        torch.testing.assert_close(
            torch.autograd.grad(got[0].square().sum(), wanted, allow_unused=True),
            torch.autograd.grad(right[0].square().sum(), wanted, allow_unused=True),
        )
    assert counter.frame_count <= 3


@SCANS
@pytest.mark.filterwarnings("ignore:.torch.jit.script")
@pytest.mark.parametrize(
    "name",
    [
        "LMU",
        pytest.param("LMUFFT", marks=slow),
        "LMUFFT-last",
        "both-ways",
        pytest.param("memory", marks=slow),
    ],
)
def test_padded_batches_of_all_lengths_too(name):
    torch._dynamo.reset()
    layer = build(name, dtype=F64)
    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    for length in LENGTHS:
        x, lengths = sample(layer, length, 3), torch.tensor([length, length // 2, 0])
        torch.testing.assert_close(compiled(x, lengths=lengths), layer(x, lengths=lengths))
    assert counter.frame_count <= 3


@SCANS
@pytest.mark.filterwarnings("ignore:.torch.jit.script")
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the exporter's own
@pytest.mark.parametrize(
    "name",
    [
        "LMU-gru-fed",
        "LMUFFT",
        *(
            pytest.param(name, marks=slow)
            for name in ("LMU", "LMU-e_m", "LMU-gelu", "LMUFFT-last", "memory", "stack")
        ),
    ],
)
def test_a_model_of_the_users_is_exported(name):
    """To ONNX too, with nothing of ours but plain operators in it."""
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = build(name), nn.Linear(6 if name == "memory" else 7, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0])

    net = Net().eval()
    x = sample(net.rnn, 40, 1, dtype=torch.float32)
    program: Any = torch.export.export(net, (x,))
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not any(operator.startswith("lmu.") for operator in operators)
    torch.testing.assert_close(program.module()(x), net(x))
    logging.disable(logging.CRITICAL)
    try:
        onnx = torch.onnx.export(net, (x,), dynamo=True, verbose=False)
    finally:
        logging.disable(logging.NOTSET)
    assert onnx is not None
    session = onnxruntime.InferenceSession(onnx.model_proto.SerializeToString())
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), net(x), rtol=1e-4, atol=1e-5)


@layers
def test_the_tracer_of_one_length_is_refused(name):
    layer = build(name).requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(RuntimeError, match=r"use torch\.export"):
            torch.jit.trace(layer, sample(layer, 9, 1, dtype=torch.float32))


def test_the_tracer_takes_a_cell():
    cell, x = LMUCell(2, 4, 6, 20.0), torch.randn(3, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced: Any = torch.jit.trace(cell, x)
    torch.testing.assert_close(traced(2 * x), cell(2 * x))


@layers
def test_an_empty_batch(name):
    layer = build(name, dtype=F64)
    empty = sample(layer, 10, 0).requires_grad_()
    y, state = run(layer, empty)
    one, state_of_one = run(layer, sample(layer, 10, 1))
    assert y.shape == (0, *one.shape[1:])
    for part, part_of_one in zip(tree_leaves(state), tree_leaves(state_of_one), strict=True):
        assert part.shape == (0, *part_of_one.shape[1:])
    y.sum().backward()
    again, _ = run(layer, empty, state)
    assert again.shape == y.shape


@layers
def test_a_sequence_without_steps_keeps_its_state(name):
    layer = fill(build(name, dtype=F64))
    x = sample(layer, 12, 4).requires_grad_()
    state = None
    if "both" not in name and "blocks" not in name:
        _, state = run(layer, sample(layer, 5, 4, seed=2))
    y, after = run(layer, x, state, lengths=[12, 0, 3, 0])
    some, of_some = run(layer, x[::2], None if state is None else tree_map(
        lambda s: s[::2], state), lengths=[12, 3])  # fmt: skip
    torch.testing.assert_close(y[::2], some)
    torch.testing.assert_close(tree_map(lambda s: s[::2], after), of_some)
    if state is not None and name not in NESTED:
        torch.testing.assert_close(
            tree_map(lambda s: s[1::2], after), tree_map(lambda s: s[1::2], state)
        )
    if y.ndim == 3:
        assert not y[1::2].any()
    y.sum().backward()


@each(LAYERS)
@pytest.mark.parametrize("lengths", [None, [20, 13, 5]])
def test_resets_start_sequences_anew(name, lengths):
    if lengths is not None and "blocks" in name:
        pytest.skip("refused: tested in test_hidden_cells")
    layer = fill(build(name, dtype=F64))
    x = sample(layer, 20, 3).requires_grad_()
    resets = devices.place(torch.zeros(3, 20, dtype=torch.bool))
    resets[0, [0, 7, 8]] = resets[1, 12] = True
    if lengths is not None:
        resets[1:, 15] = True  # in padding, where it means nothing
    _, state = run(layer, sample(layer, 4, 3, seed=2))
    y, after = run(layer, x, state, lengths=lengths, resets=resets)
    ends = lengths or [20] * 3
    end = None
    for row, starts in enumerate(([0, 7, 8], [0, 12], [0])):
        for start, stop in zip(starts, [*starts[1:], ends[row]], strict=True):
            first = start == 0 and not resets[row, 0]
            given = row_of(state, row) if first else None
            right, end = run(layer, x[row : row + 1, start:stop], given)
            if y.ndim == 3:
                torch.testing.assert_close(y[row : row + 1, start:stop], right)
        torch.testing.assert_close(row_of(after, row), end)
    y.square().sum().backward()


def test_wrong_resets():
    layer = LMU(2, 4, 6, 20.0)
    x = torch.zeros(2, 5, 2)
    with pytest.raises(ValueError, match="within 0 and 5"):
        layer(x, lengths=[9, 1], resets=torch.zeros(2, 5).bool())
    for resets, kind, message in (
        (torch.zeros(2, 5), TypeError, r"must be a bool tensor \(batch, time\), got torch.float32"),
        (torch.zeros(5, 2).bool(), ValueError, r"\(batch, time\) = \(2, 5\), got \(5, 2\)"),
    ):
        with pytest.raises(kind, match=message):
            layer(x, resets=resets)

    class Own(nn.Module):
        hidden_size, recurrent = 4, True

        def forward(self, z: Tensor, state: Tensor | None) -> Tensor:
            return z[:, :4] if state is None else state

    with pytest.raises(ValueError, match="whose first state only it knows"):
        LMU(2, 4, 6, 20.0, hidden_cell=Own())(x, resets=torch.zeros(2, 5).bool())


@each([name for name in SEQUENCES if name not in NESTED])
def test_the_state_of_one_sequence_is_for_all(name):
    layer = fill(build(name, dtype=F64))
    _, one = run(layer, sample(layer, 4, 1, seed=2))
    x = sample(layer, 9, 3)
    right = run(layer, x, tree_map(lambda s: s.expand(3, *s.shape[1:]), one))
    torch.testing.assert_close(run(layer, x, one), right)
    torch.testing.assert_close(
        step(layer, x[:, 0], one), step(layer, x[:, 0], tree_map(lambda s: s.expand(3, -1), one))
    )
