"""Batches of sequences of several lengths, against each sequence on its own."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import tree_leaves, tree_map

from tests import devices, variants
from tests.variants import SEQUENCES, each, fill, run

F64 = torch.float64
LENGTHS = [17, 40, 1, 40, 29]
every = each(SEQUENCES)
some = each(SEQUENCES, expensive=True)


def build(name: str) -> Any:
    return fill(variants.build(name, dtype=F64, seed=2))


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
    inputs = [x, *tree_leaves(state), *layer.parameters()]
    inputs = [t for t in inputs if t is not None]
    total = torch.stack([leaf.square().sum() for leaf in tree_leaves(result)]).sum()
    return result, torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)


def draw(layer: Any, started: bool) -> tuple[Tensor, Any]:
    x = variants.sample(layer, 43, 5, F64, seed=8).requires_grad_()
    if not started:
        return x, None
    state = tree_map(lambda s: s.detach().requires_grad_(), run(layer, x[:, :5])[1])
    return x, state


@every
@pytest.mark.parametrize("started", [False, True])
def test_lengths(name, started):
    if started and "blocks" in name:
        pytest.skip("refused: tested in test_hidden_cells")
    layer = build(name)
    x, state = draw(layer, started)
    got = with_gradients(layer, run(layer, x, state, lengths=LENGTHS), x, state)
    torch.testing.assert_close(got, with_gradients(layer, one_by_one(layer, x, state), x, state))


@some
@pytest.mark.parametrize("started", [False, True])
def test_padding_of_nan_changes_nothing(name, started):
    if started and name == "LMU-blocks":
        pytest.skip("forced blocks refuse lengths with a state")
    layer = build(name)
    x, state = draw(layer, started)
    padded = x.detach().clone()
    for i, n in enumerate(LENGTHS):
        padded[i, n:] = float("nan")
    padded.requires_grad_()
    lengths = devices.place(torch.tensor(LENGTHS))
    got = with_gradients(layer, run(layer, padded, state, lengths=lengths), padded, state)
    clean = with_gradients(layer, run(layer, x, state, lengths=lengths), x, state)
    torch.testing.assert_close(got, clean, rtol=0, atol=0)
    for i, n in enumerate(LENGTHS):
        assert not got[1][0][i, n:].any()


@some
@pytest.mark.parametrize("is_sorted", [False, True])
def test_packed_in_packed_out(name, is_sorted):
    layer = build(name)
    x, _ = draw(layer, False)
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


@some
def test_all_of_one_length(name):
    layer = build(name)
    x, _ = draw(layer, False)
    torch.testing.assert_close(run(layer, x, lengths=[43] * 5), run(layer, x))


@every
def test_wrong_lengths(name):
    layer = build(name)
    x, _ = draw(layer, False)
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
