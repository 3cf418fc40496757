import pytest
import torch
from torch import nn

from lmu import LMU, LMUFFT
from lmu.models import SequenceClassifier

LAYERS = {
    "lmu": lambda: LMU(2, 5, 4, 6.0),
    "lmufft": lambda: LMUFFT(2, 5, 4, 6, 6.0),
    "final": lambda: LMUFFT(2, 5, 4, 6, 6.0, return_sequences=False),
}


@pytest.mark.parametrize("name", LAYERS)
def test_logits_are_the_linear_map_of_the_last_hidden_state(name: str) -> None:
    layer = LAYERS[name]()
    model = SequenceClassifier(layer, 3)
    x = torch.randn(4, 6, 2)
    output, _ = layer(x)
    last = output if name == "final" else output[:, -1]
    expected = last @ model.classifier.weight.T + model.classifier.bias
    torch.testing.assert_close(model(x), expected)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model = SequenceClassifier(LAYERS["lmu"](), 3, dropout=0.9)
    x = torch.randn(4, 6, 2)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


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
    layer = LAYERS["lmu"]() if layer is None else layer
    with pytest.raises(error, match=says):
        SequenceClassifier(layer, classes, dropout)
