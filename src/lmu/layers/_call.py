"""Calls of layers by models that are built of layers."""

from inspect import signature
from typing import Any

from torch import Tensor, nn

from lmu.layers._checks import check_size
from lmu.layers._modules import unwrap
from lmu.layers.state import State
from lmu.ops._states import output_of


def call(
    layer: nn.Module,
    x: Tensor,
    state: State,
    lengths: Tensor | None = None,
    return_sequences: bool | None = None,
) -> tuple[Any, State]:
    """Run a layer, which may be wrapped; give its output and its whole state."""
    asked = asking(layer, return_sequences)
    return layer(x, state, lengths=lengths, **getattr(unwrap(layer), "with_state", {}), **asked)


def asking(layer: nn.Module, return_sequences: bool | None) -> dict[str, bool]:
    """Arguments that ask one of our layers for all steps or the last; none for another."""
    if return_sequences is None or not hasattr(unwrap(layer), "_ends_at_last_step"):
        return {}
    return {"return_sequences": return_sequences}


def step(layer: nn.Module, x: Tensor, state: State) -> tuple[Tensor, State]:
    """Step a layer; a wrapped or hooked one by a call, in which its weights may be made."""
    inner = unwrap(layer)
    if not hasattr(inner, "step"):
        raise TypeError(f"{type(inner).__name__} cannot go step by step")
    return inner.step(x, state) if inner is layer else step_by_call(layer, x, state)


def step_by_call(layer: nn.Module, x: Tensor, state: State) -> tuple[Tensor, State]:
    """One step as a sequence of one."""
    y, after = call(layer, x.unsqueeze(1), state)
    return (y.squeeze(1) if y.ndim == 3 else y), after


def hidden_of(state: State) -> Tensor:
    """The last hidden units (batch, hidden_size) in a layer's state."""
    return output_of(state)


def check_layer(name: str, layer: object) -> nn.Module:
    """Return ``layer`` if it can be called as ours are; it may be wrapped."""
    inner = unwrap(layer)
    if not isinstance(inner, nn.Module) or "lengths" not in signature(inner.forward).parameters:
        raise TypeError(f"{name} must be a layer such as lmu.LMU or lmu.LMUFFT, got {layer!r}")
    for size in ("input_size", "hidden_size"):
        if not hasattr(inner, size):
            raise TypeError(
                f"{name} must be a layer such as lmu.LMU or lmu.LMUFFT with an {size}, "
                f"got {type(inner).__name__}"
            )
        check_size(f"{size} of {name}", getattr(inner, size))
    assert isinstance(layer, nn.Module)
    return layer


def sizes_of(layer: Any) -> tuple[int, int]:
    """Numbers of features that a layer takes and gives."""
    inner = unwrap(layer)
    return inner.input_size, inner.hidden_size


def like_of(layer: Any) -> Tensor:
    """A tensor of the layer's device and dtype."""
    inner = unwrap(layer)
    return inner._like() if hasattr(inner, "_like") else next(inner.parameters())


def gives_sequences(layer: nn.Module) -> bool:
    """True if a layer gives the outputs of all steps."""
    return bool(getattr(unwrap(layer), "return_sequences", True))
