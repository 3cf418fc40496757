"""Streams against the layer over the whole sequence."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lmu import LMU, LMUFFT, LMUCell, Stream
from lmu.layers._backends import StepsBackend
from lmu.ops import native
from tests import devices, variants
from tests.variants import LAYERS, STREAMED, each, fill

F64 = torch.float64
# Those that a fast backend runs or, as the last ones, the layer's own steps; each with all tests.
PLAIN = [name for name in STREAMED if name in {*LAYERS}]
QUICK = {"LMU", "LMU-theta", "LMU-open", "LMU-channels", "LMU-tanh", "LMU-sigmoid", "LMU-prelu",
         "LMU-gru", "LMUFFT", "LMUFFT-channels", "LMUFFT-gelu", "LMUFFT-theta",
         "stack"}  # fmt: skip
layers = each(PLAIN, expensive=True, quick=QUICK)
anything = each(STREAMED, expensive=True, quick=QUICK)


def build(name: str, **kwargs: Any) -> Any:
    return fill(variants.build(name, seed=3, **kwargs), 0.1)


def sample(layer: Any, batch: int, length: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return variants.sample(layer, length, batch, dtype, seed=4)


@torch.no_grad()
def whole(layer: Any, x: Tensor, state: Any = None) -> tuple[Tensor, Tensor, Tensor]:
    y, (h, m) = variants.run(layer, x, state)
    return y, h, m


def run(stream: Stream, x: Tensor) -> Tensor:
    outputs = [stream(x_t) for x_t in x.unbind(1)]
    return torch.stack(outputs, dim=1) if outputs else x.new_empty(0)


@each(STREAMED)
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_numbers_of_the_whole(name, batch, dtype):
    layer = build(name, dtype=dtype)
    x = sample(layer, batch, 53, dtype)
    stream = Stream(layer, batch)
    torch.testing.assert_close((run(stream, x), *stream.state), whole(layer, x))


@layers
@pytest.mark.parametrize("at", [0, 1, 5, 9, 10, 30])
def test_state_in_and_out_at_any_step(name, at):
    layer = build(name, dtype=F64)
    x = sample(layer, 2, 53, F64)
    first, second = Stream(layer, 2), Stream(layer, 2)
    run(second, -sample(layer, 2, 4, F64))  # another past, which the new state replaces
    run(first, x[:, :at])
    second.state = first.state
    torch.testing.assert_close(
        (run(second, x[:, at:]), *second.state), (whole(layer, x)[0][:, at:], *whole(layer, x)[1:])
    )


@layers
@pytest.mark.parametrize("at", [3, 9, 10])
@pytest.mark.parametrize(
    "rows", [None, 1, slice(1, 3), torch.tensor([True, False, True]), torch.tensor([2, 0])], ids=str
)
def test_reset_of_some_streams(name, at, rows):
    layer = build(name, dtype=F64)
    x = sample(layer, 3, 40, F64)
    stream = Stream(layer, 3)
    run(stream, x[:, :at])
    stream.reset(rows)
    chosen = torch.zeros(3, dtype=torch.bool)
    chosen[slice(None) if rows is None else rows] = True
    got = run(stream, x[:, at:])
    fresh, kept = whole(layer, x[:, at:])[0], whole(layer, x)[0][:, at:]
    torch.testing.assert_close(got, torch.where(chosen[:, None, None], fresh, kept))


@layers
def test_weights_are_read_once_and_again_on_refresh(name):
    layer = build(name, dtype=F64)
    x = sample(layer, 2, 40, F64)
    stream = Stream(layer, 2)
    before = whole(layer, x)
    run(stream, x[:, :13])
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(0.9)
    parts = [getattr(layer, f"{which}_activation", None) for which in ("encoder", "hidden")]
    called = any(isinstance(part, nn.Module) for part in parts)  # whose parameters are not copied
    if not (called or isinstance(stream._backend, StepsBackend)):  # which calls the layer itself
        torch.testing.assert_close(run(stream, x[:, 13:20]), before[0][:, 13:20])
    h, m = stream.state
    stream.refresh()
    torch.testing.assert_close(run(stream, x[:, 20:]), whole(layer, x[:, 20:], (h, m))[0])


@layers
def test_outputs_are_the_callers_and_carry_no_graph(name):
    layer = build(name)
    stream = Stream(layer)
    x = sample(layer, 1, 30).requires_grad_()
    kept = [stream(x_t) for x_t in x.unbind(1)]
    assert not kept[-1].requires_grad
    for h in kept[:15]:
        h.zero_()
    torch.testing.assert_close(torch.stack(kept[15:], dim=1), whole(layer, x)[0][:, 15:])


@layers
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_layers_keep_the_state_in_float32(name, dtype):
    layer = build(name).to(dtype)
    x = sample(layer, 2, 40, dtype)
    stream = Stream(layer, 2)
    y = run(stream, x)
    h, m = stream.state
    h = h[0] if isinstance(h, tuple) else h
    assert (y.dtype, h.dtype, m.dtype) == (dtype, dtype, torch.float32)
    torch.testing.assert_close(y, whole(layer, x)[0], rtol=0.01, atol=0.03)


@layers
def test_autocast_does_not_touch_a_stream(name):
    layer = build(name)
    x = sample(layer, 2, 40)
    expected = run(Stream(layer, 2), x)
    with torch.autocast(devices.current.type, torch.bfloat16):
        stream = Stream(layer, 2)
        torch.testing.assert_close(run(stream, x), expected)
        assert all(t.dtype == torch.float32 for t in tree_leaves(stream.state))


def test_nothing_grows_with_time():
    stream = Stream(build("LMU"), 2)
    x = torch.randn(2, 3)

    def live() -> int:
        import gc

        return sum(type(o) is Tensor for o in gc.get_objects())

    for _ in range(50):
        stream(x)
    before = live()
    for _ in range(500):
        stream(x)
    assert live() <= before


def test_wrong_arguments():
    with pytest.raises(TypeError, match="LMU, LMUFFT, LMUStack or LegendreMemory, got LMUCell"):
        Stream(LMUCell(1, 2, 3, 4.0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        Stream(build("LMU"), 0)
    stream = Stream(build("LMU"), 2)
    with pytest.raises(ValueError, match=r"the shape \(batch, input_size=3\), got \(2, 1"):
        stream(torch.zeros(2, 1))
    with pytest.raises(ValueError, match="built for batch_size=2, got 5 rows: build another one"):
        stream(torch.zeros(5, 3))
    with pytest.raises(TypeError, match=r"is torch.float64 but the layer torch.float32"):
        stream(torch.zeros(2, 3).double())
    with pytest.raises(ValueError, match=r"m must have the shape \(2, 6\), got \(2, 7\)"):
        stream.state = torch.zeros(2, 7), torch.zeros(2, 7)


@layers
def test_a_stream_survives_pickling_inference_mode_and_a_change_of_dtype(name):
    layer = build(name)
    x = sample(layer, 2, 30)
    right = whole(layer, x)[0]
    with torch.inference_mode():
        stream = Stream(layer, 2)
        first = run(stream, x[:, :7])
    second = run(stream, x[:, 7:13])
    twin = pickle.loads(pickle.dumps(stream))
    third = run(stream, x[:, 13:])
    torch.testing.assert_close(torch.cat([first, second, third], 1), right, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(run(twin, x[:, 13:]), third)
    twin.layer.double()
    twin.refresh()
    assert twin(x[:, 0].double()).dtype == F64
    twin.state = None
    got = run(twin, x[:, :5].double()).float()
    torch.testing.assert_close(got, right[:, :5], rtol=1e-4, atol=1e-5)


def draw_rows(g: torch.Generator, streams: int) -> Any:
    """Some streams, by an int, slice, mask or index; also none, and in any order."""
    i = int(torch.randint(streams, (), generator=g))
    mask = torch.rand(streams, generator=g) < 0.5
    order = torch.randperm(streams, generator=g)
    kinds = [i, slice(i, None), mask, order[: i + 1], order[:0], order.tolist()]
    return kinds[int(torch.randint(len(kinds), (), generator=g))]


@anything
@pytest.mark.parametrize("seed", range(3))
def test_any_schedule_gives_what_each_stream_gives_alone(name, seed):
    layer, streams = build(name, dtype=F64), 5
    g = torch.Generator().manual_seed(seed)
    stream = Stream(layer, streams)
    pasts: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in range(streams)]
    done = []

    def step(rows: Any) -> None:
        numbers = torch.arange(streams)[slice(None) if rows is None else rows].view(-1)
        x = devices.place(torch.randn(len(numbers), 3, dtype=F64, generator=g))
        y = stream(x) if rows is None else stream(x, streams=rows)
        assert y.shape == (len(numbers), layer.hidden_size)
        for i, x_i, y_i in zip(numbers.tolist(), x, y, strict=True):
            pasts[i][0].append(x_i)
            pasts[i][1].append(y_i)

    for event in torch.randint(10, (80,), generator=g).tolist():
        if event < 6:
            step(draw_rows(g, streams))
        elif event == 6:
            for _ in range(int(torch.randint(1, 40, (), generator=g))):  # some blocks
                step(None)
        elif event == 7:
            rows = draw_rows(g, streams)
            stream.reset(rows)
            for i in torch.arange(streams)[rows].view(-1).tolist():
                done.append(pasts[i])
                pasts[i] = [], []
        elif event == 8:
            with torch.inference_mode():
                step(draw_rows(g, streams))
        else:
            stream = pickle.loads(pickle.dumps(stream))
    for inputs, outputs in (past for past in [*done, *pasts] if past[0]):
        with torch.no_grad():
            alone = layer(torch.stack(inputs)[None])[0][0]
        torch.testing.assert_close(torch.stack(outputs), alone, rtol=0, atol=1e-12)


@anything
def test_streams_that_do_not_step_stand_still(name):
    stream = Stream(build(name), 4)
    x = sample(stream.layer, 4, 6)
    run(stream, x[:, :5])
    stream(x[:1, 5], streams=2)  # here an LMU ends its block
    before = tree_leaves(stream.state)
    stream(x[1:3, 5], streams=torch.tensor([3, 1]))
    after = tree_leaves(stream.state)
    still = torch.tensor([0, 2])
    assert all(torch.equal(a[still], b[still]) for a, b in zip(before, after, strict=True))
    assert not any(torch.equal(a[[1, 3]], b[[1, 3]]) for a, b in zip(before, after, strict=True))


def test_blocks_begin_again_when_all_step_together():
    with native.use(None):
        stream = Stream(build("LMU"), 2)
    backend: Any = stream._backend
    length, x = backend.length, torch.randn(2, 3)
    stream(x[:1], streams=0)
    for _ in range(length - 1):
        assert backend.at is None
        stream(x)
    stream(x)
    assert backend.at == 1


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [
        (3, "streams must name some of 3, .* got 3: "),
        (torch.tensor([0, -4]), "streams must name some of 3"),
        (torch.tensor([True, False]), "streams must name some of 3"),
        (torch.tensor([0.0]), "streams must name some of 3"),
        (torch.tensor([1, 0, 1]), r"name each stream once, got tensor\(\[1, 0, 1\]\): give its"),
        (torch.tensor([1, -2]), "name each stream once"),
        (torch.tensor([[0], [1]]), "one axis at most"),
        (torch.tensor([0, 1]), "streams names 2 streams, got 3 rows of x"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["LMU", "LMU-tanh", "LMUFFT"])
def test_wrong_streams_are_refused_and_change_nothing(name, rows, wrong):
    stream = Stream(build(name), 3)
    run(stream, torch.randn(3, 5, 3))
    before = stream.state
    with pytest.raises(ValueError, match=wrong):
        stream(torch.randn(3, 3), streams=rows)
    torch.testing.assert_close(stream.state, before, rtol=0, atol=0)


@layers
def test_nothing_grows_where_streams_step_apart(name):
    stream = Stream(build(name), 3)
    x = sample(stream.layer, 3, 1)[:, 0]

    def live() -> int:
        import gc

        return sum(type(o) is Tensor for o in gc.get_objects())

    def some(steps: int) -> int:
        for t in range(steps):
            stream(x[:2], streams=torch.tensor([t % 3, (t + 1) % 3]))
            stream.reset(t % 3)
            for _ in range(20 if t % 9 == 0 else 0):
                stream(x)
        return live()

    before = some(20)
    assert some(100) <= before


class Started(nn.Module):
    """A cell that learns the state from which it starts."""

    recurrent, hidden_size = True, 7

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.linspace(-1, 1, 7))
        self.cell = nn.GRUCell(9, 7)

    def forward(self, z: Tensor, h: Tensor | None = None) -> Tensor:
        return self.cell(z, self.first.expand(len(z), 7) if h is None else h)


def again(stream: Stream, how: str) -> Stream:
    if how == "refresh":
        stream.refresh()
    elif how == "state":
        stream.state = stream.state
    else:
        stream = pickle.loads(pickle.dumps(stream)) if how == "pickle" else copy.deepcopy(stream)
    return stream


@pytest.mark.parametrize("how", ["refresh", "deepcopy", "pickle", "state"])
def test_streams_without_a_past_stay_without(how: str) -> None:
    torch.manual_seed(0)
    layer, x = LMU(3, 7, 6, 12.0, hidden_cell=Started()), torch.randn(2, 5, 3)
    y = layer(x)[0]
    stream = again(Stream(layer, 2), how)
    torch.testing.assert_close(stream(x[:, 0]), y[:, 0])
    stream = again(stream, how)
    torch.testing.assert_close(stream(x[:, 1]), y[:, 1])
    stream.reset([0])
    stream = again(stream, how)
    got = stream(torch.stack([x[0, 0], x[1, 2]]))
    torch.testing.assert_close(got, torch.stack([y[0, 0], y[1, 2]]))


@pytest.mark.parametrize("kind", ["LMU", "LMUFFT", "LMU-gru-fed", "stack"])
def test_reset_takes_what_names_streams(kind: str) -> None:
    stream, x = Stream(build(kind), 4), torch.randn(4, 3)
    first = stream(x)
    for named in ((0, 2), [0, 2], torch.tensor([0, 2]), slice(0, 3, 2), [True, False, True, False]):
        stream(x)
        stream.reset(named)
        h = stream(x)
        torch.testing.assert_close(h[[0, 2]], first[[0, 2]])
        assert not torch.isclose(h[[1, 3]], first[[1, 3]]).all()
        stream.reset()
        torch.testing.assert_close(stream(x), first)
    for wrong in (4, -5, [4], (0, 9), torch.tensor([0.5]), [True, False], "all", [[0]], {1: 2}):
        with pytest.raises(ValueError, match="streams must"):
            stream.reset(wrong)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "activation", [nn.PReLU(), nn.Dropout(0.5), nn.Sequential(nn.Linear(1, 1), nn.Tanh())]
)
def test_modules_as_activations(activation: nn.Module) -> None:
    layer, x = LMUFFT(3, 7, 6, theta=12.0, encoder_activation=activation), torch.randn(2, 9, 3)
    right = layer.eval()(x)[0]
    layer.train()
    stream = Stream(layer, 2)
    torch.testing.assert_close(torch.stack([stream(x_t) for x_t in x.unbind(1)], 1), right)
    assert activation.training
    weights = [p.clone() for p in activation.parameters()]
    for parameter in activation.parameters():
        nn.init.constant_(parameter, 9.0)
    layer.reset_parameters()
    for parameter, weight in zip(activation.parameters(), weights, strict=True):
        assert parameter.shape == weight.shape
        assert not (parameter == 9).any()
