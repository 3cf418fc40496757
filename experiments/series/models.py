"""The networks that are compared on real series, of one number of parameters each."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from experiments.series.recipe import Recipe
from lmu import LMU, LMUFFT, LMUStack


class LastGRU(nn.Module):
    """``nn.GRU`` that gives its last state as the layers of lmu do, so that it can stand for one.

    Args:
        input_size: Number of input features.
        units: Number of hidden units of each direction.
        bidirectional: Run a second GRU backwards.
    """

    def __init__(self, input_size: int, units: int, bidirectional: bool = False) -> None:
        super().__init__()
        self.gru = nn.GRU(input_size, units, batch_first=True, bidirectional=bidirectional)
        self.hidden_size = units * (1 + bidirectional)

    def forward(self, x: Tensor, *, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The last state of each sequence (batch, hidden_size), in both places.

        Args:
            x: Input (batch, time, input_size).
            lengths: Number of steps of each sequence (batch,).
        """
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        h = self.gru(packed)[1].transpose(0, 1).flatten(1)
        return h, h


class Forecaster(nn.Module):
    """Forecast the next values from the last hidden state: ``y = W dropout(h_T) + b``.

    Args:
        layer: See :class:`lmu.models.SequenceClassifier`.
        horizon: Number of values.
        dropout: Probability that a hidden unit is dropped in training.
    """

    def __init__(self, layer: nn.Module, horizon: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layer, self.dropout = layer, nn.Dropout(dropout)
        size: Any = layer.hidden_size
        self.linear = nn.Linear(size, horizon)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Forecasts (batch, horizon) of sequences (batch, time, features)."""
        _, state = self.layer(x, lengths=lengths)
        while not isinstance(state, Tensor):
            state = state[0]
        return self.linear(self.dropout(state))


def _memory(features: int, channels: int | None) -> dict[str, Any]:
    """A memory of each feature as it is, or of rectified mixtures of them.

    What is rectified keeps its strength when it is averaged, as an oscillation does not.
    """
    if channels is None:
        return {"memory_channels": features, "encode_input": False, "encoder_activation": None}
    return {"memory_channels": channels, "encoder_activation": torch.relu}


def _lmufft(
    features: int, units: int, order: int, theta: float, channels: int | None = None
) -> LMUFFT:
    """A memory that is read at the end."""
    memory = _memory(features, channels)
    return LMUFFT(features, units, order, None, theta, return_sequences=False, **memory)


def _stack(
    features: int,
    units: int,
    theta: float,
    orders: tuple[int, int],
    channels: int,
    first_channels: int | None = None,
    **options: Any,
) -> LMUStack:
    """A memory, and a second of what is read out of the first at each step.

    Options are those of the stack: where the strength of a motion tells what it is, the layers'
    normalization of each step would hide it.
    """
    memory = _memory(features, first_channels)
    first = LMUFFT(features, units, orders[0], None, theta, **memory)
    memory = _memory(units, channels)
    second = LMUFFT(units, units, orders[1], None, theta, return_sequences=False, **memory)
    return LMUStack([first, second], **options)


def _lmu(features: int, units: int, order: int, theta: float, channels: int | None = None) -> LMU:
    """A memory, read at each step by units that feed back to themselves alone.

    With feedback into the memory these small sets are learned by heart, and validated worse.
    """
    return LMU(
        features,
        units,
        order,
        theta,
        hidden_to_memory=False,
        memory_to_memory=False,
        memory_bias=channels is not None,
        hidden_bias=True,
        return_sequences=False,
        **_memory(features, channels),
    )


def sized(build: Callable[[int], nn.Module], budget: int) -> int:
    """The most hidden units with which a network has no more parameters than ``budget``.

    Args:
        build: Builds it with a number of hidden units.
        budget: Number of parameters.

    Raises:
        ValueError: Not even two units fit.
    """

    def parameters(units: int) -> int:
        return sum(p.numel() for p in build(units).parameters())

    units = 2  # a stack does not normalize one
    if parameters(units) > budget:
        raise ValueError(f"a network with two hidden units has more than {budget} parameters")
    while parameters(2 * units) <= budget:
        units *= 2
    return units + bisect_right(range(units + 1, 2 * units), budget, key=parameters)


@dataclass(frozen=True)
class Network:
    """A layer and how it is trained.

    Attributes:
        build: Gives the layer of a number of features, of hidden units, and ``arguments``.
        arguments: As plain data.
        recipe: See :class:`experiments.series.recipe.Recipe`.
    """

    build: Callable[..., nn.Module]
    arguments: dict[str, Any]
    recipe: Recipe


CLASSIFY = Recipe(epochs=60, learning_rate=1e-2, dropout=0.3, noise=0.3)
FEW = Recipe(epochs=100, learning_rate=1e-2, dropout=0.3, batch_size=16)
FORECAST = Recipe(epochs=60, learning_rate=3e-3)

NETWORKS: dict[str, dict[str, Network]] = {
    "JapaneseVowels": {
        "LMUFFT": Network(_lmufft, {"order": 8, "theta": 30}, CLASSIFY),
        "LMUStack": Network(_stack, {"theta": 30, "orders": (6, 6), "channels": 8}, CLASSIFY),
        "LMU": Network(_lmu, {"order": 6, "theta": 30}, CLASSIFY),
        "GRU": Network(LastGRU, {}, CLASSIFY),
        "bidirectional GRU": Network(LastGRU, {"bidirectional": True}, CLASSIFY),
    },
    "BasicMotions": {
        "LMUFFT": Network(_lmufft, {"order": 2, "theta": 100, "channels": 64}, FEW),
        "LMUStack": Network(
            _stack,
            {
                "theta": 100,
                "orders": (2, 2),
                "channels": 16,
                "first_channels": 32,
                "norm": None,
                "residual": False,
            },
            FEW,
        ),
        "LMU": Network(_lmu, {"order": 2, "theta": 100, "channels": 32}, FEW),
        "GRU": Network(LastGRU, {}, FEW),
        "bidirectional GRU": Network(LastGRU, {"bidirectional": True}, FEW),
    },
    "sunspots": {
        "LMUFFT": Network(_lmufft, {"order": 16, "theta": 60}, FORECAST),
        "LMU": Network(_lmu, {"order": 16, "theta": 60}, Recipe(30, 3e-3, dropout=0.5)),
        "GRU": Network(LastGRU, {}, FORECAST),
    },
}
