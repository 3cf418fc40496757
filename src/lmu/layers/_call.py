"""How a layer is called by what is built of layers."""

from inspect import signature
from typing import Any

from torch import Tensor, nn

from lmu.layers._checks import check_size
from lmu.layers._hidden import output_of
from lmu.layers.lmu_fft import LMUFFT
from lmu.layers.state import State


def call(layer: nn.Module, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Any, State]:
    """The output of a layer and its whole state."""
    kwargs: dict[str, Any] = {"return_state": True} if isinstance(layer, LMUFFT) else {}
    return layer(x, state, lengths=lengths, **kwargs)


def hidden_of(state: State) -> Tensor:
    """The last hidden units (batch, hidden_size) in a layer's state."""
    return output_of(state)


def check_layer(name: str, layer: object) -> nn.Module:
    """Return ``layer`` if it is one of ours, or is called alike."""
    if not isinstance(layer, nn.Module) or "lengths" not in signature(layer.forward).parameters:
        raise TypeError(f"{name} must be a layer such as lmu.LMU or lmu.LMUFFT, got {layer!r}")
    for size in ("input_size", "hidden_size"):
        if not hasattr(layer, size):
            raise TypeError(
                f"{name} must be a layer such as lmu.LMU or lmu.LMUFFT with an {size}, "
                f"got {type(layer).__name__}"
            )
        check_size(f"{size} of {name}", getattr(layer, size))
    return layer


def sizes_of(layer: Any) -> tuple[int, int]:
    """Numbers of features that a layer takes and gives."""
    return layer.input_size, layer.hidden_size


def like_of(layer: Any) -> Tensor:
    """A tensor of the layer's device and dtype."""
    return layer._like() if hasattr(layer, "_like") else next(layer.parameters())


def gives_sequences(layer: nn.Module) -> bool:
    """Whether a layer gives the outputs of all steps."""
    return bool(getattr(layer, "return_sequences", True))
