"""States of layers: a tensor, or a tuple of states."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._pytree import register_pytree_node

from lmu._arguments import shown
from lmu.ops._states import State, map_state


class Begun(tuple):
    """A state of several sequences, some of which are ``new``: without a past.

    Only the layer knows the state from which a new one starts.
    """

    new: tuple[bool, ...]

    def __new__(cls, parts: Iterable[State], new: tuple[bool, ...]) -> "Begun":
        """Keep beside the parts of the state which sequences are new."""
        self = super().__new__(cls, parts)
        self.new = new
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self), self.new


# For what goes through states by PyTorch's trees, to which a subclass would be a leaf.
register_pytree_node(Begun, lambda state: (list(state), state.new), Begun)


def detach_state(state: State) -> State:
    """Cut a state off from the graph that made it, for truncated backpropagation through time.

    Args:
        state: What a layer returned as its state: a tensor, or a tuple of states.

    Returns:
        The same numbers, without history. They share memory with the given ones.

    Raises:
        TypeError: A part of it is something else.

    Example:
        >>> output, state = layer(x[:, :100])  # doctest: +SKIP
        >>> output, state = layer(x[:, 100:], lmu.detach_state(state))  # doctest: +SKIP
    """

    def detach(s: Any) -> Tensor:
        if not isinstance(s, Tensor):
            raise TypeError(f"state must be a tensor or a tuple of states, got {shown(s)}")
        return s.detach()

    return map_state(detach, state)
