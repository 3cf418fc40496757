"""A single sequence whose units several threads share, against the same step by step on one."""

import ctypes
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from lmu.ops import native
from lmu.ops.lmu.naive import LMUWeights
from lmu.ops.native import lmu as kernels
from tests import cores

F64 = torch.float64
# hidden, inputs, order, channels, joined, steps
SIZES = [
    (40, 1, 37, 1, False, 1),
    (33, 3, 64, 1, False, 70),
    (70, 2, 33, 3, True, 257),
    (37, 5, 40, 2, False, 512),
    (129, 1, 128, 1, False, 600),
    (37, 5, 17, 3, False, 100),
]


@pytest.fixture(autouse=True)
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Share sequences of any size among all threads; restore the number of threads."""
    cores.need()
    monkeypatch.setattr(kernels, "sharing", lambda *sizes: sizes[-1] if sizes[-1] > 1 else 0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def weights(hidden: int, inputs: int, order: int, channels: int, joined: bool) -> LMUWeights:
    """Weights, of a system for each channel or of one that all feed."""

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, dtype=F64) * scale

    single = [
        (draw(order, order, scale=0.1 / order**0.5) - 0.05 * torch.eye(order, dtype=F64),
         draw(order, 1, scale=0.1))
        for _ in range(channels)
    ]  # fmt: skip
    E = single[0][0] if joined else torch.block_diag(*(E for E, _ in single))
    B = (
        torch.cat([B for _, B in single], 1)
        if joined
        else torch.block_diag(*(B for _, B in single))
    )
    states = len(E)
    return LMUWeights(
        draw(channels, inputs),
        draw(channels, hidden, scale=0.3 / hidden**0.5),
        draw(channels, states, scale=0.3 / states**0.5),
        draw(hidden, inputs),
        draw(hidden, hidden, scale=0.5 / hidden**0.5),
        draw(hidden, states, scale=0.5 / states**0.5),
        E,
        B,
    )


def run(x: Tensor, h: Tensor, m: Tensor, w: LMUWeights, activation: str) -> list[Tensor]:
    """Outputs, memories and all gradients."""
    y, total, memories = kernels.forward(x, h, m, w, activation, True)
    dy, dm = torch.linspace(-1, 1, y.numel()).to(y).view_as(y), torch.ones_like(m)
    grads = kernels.backward(x, h, m, w, y, memories, dy, dm, activation, False)
    return [y, total, memories, *(g for g in grads if g is not None)]


@pytest.mark.parametrize("variant", cores.VARIANTS)
@pytest.mark.parametrize("threads", [2, 3, 4])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_threads_that_share_a_sequence_compute_what_one_does(activation, sizes, threads, variant):
    cores.need(variant)
    torch.manual_seed(0)
    *of_weights, steps = sizes
    w = weights(*of_weights)
    x, h = torch.randn(1, steps, sizes[1], dtype=F64), torch.randn(1, sizes[0], dtype=F64)
    m = torch.randn(1, len(w.E), dtype=F64)
    torch.set_num_threads(1)
    assert kernels.chunks_of(x, w) == 0
    right = run(x, h, m, w, activation)
    torch.set_num_threads(threads)
    assert kernels.chunks_of(x, w) == threads
    with native.use(variant):
        torch.testing.assert_close(run(x, h, m, w, activation), right, rtol=1e-9, atol=1e-11)


def test_a_part_that_comes_late_is_not_waited_for():
    """All parts one after the other, on one thread: the first does everything."""
    torch.manual_seed(0)
    w = weights(40, 2, 37, 1, False)
    x, h, m = (torch.randn(shape, dtype=F64) for shape in ((1, 90, 2), (1, 40), (1, 37)))
    torch.set_num_threads(3)
    right = run(x, h, m, w, "tanh")
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "chunks_of", lambda x, w: 3)
        torch.testing.assert_close(run(x, h, m, w, "tanh"), right, rtol=0, atol=0)


def test_what_is_worth_sharing(monkeypatch):
    """Long sequences of large layers; a chunk has a vector, and there are four chunks at most."""
    monkeypatch.undo()
    sharing = kernels.sharing
    assert sharing(784, 212, 256, 256, 4, 2) == 2
    assert sharing(784, 212, 256, 256, 4, 1) == 0
    assert sharing(16, 212, 256, 256, 4, 2) == 0
    assert sharing(784, 64, 32, 32, 4, 2) == 0
    assert sharing(784, 512, 256, 256, 4, 16) == 4
    assert sharing(784, 512, 48, 48, 4, 16) == 3
    w = weights(256, 2, 128, 1, False)
    torch.set_num_threads(2)
    assert kernels.chunks_of(torch.zeros(1, 200, 2), w) == 2
    assert kernels.chunks_of(torch.zeros(2, 200, 2), w) == 0
    assert kernels.chunks_of(torch.zeros(1, 0, 2), w) == 0


def test_room_that_cannot_be_had_is_an_error(monkeypatch):
    """And what was taken is given back."""
    ends = []

    def run(name: str, dtype: torch.dtype, arguments: ctypes.Structure, parts: int) -> None:
        if name.endswith("_begin"):
            raise MemoryError
        ends.append(name)

    monkeypatch.setattr(native, "run", run)
    torch.set_num_threads(2)
    w = weights(40, 2, 37, 1, False)
    x, h, m = (torch.randn(shape, dtype=F64) for shape in ((1, 9, 2), (1, 40), (1, 37)))
    with pytest.raises(MemoryError):
        kernels.forward(x, h, m, w, "tanh", False)
    assert ends == ["lmu_shared_forward_end"]
