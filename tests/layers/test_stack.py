"""Stacks and both directions, against their definition in terms of the layers."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from lmu import LMU, LMUFFT, Bidirectional, LMUStack, Stream

F64 = torch.float64


def layers() -> list[nn.Module]:
    torch.manual_seed(0)
    return [
        LMU(3, 6, 5, 12.0, dtype=F64),
        LMUFFT(6, 6, 4, None, 20.0, dtype=F64),
        LMU(6, 8, 4, 9.0, hidden_cell=nn.GRUCell(10, 8, dtype=F64), dtype=F64),
    ]


def test_stack_is_norm_layer_and_residual_path():
    stack = LMUStack(layers())
    x = y = torch.randn(2, 15, 3, dtype=F64)
    for layer, norm, skip in zip(stack.layers, stack.norms, stack.skips, strict=True):
        y = skip(y) + layer(norm(y))[0]
    output, (h_n, states) = stack(x)
    torch.testing.assert_close(output, stack.last_norm(y))
    torch.testing.assert_close(h_n, output[:, -1])
    assert len(states) == 3
    kinds = [type(skip) for skip in stack.skips]
    assert kinds == [nn.Linear, nn.Identity, nn.Linear]
    assert (stack.input_size, stack.hidden_size) == (3, 8)


@pytest.mark.parametrize("norm", [None, "layer", "rms"])
@pytest.mark.parametrize("residual", [False, True])
def test_split_and_steps_equal_the_whole(norm, residual):
    stack = LMUStack(layers(), norm=norm, residual=residual)
    x = torch.randn(2, 15, 3, dtype=F64)
    whole, state = stack(x)
    first, carried = stack(x[:, :6])
    second, after = stack(x[:, 6:], carried)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    torch.testing.assert_close(after, state)
    stream, now, outputs, streamed = Stream(stack, 2), None, [], []
    for x_t in x.unbind(1):
        y, now = stack.step(x_t, now)
        outputs.append(y)
        streamed.append(stream(x_t))
    torch.testing.assert_close(torch.stack(outputs, dim=1), whole)
    torch.testing.assert_close(torch.stack(streamed, dim=1), whole)
    torch.testing.assert_close(now, state)
    torch.testing.assert_close(stream.state, state)


def test_without_norm_and_residual_path_it_is_a_chain():
    parts = layers()
    x = torch.randn(2, 9, 3, dtype=F64)
    y = x
    for part in parts:
        y = part(y)[0]
    torch.testing.assert_close(LMUStack(parts, norm=None, residual=False)(x)[0], y)


def test_dropout_is_of_the_layers_outputs():
    stack = LMUStack(layers(), dropout=0.5)
    x = torch.randn(2, 9, 3, dtype=F64)
    assert not torch.equal(stack(x)[0], stack(x)[0])
    plain = LMUStack(layers())
    plain.load_state_dict(stack.state_dict())
    torch.testing.assert_close(stack.eval()(x), plain(x))


def test_last_layer_may_give_its_last_step_alone():
    parts = [LMUFFT(3, 6, 4, None, 9.0), LMUFFT(6, 6, 4, None, 9.0)]
    stack = LMUStack(parts)
    x = torch.randn(2, 15, 3)
    right = stack(x)[0][:, -1]
    parts[1].return_sequences = False
    last = LMUStack(parts)
    last.load_state_dict(stack.state_dict())
    output, (h_n, _) = last(x)
    torch.testing.assert_close(output, right)
    assert torch.equal(output, h_n)


def test_both_ways_is_a_layer_forwards_and_one_backwards():
    torch.manual_seed(0)
    ahead, back = LMU(3, 6, 5, 12.0, dtype=F64), LMUFFT(3, 4, 5, None, 12.0, dtype=F64)
    both = Bidirectional(ahead, back)
    x = torch.randn(2, 15, 3, dtype=F64)
    y, (h_n, (end, start)) = both(x)
    y_a, (h_a, m_a) = ahead(x)
    y_b, (h_b, m_b) = back(x.flip(1), return_state=True)
    torch.testing.assert_close(y, torch.cat([y_a, y_b.flip(1)], dim=2))
    torch.testing.assert_close(h_n, torch.cat([h_a, h_b], dim=1))
    torch.testing.assert_close((end, start), ((h_a, m_a), (h_b, m_b)))
    assert both.hidden_size == 10
    torch.testing.assert_close(both(x, (None, (end, None)))[0][..., :6], ahead(x, end)[0])


@pytest.mark.parametrize("kind", ["stack", "both"])
def test_module_manners(kind):
    x = torch.randn(2, 9, 3, dtype=F64)
    model = LMUStack(layers()) if kind == "stack" else Bidirectional(*(layers()[0] for _ in "ab"))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(twin(x), model(x), rtol=0, atol=0)
    narrow = copy.deepcopy(model).float()
    assert narrow(x.float())[0].dtype == torch.float32
    before = {key: p.clone() for key, p in model.named_parameters()}
    model.reset_parameters()  # pyright: ignore[reportCallIssue]
    assert any(not torch.equal(p, before[key]) for key, p in model.named_parameters())


@pytest.mark.parametrize(
    ("kind", "backend"),
    [
        ("stack", "eager"),
        pytest.param("stack", "aot_eager", marks=pytest.mark.slow),
        ("both", "aot_eager"),
    ],
)
def test_compiles_for_all_lengths(kind: str, backend: str) -> None:
    model = LMUStack(layers()) if kind == "stack" else Bidirectional(*(layers()[0] for _ in "ab"))
    compiled = torch.compile(model, fullgraph=True, backend=backend, dynamic=True)
    for length in (9, 14):
        x = torch.randn(2, length, 3, dtype=F64)
        torch.testing.assert_close(tree_leaves(compiled(x)), tree_leaves(model(x)))


def test_wrong_arguments():
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"layers": []}, ValueError, "at least one layer"),
        ({"layers": [nn.Linear(3, 4)]}, TypeError, "such as lmu.LMU or lmu.LMUFFT, got Linear"),
        (
            {"layers": [LMU(3, 4, 2, 5), LMU(5, 4, 2, 5)]},
            ValueError,
            "gives 4 features",
        ),
        (
            {"layers": [LMUFFT(3, 4, 2, 5, 5, return_sequences=False), LMU(4, 4, 2, 5)]},
            ValueError,
            "layer 0 gives its last step alone",
        ),
        ({"layers": layers(), "norm": "batch"}, ValueError, "one of .* got 'batch'"),
        ({"layers": layers(), "dropout": 2.0}, ValueError, "dropout must lie in"),
        (
            {"layers": [LMU(1, 4, 2, 5)]},
            ValueError,
            "nothing but zero, and there is one before layer 0",
        ),
        ({"layers": [LMU(1, 4, 2, 5)], "norm": "rms"}, ValueError, "nothing but its sign"),
        ({"layers": [LMU(3, 1, 2, 5), LMU(1, 4, 2, 5)]}, ValueError, "there is one before layer 1"),
        (
            {"layers": [LMU(3, 1, 2, 5)]},
            ValueError,
            "nothing but zero, and there is one at the end",
        ),
    ]
    for arguments, kind, message in wrong:
        with pytest.raises(kind, match=message):
            LMUStack(**arguments)
    stack = LMUStack(layers())
    x = torch.zeros(1, 2, 3, dtype=F64)
    nesting = r"\(output, \(\(h, m\), \(h, m\), \(h, m\)\)\)"
    state = stack(x)[1]
    for wrong_state, message in (
        ((None, (None, None)), rf"must be {nesting}, got \(NoneType, \(NoneType, NoneType\)\)"),
        (state[1], rf"must be {nesting}, got \(\(\(1, "),
        (torch.zeros(1), rf"must be {nesting}, got \(1,\)"),
        (
            (None, (None, state[1][0][0], None)),
            rf"layer 1, LMU.*{nesting}: the state must be a pair",
        ),
    ):
        with pytest.raises(TypeError, match=message):
            stack(x, wrong_state)
    one = LMU(3, 4, 2, 5)
    for pair, message in (
        ((one, one), "must be two layers"),
        ((one, LMU(2, 4, 2, 5)), "one input_size, got 3 and 2"),
        ((one, LMUFFT(3, 4, 2, 5, 5, return_sequences=False)), "must be the same in both"),
    ):
        with pytest.raises(ValueError, match=message):
            Bidirectional(*pair)
    with pytest.raises(TypeError, match="Bidirectional cannot go step by step"):
        LMUStack([Bidirectional(one, LMU(3, 4, 2, 5))]).step(torch.zeros(1, 3))
    with pytest.raises(TypeError, match="forward_layer must be a layer such as"):
        Bidirectional(nn.Linear(3, 4), one)


def test_rms_has_one_eps() -> None:
    stack = LMUStack([LMU(3, 4, 2, 5, dtype=F64)], norm="rms")
    assert [norm.eps for norm in (*stack.norms, stack.last_norm)] == [1e-5, 1e-5]
