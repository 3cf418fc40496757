"""Batches of sequences of several lengths, against each sequence on its own."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import tree_leaves, tree_map

from lmu import LMU, LMUFFT, Bidirectional, LMUStack

F64 = torch.float64
LENGTHS = [17, 40, 1, 40, 29]


def lstm(size: int) -> nn.Module:
    return nn.LSTMCell(size, 7, dtype=F64)


BUILD = {
    "LMU": lambda: LMU(3, 7, 6, 12.0, dtype=F64),
    "LMU-biases": lambda: LMU(
        3, 7, 6, [12.0, 9.0], memory_channels=2, memory_bias=True, hidden_bias=True, dtype=F64
    ),
    "LMU-open": lambda: LMU(3, 7, 6, 12.0, hidden_to_memory=False, memory_bias=True, dtype=F64),
    "LMU-lstm": lambda: LMU(3, 7, 6, 12.0, hidden_cell=lstm(9), dtype=F64),
    "LMU-lstm-open": lambda: LMU(
        3, 7, 6, 12.0, hidden_cell=lstm(9), hidden_to_memory=False, dtype=F64
    ),
    "LMU-memory": lambda: LMU(
        3, None, 6, 12.0, hidden_cell=None, hidden_to_memory=False, dtype=F64
    ),
    "LMUFFT": lambda: LMUFFT(3, 7, 6, 9, [12.0, 30.0], memory_channels=2, dtype=F64),
    "LMUFFT-fft": lambda: LMUFFT(3, 7, 6, 9, 12.0, method="fft", dtype=F64),
    "LMUFFT-last": lambda: LMUFFT(3, 7, 6, 9, 12.0, return_sequences=False, dtype=F64),
    "stack": lambda: LMUStack(
        [LMU(3, 7, 6, 12.0, dtype=F64), LMUFFT(7, 7, 4, None, 30.0, dtype=F64)]
    ),
    "stack-last": lambda: LMUStack(
        [
            LMU(3, 7, 6, 12.0, dtype=F64),
            LMUFFT(7, 5, 4, None, 30.0, return_sequences=False, dtype=F64),
        ],
        norm="rms",
    ),
    "both-ways": lambda: Bidirectional(
        LMU(3, 7, 6, 12.0, memory_bias=True, dtype=F64), LMUFFT(3, 5, 4, None, 20.0, dtype=F64)
    ),
    "both-ways-last": lambda: Bidirectional(
        *(LMUFFT(3, 5, 4, None, t, return_sequences=False, dtype=F64) for t in (9.0, 20.0))
    ),
    "stack-both-ways": lambda: LMUStack(
        [
            Bidirectional(*(LMUFFT(3, 4, 4, None, 20.0, dtype=F64) for _ in range(2))),
            LMU(8, 8, 6, 12.0, dtype=F64),
        ]
    ),
}
pytestmark = pytest.mark.parametrize("name", BUILD)


def build(name: str) -> Any:
    torch.manual_seed(2)
    layer = BUILD[name]()
    for key, parameter in layer.named_parameters():
        if key.rpartition(".")[2] in {"e_m", "b_u", "b_h"}:
            nn.init.normal_(parameter, std=0.3)
    return layer


def run(layer: Any, x: Any, state: Any = None, **kwargs: Any) -> tuple[Any, Any]:
    kwargs |= {"return_state": True} if isinstance(layer, LMUFFT) else {}
    return layer(x, state, **kwargs)


def part(state: Any, i: int) -> Any:
    return None if state is None else tree_map(lambda s: s[i : i + 1], state)


def one_by_one(layer: Any, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    """Each sequence as a batch of its own; outputs padded with zeros."""
    results = [run(layer, x[i : i + 1, :n], part(state, i)) for i, n in enumerate(LENGTHS)]
    outputs = [y for y, _ in results]
    if outputs[0].ndim == 3:
        outputs = [nn.functional.pad(y, (0, 0, 0, x.shape[1] - y.shape[1])) for y in outputs]
    states = tree_map(lambda *parts: torch.cat(parts), *(state for _, state in results))
    return torch.cat(outputs), states


def with_gradients(layer: Any, result: Any, x: Tensor, state: Any) -> Any:
    wanted = [x, *tree_leaves(state), *layer.parameters()]
    wanted = [t for t in wanted if t is not None]
    total = torch.stack([leaf.square().sum() for leaf in tree_leaves(result)]).sum()
    return result, torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True)


def draw(layer: Any, name: str, started: bool) -> tuple[Tensor, Any]:
    g = torch.Generator().manual_seed(8)
    x = torch.randn(5, 43, 3, dtype=F64, generator=g).requires_grad_()
    if not started:
        return x, None
    state = tree_map(lambda s: s.detach().requires_grad_(), run(layer, x[:, :5])[1])
    return x, state


@pytest.mark.parametrize("started", [False, True])
def test_lengths(name, started):
    layer = build(name)
    x, state = draw(layer, name, started)
    got = with_gradients(layer, run(layer, x, state, lengths=LENGTHS), x, state)
    torch.testing.assert_close(got, with_gradients(layer, one_by_one(layer, x, state), x, state))


@pytest.mark.parametrize("started", [False, True])
def test_padding_of_nan_changes_nothing(name, started):
    layer = build(name)
    x, state = draw(layer, name, started)
    padded = x.detach().clone()
    for i, n in enumerate(LENGTHS):
        padded[i, n:] = float("nan")
    padded.requires_grad_()
    lengths = torch.tensor(LENGTHS)
    got = with_gradients(layer, run(layer, padded, state, lengths=lengths), padded, state)
    clean = with_gradients(layer, run(layer, x, state, lengths=lengths), x, state)
    torch.testing.assert_close(got, clean, rtol=0, atol=0)
    for i, n in enumerate(LENGTHS):
        assert not got[1][0][i, n:].any()


@pytest.mark.parametrize("is_sorted", [False, True])
def test_packed_in_packed_out(name, is_sorted):
    layer = build(name)
    x, _ = draw(layer, name, False)
    lengths = torch.tensor(sorted(LENGTHS, reverse=True) if is_sorted else LENGTHS)
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=is_sorted)
    y, state = run(layer, packed)
    right, right_state = run(layer, x, lengths=lengths)
    torch.testing.assert_close(state, right_state)
    if isinstance(y, Tensor):
        torch.testing.assert_close(y, right)
        return
    for mine, given in zip(y[1:], packed[1:], strict=True):
        assert mine is given or (
            mine is not None and given is not None and torch.equal(mine, given)
        )
    padded, counts = pad_packed_sequence(y, batch_first=True, total_length=43)
    assert torch.equal(counts, lengths)
    torch.testing.assert_close(padded, right)


def test_all_of_one_length(name):
    layer = build(name)
    x, _ = draw(layer, name, False)
    torch.testing.assert_close(run(layer, x, lengths=[43] * 5), run(layer, x))


def test_wrong_lengths(name):
    layer = build(name)
    x, _ = draw(layer, name, False)
    for lengths, kind, message in (
        ([1, 2], ValueError, r"one number for each of the 5 sequences, got the shape \(2,\)"),
        ([-1, 1, 2, 3, 4], ValueError, "within 0 and 43, the steps of the input, got -1 to 4"),
        ([1, 2, 3, 4, 44], ValueError, "got 1 to 44"),
        (torch.ones(5), TypeError, "lengths must be integers, got torch.float32"),
        (x[..., 0] > 0, TypeError, r"got torch.bool: of a mask \(batch, time\) give mask.sum\(1\)"),
    ):
        with pytest.raises(kind, match=message):
            run(layer, x, lengths=lengths)
    packed = pack_padded_sequence(x, torch.tensor(LENGTHS), True, enforce_sorted=False)
    with pytest.raises(TypeError, match="has its own lengths: leave out lengths="):
        run(layer, packed, lengths=LENGTHS)
