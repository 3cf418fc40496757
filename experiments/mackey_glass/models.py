"""Models compared on the Mackey-Glass series, of about 18,000 parameters each."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from lmu import LMU, LMUFFT, LMUStack


class Chain(nn.Module):
    """A chain of recurrent layers, of lmu or PyTorch.

    Args:
        layers: Layers that return outputs and a state, which is ignored.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Return the last layer's outputs (batch, time, features) for (batch, time, input_size)."""
        for layer in self.layers:
            x = layer(x)[0]
        return x, None


class Predictor(nn.Module):
    """Predict at each step: ``y_t = w h_t + b``.

    Args:
        body: Returns hidden states (batch, time, hidden_size) first.
        hidden_size: Number of hidden units.
    """

    def __init__(self, body: nn.Module, hidden_size: int) -> None:
        super().__init__()
        self.body, self.linear = body, nn.Linear(hidden_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return predictions (batch, time, 1) for inputs (batch, time, 1)."""
        return self.linear(self.body(x)[0])


def _lstm() -> Predictor:
    """Four layers of 25 units, as in the paper."""
    return Predictor(nn.LSTM(1, 25, num_layers=4, batch_first=True), 25)


def _lmu() -> Predictor:
    """Four layers with windows of four steps, as in the paper; stacked they reach further back."""
    layers = [LMU(1 if i == 0 else 49, 49, 4, 4.0) for i in range(4)]
    return Predictor(LMUStack(layers, norm=None, residual=False), 49)


def _hybrid() -> Predictor:
    """Alternating LMU and LSTM layers, as in the paper."""
    layers: list[nn.Module] = []
    for inputs in (1, 28):
        layers += [LMU(inputs, 32, 4, 4.0), nn.LSTM(32, 28, batch_first=True)]
    return Predictor(Chain(layers), 28)


def _lmufft() -> Predictor:
    """Nonlinear functions of the input, a memory of the last delay of each, and a read-out.

    The equation has the same form: ``x`` at 15 steps ahead is a linear function of a nonlinear
    function of the past delay.
    """
    # For so small a memory forming the states is cheaper than avoiding them.
    layer = LMUFFT(1, 124, 17, None, 17.0, memory_channels=8, method="states")
    return Predictor(layer, 124)


@dataclass(frozen=True)
class Model:
    """A model and its learning rate.

    Attributes:
        name: Name in tables.
        build: Builds it with initial weights.
        learning_rate: Highest learning rate of Adam.
    """

    name: str
    build: Callable[[], Predictor]
    learning_rate: float = 0.01


# Sizes and learning rates were chosen by the error on the validation series.
MODELS = {
    "lstm": Model("LSTM", _lstm),
    "lmu": Model("LMU", _lmu),
    "hybrid": Model("LMU + LSTM", _hybrid),
    "lmufft": Model("LMUFFT", _lmufft),
}
