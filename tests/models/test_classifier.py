from typing import Any

import pytest
import torch
from torch import nn

from lmu import LMU, LMUFFT, Bidirectional, LMUStack
from lmu.models import SequenceClassifier
from tests import variants


def build(name: str) -> Any:
    return variants.build(name, input_size=2, hidden_size=5, memory_size=4, theta=6.0)


@variants.each([name for name in variants.SEQUENCES if name not in variants.MEMORIES])
def test_logits_are_the_linear_map_of_the_last_hidden_state(name: str) -> None:
    layer = build(name)
    model = SequenceClassifier(layer, 3)
    x = torch.randn(4, 6, 2)
    output, state = variants.run(layer, x)
    both = isinstance(layer, Bidirectional)  # whose last states are at both ends
    last = output if output.ndim == 2 else state[0] if both else output[:, -1]
    expected = last @ model.classifier.weight.T + model.classifier.bias
    torch.testing.assert_close(model(x), expected)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model = SequenceClassifier(build("LMU"), 3, dropout=0.9)
    x = torch.randn(4, 6, 2)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_of_pytorch(kind) -> None:
    torch.manual_seed(0)
    model = SequenceClassifier(kind(2, 5, num_layers=2, batch_first=True), 3)
    x, lengths = torch.randn(4, 6, 2), [6, 3, 1, 5]
    output, _ = model.layer(x)
    last = torch.stack([output[i, n - 1] for i, n in enumerate(lengths)])
    torch.testing.assert_close(model(x), model.classifier(output[:, -1]))
    torch.testing.assert_close(model(x, lengths), model.classifier(last))


@pytest.mark.parametrize(
    "arguments",
    [{}, {"batch_first": True, "bidirectional": True}, {"batch_first": True, "proj_size": 2}],
)
def test_what_is_refused_of_pytorch(arguments) -> None:
    with pytest.raises(ValueError, match="LSTM must have batch_first=True, bidirectional=False"):
        SequenceClassifier(nn.LSTM(2, 5, **arguments), 3)


def test_wrong_lengths_of_pytorch_layers() -> None:
    model = SequenceClassifier(nn.GRU(2, 5, batch_first=True), 3)
    with pytest.raises(ValueError, match="lengths"):
        model(torch.zeros(2, 6, 2), [7, 6])


@pytest.mark.parametrize(
    ("layer", "classes", "dropout", "error", "says"),
    [
        (nn.ReLU(), 3, 0.0, TypeError, "ReLU"),
        ("lmu", 3, 0.0, TypeError, "str"),
        (None, 1, 0.0, ValueError, "at least 2, got 1"),
        (None, 2.5, 0.0, TypeError, r"2\.5"),
        (None, True, 0.0, TypeError, "True"),
        (None, 3, 1.0, ValueError, r"\[0, 1\), got 1"),
        (None, 3, -0.1, ValueError, r"got -0\.1"),
    ],
)
def test_wrong_arguments_say_what_came(layer, classes, dropout, error, says) -> None:
    layer = build("LMU") if layer is None else layer
    with pytest.raises(error, match=says):
        SequenceClassifier(layer, classes, dropout)


def test_a_stack_that_ends_both_ways_is_read_at_its_last_step() -> None:
    both = Bidirectional(LMUFFT(2, 3, 6, theta=9), LMU(2, 3, 4, 9.0))
    x = torch.randn(3, 40, 2)
    for layer in (LMUStack([both]), LMUStack([LMUStack([both], norm=None)])):
        model = SequenceClassifier(layer, 4)
        y, (h, _) = layer(x)
        torch.testing.assert_close(h, y[:, -1])
        torch.testing.assert_close(model(x), model.classifier(h))
        torch.testing.assert_close(layer(x, return_sequences=False)[0], h)
        lengths = [40, 7, 3]
        h = layer(x, lengths=lengths)[1][0]
        torch.testing.assert_close(model(x, lengths), model.classifier(h))


@pytest.mark.parametrize("every", [True, False])
def test_the_last_step_alone_is_computed(every: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = LMUFFT(2, 5, 6, theta=9, return_sequences=every)
    stack = LMUStack([LMUFFT(2, 2, 6, theta=9), layer])
    x = torch.randn(3, 40, 2)
    right = layer(x)[1], stack(x)[1][0]
    outputs = LMUFFT._all_outputs

    def forbidden(self: LMUFFT, *given: Any) -> Any:
        assert self is not layer, "all outputs are computed to read one"
        return outputs(self, *given)

    monkeypatch.setattr(LMUFFT, "_all_outputs", forbidden)
    for model, h in zip((layer, stack), right, strict=True):
        classifier = SequenceClassifier(model, 4)
        torch.testing.assert_close(classifier(x), classifier.classifier(h))
        lengths = [40, 7, 3]
        classifier(x, lengths)
