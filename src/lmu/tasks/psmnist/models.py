"""Models for permuted sequential MNIST."""

import torch
from torch import nn

from lmu import LMU, LMUFFT
from lmu._arguments import checked, number, optional, whole, word
from lmu.layers._checks import check_probability
from lmu.models import GaussianNoise, SequenceClassifier
from lmu.tasks.psmnist.config import PRESETS
from lmu.tasks.psmnist.data import CLASSES, PIXELS


@checked(
    model=word,
    hidden_size=whole(1),
    memory_size=optional(whole(1)),
    theta=number(),
    dropout=check_probability,
    input_dropout=check_probability,
    layers=whole(1),
    hidden_noise=number(),
)
def build_model(
    model: str,
    *,
    hidden_size: int,
    memory_size: int | None,
    theta: float,
    dropout: float,
    input_dropout: float = 0.0,
    layers: int = 2,
    hidden_noise: float = 0.0,
) -> SequenceClassifier:
    """Build a classifier of pixel sequences (batch, 784, 1) into 10 digits.

    Args:
        model: A key of :data:`PRESETS`.
        hidden_size: Number of hidden units.
        memory_size: Order of the memory; None for ``"lstm"`` and ``"gru"``, which have none.
        theta: Length of the memory's window, in pixels.
        dropout: Probability that a hidden unit is dropped before the classifier, and in ``"deep"``
            after each of its layers.
        input_dropout: Probability that a pixel is dropped.
        layers: Hidden layers of ``"deep"``.
        hidden_noise: Standard deviation of the noise in ``"deep"`` after each normalization.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The model is unknown, or an argument is out of range or not for this model.
    """
    if model not in PRESETS:
        raise ValueError(f"model must be one of {', '.join(PRESETS)}, got {model!r}")
    if model != "deep" and (hidden_noise or layers != 2):
        raise ValueError(f"hidden noise and the number of layers are for deep, not for {model}")
    layer: nn.Module
    if model in ("lstm", "gru"):
        if memory_size is not None or input_dropout:
            raise ValueError(f"{model} has no memory_size and no input dropout")
        kind = nn.LSTM if model == "lstm" else nn.GRU
        return SequenceClassifier(kind(1, hidden_size, batch_first=True), CLASSES, dropout)
    if memory_size is None:
        raise ValueError(f"{model} needs a memory_size")
    if model == "lmufft":
        layer = LMUFFT(
            1,
            hidden_size,
            memory_size,
            PIXELS,
            theta,
            return_sequences=False,
            dropout=input_dropout,
        )
    elif model == "lmu":
        layer = LMU(1, hidden_size, memory_size, theta, dropout=input_dropout)
        _initialize_as_published(layer)
    else:
        read_out = _read_out(memory_size, hidden_size, layers, hidden_noise, dropout)
        layer = _memory_read_by(read_out, hidden_size, memory_size, theta, input_dropout)
    return SequenceClassifier(layer, CLASSES, dropout)


def _read_out(
    inputs: int, hidden_size: int, layers: int, noise: float, dropout: float
) -> nn.Sequential:
    """Build layers with batch normalization, noise, relu and, except in the last, dropout."""
    parts: list[nn.Module] = []
    for size in [inputs, *[hidden_size] * (layers - 1)]:
        parts += [nn.Linear(size, hidden_size), nn.BatchNorm1d(hidden_size)]
        parts += [GaussianNoise(noise)] if noise else []
        parts += [nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*parts[:-1])  # the classifier has the last dropout


def _memory_read_by(
    read_out: nn.Module, hidden_size: int, memory_size: int, theta: float, input_dropout: float
) -> LMU:
    """Build a memory whose last state is read by a module."""
    return LMU(
        1,
        hidden_size,
        memory_size,
        theta,
        hidden_cell=read_out,
        hidden_to_memory=False,
        memory_to_memory=False,
        input_to_hidden=False,
        encode_input=False,
        dropout=input_dropout,
        return_sequences=False,
    )


def _initialize_as_published(layer: LMU) -> None:
    """Initialize so that the memory reads the pixels, and the hidden units the memory alone.

    With a single input ``e_x`` is one number: if its usual random value is near zero, the memory
    gets little input and training starts slowly.
    """
    assert layer.e_x is not None
    with torch.no_grad():
        layer.e_x.fill_(1)
        for parameter in (layer.e_h, layer.e_m, layer.W_x, layer.W_h):
            if parameter is not None:
                parameter.zero_()
