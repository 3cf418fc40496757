"""Networks compared on real series, with equal numbers of parameters."""

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
    """``nn.GRU`` that returns its last state as layers of lmu do.

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
        """Return the last state of each sequence (batch, hidden_size), twice.

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
        """Return forecasts (batch, horizon) of sequences (batch, time, features)."""
        _, state = self.layer(x, lengths=lengths)
        while not isinstance(state, Tensor):
            state = state[0]
        return self.linear(self.dropout(state))


def _memory(features: int, channels: int | None) -> dict[str, Any]:
    """Options for a memory of each feature itself, or of rectified mixtures of features.

    The mean of a rectified oscillation measures its strength; that of an oscillation is zero.
    """
    if channels is None:
        return {"memory_channels": features, "encode_input": False, "encoder_activation": None}
    return {"memory_channels": channels, "encoder_activation": torch.relu}


def _lmufft(
    features: int, units: int, order: int, theta: float, channels: int | None = None
) -> LMUFFT:
    """Build a memory that is read at the end."""
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
    """Build a memory, and a second of the first's read-out at each step.

    Options are those of the stack: if classes differ by the strength of motions, normalization of
    each step would hide it.
    """
    memory = _memory(features, first_channels)
    first = LMUFFT(features, units, orders[0], None, theta, **memory)
    memory = _memory(units, channels)
    second = LMUFFT(units, units, orders[1], None, theta, return_sequences=False, **memory)
    return LMUStack([first, second], **options)


def _lmu(features: int, units: int, order: int, theta: float, channels: int | None = None) -> LMU:
    """Build a memory, read at each step by units that feed back to themselves alone.

    With feedback into the memory the network overfits these small sets.
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
    """Find the most hidden units with which a network has at most ``budget`` parameters.

    Args:
        build: Builds it with a number of hidden units.
        budget: Number of parameters.

    Raises:
        ValueError: Two units are too many.
    """

    def parameters(units: int) -> int:
        return sum(p.numel() for p in build(units).parameters())

    units = 2  # a stack cannot normalize a single one
    if parameters(units) > budget:
        raise ValueError(f"a network with two hidden units has more than {budget} parameters")
    while parameters(2 * units) <= budget:
        units *= 2
    return units + bisect_right(range(units + 1, 2 * units), budget, key=parameters)


@dataclass(frozen=True)
class Network:
    """A layer and its recipe.

    Attributes:
        build: Builds the layer from numbers of features and hidden units, and ``arguments``.
        arguments: Arguments as plain data.
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
