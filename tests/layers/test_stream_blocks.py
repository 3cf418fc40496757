"""Streams that the compiled core steps in blocks, against the layer over the whole sequence."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from lmu import LMU, LMUFFT, Stream
from lmu.layers import _backend_native
from lmu.ops import native
from lmu.ops.native.block_steps import BlockSteps, is_worth_blocks, plan
from tests import cores
from tests.variants import fill

F64 = torch.float64
LENGTH = plan(1).length
KINDS: dict[str, dict[str, Any]] = {
    "one channel": {},
    "channels, biases": {"memory_channels": 3, "memory_bias": True, "hidden_bias": True},
    "own windows, relu": {
        "memory_channels": 2, "theta": (20.0, 35.0), "hidden_activation": "relu",
    },
    "not fed by h": {"hidden_to_memory": False, "hidden_activation": "sigmoid"},
    "LMUFFT": {},
    "LMUFFT, channels": {"memory_channels": 3, "encoder_activation": torch.tanh},
    "LMUFFT, own windows": {
        "memory_channels": 2, "theta": (20.0, 35.0), "encode_input": False,
        "hidden_activation": "gelu", "input_to_hidden": False,
    },
}  # fmt: skip
kinds = pytest.mark.parametrize("kind", KINDS)
# In a block, at its ends, and while the first one is prepared.
AT = [0, 1, LENGTH - 1, LENGTH, LENGTH + 1, LENGTH + 8, 2 * LENGTH, 3 * LENGTH + 5]


@pytest.fixture(autouse=True)
def always_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    cores.need()
    monkeypatch.setattr(_backend_native, "is_worth_blocks", lambda *sizes: True)


def build(kind: str, dtype: torch.dtype = F64) -> Any:
    torch.manual_seed(1)
    options: dict[str, Any] = {"theta": 40.0, "dtype": dtype} | KINDS[kind]
    return fill((LMUFFT if kind.startswith("LMUFFT") else LMU)(2, 19, 9, **options), 0.1)


def build_stream(layer: Any, batch: int) -> tuple[Stream, BlockSteps]:
    stream: Any = Stream(layer, batch)
    assert isinstance(stream._backend.steps, BlockSteps)
    return stream, stream._backend.steps


def run(stream: Stream, x: Tensor) -> Tensor:
    return torch.stack([stream(x_t) for x_t in x.unbind(1)], dim=1)


@torch.no_grad()
def whole(layer: Any, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    return layer(x, state, **layer.with_state)


@kinds
@pytest.mark.parametrize("batch", [1, 3, 17])
@pytest.mark.parametrize("variant", cores.VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["f32", "f64"])
def test_numbers_of_the_whole(kind, batch, variant, dtype):
    cores.need(variant)
    layer = build(kind, dtype)
    x = torch.randn(batch, 5 * LENGTH + 7, 2, dtype=dtype)
    with native.use(variant):
        stream, steps = build_stream(layer, batch)
        y = run(stream, x)
    assert steps.blocks
    right, state = whole(layer, x)
    torch.testing.assert_close((y, *stream.state), (right, *state))


@kinds
@pytest.mark.parametrize("at", AT)
def test_state_in_and_out_at_any_step(kind, at):
    layer = build(kind)
    x = torch.randn(2, at + 3 * LENGTH, 2, dtype=F64)
    first, second = build_stream(layer, 2)[0], build_stream(layer, 2)[0]
    run(second, torch.randn(2, 2 * LENGTH + 3, 2, dtype=F64))  # a past, which the state replaces
    right, state = whole(layer, x)
    if at:
        run(first, x[:, :at])
    second.state = first.state
    for stream in (first, second, copy.deepcopy(first)):
        torch.testing.assert_close((run(stream, x[:, at:]), *stream.state), (right[:, at:], *state))


@kinds
@pytest.mark.parametrize("batch", [3, 18])
@pytest.mark.parametrize("at", AT[1:])
def test_reset_of_some_streams_lets_the_others_go_on(kind, at, batch):
    layer = build(kind)
    x = torch.randn(batch, at + 3 * LENGTH, 2, dtype=F64)
    stream, steps = build_stream(layer, batch)
    run(stream, x[:, :at])
    before = steps.blocks
    stream.reset([0, 2])
    assert steps.blocks == before
    right = whole(layer, x)[0][:, at:]
    right[[0, 2]] = whole(layer, x[:, at:])[0][[0, 2]]
    torch.testing.assert_close(run(stream, x[:, at:]), right)


@kinds
@pytest.mark.parametrize("at", AT)
def test_a_step_of_some_ends_the_block_and_another_begins(kind, at):
    layer = build(kind)
    x = torch.randn(3, at + 5 * LENGTH, 2, dtype=F64)
    stream, steps = build_stream(layer, 3)
    if at:
        run(stream, x[:, :at])
    some = stream(x[[2, 0], at], streams=[2, 0])
    assert not steps.blocks
    some = torch.stack([some[1], stream(x[[1], at], streams=1)[0], some[0]])
    rest = run(stream, x[:, at + 1 :])
    assert steps.blocks
    right, state = whole(layer, x)
    torch.testing.assert_close(torch.cat([some[:, None], rest], 1), right[:, at:])
    torch.testing.assert_close(stream.state, state)


def test_threads_change_nothing():
    layer = build("one channel", torch.float32)
    x = torch.randn(19, 3 * LENGTH, 2)
    stream, steps = build_stream(layer, 19)
    right = run(stream, x)
    stream, steps = build_stream(layer, 19)
    steps.parts = 3
    steps._work = steps._work.new_empty(3 * len(steps._work))
    steps._arguments.work = steps._work.data_ptr()
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        torch.testing.assert_close(run(stream, x), right, rtol=0, atol=0)
    finally:
        torch.set_num_threads(before)


def test_rounding_does_not_add_up():
    """10,000 steps of a long window in float32, against float64."""
    torch.manual_seed(0)
    layer = LMU(1, 16, 12, 2000.0)
    x = torch.randn(1, 10_000, 1) + 0.5
    stream, _ = build_stream(layer, 1)
    y = run(stream, x)
    with torch.no_grad():
        right, (_, m) = copy.deepcopy(layer).double()(x.double())
    error = (stream.state[1].double() - m).norm() / m.norm()
    assert error < 1e-5
    assert (y.double() - right).norm() / right.norm() < 1e-4


def test_blocks_are_for_large_layers():
    assert is_worth_blocks(1, 212, 256, 1, True)
    assert not is_worth_blocks(1, 32, 32, 1, True)
    assert not is_worth_blocks(100_000, 212, 256, 1, False)  # whose buffers would take gigabytes
