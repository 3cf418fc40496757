"""Base of the layers that hold a Legendre memory."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lmu.layers._foreign import adopt, present_name
from lmu.layers.memory import LegendreMemory
from lmu.ops import System
from lmu.ops._modes import is_batched, is_differentiated


def _of_memory(name: str) -> Any:
    """Read an attribute of the memory, and refuse to replace it anywhere else."""

    def refuse(self: "MemoryLayer", value: Any) -> None:
        fix = "build another layer" if name == "theta" else f"assign to layer.memory.{name}"
        raise AttributeError(f"{name} belongs to the memory: {fix}")

    return property(lambda self: getattr(self.memory, name), refuse)


class MemoryLayer(nn.Module):
    """A layer around ``memory``, a :class:`LegendreMemory`, whose arguments it repeats.

    A subclass

    - calls ``_hold(memory)`` before it makes other parameters, so that optimizers find those of the
      memory first, ``_set_kind()`` after them, and passes ``device`` and ``dtype`` on to both;
    - has ``input_size``, ``hidden_size``, ``return_sequences``, ``reset_parameters()``, and
      ``_like()``, a tensor with its device and dtype, ``memory._anchor`` if it has no parameters;
    - begins ``forward`` and ``step`` with ``_prepare(x)`` and the checks of ``_checks.py``;
    - takes ``forward(x, state, *, lengths, resets, return_sequences)``, which ``in_pieces`` of
      ``_sequences.py`` cuts at resets, and gives outputs, zero in padding, and the state
      ``(h, m)``;
    - keeps ``m`` in float32 or better, as ``memory._states``, ``_last``, ``_readout`` and ``_step``
      give it; ``narrow`` makes it fit a narrower weight.
    """

    _version = 3  # of the state_dict; until 2 the entries of the memory were the layer's

    memory: LegendreMemory

    def _hold(self, memory: LegendreMemory) -> None:
        self.memory = memory
        self.memory_size, self.memory_channels = memory.memory_size, memory.channels
        self.learn_a, self.learn_b = memory.learn_a, memory.learn_b
        self.learn_theta = memory.learn_theta
        self.discretizer, self.system = memory.discretizer, memory.system
        self._state_size = memory.channels * memory.memory_size

    theta, Ad, Bd, log_theta = map(_of_memory, ("theta", "Ad", "Bd", "log_theta"))

    # Arguments of a call that returns the whole state in the second place.
    with_state: ClassVar[dict[str, Any]] = {}
    _ends_at_last_step = True  # so it can be asked for the output of the last step alone

    def decode(self, m: Tensor, delays: Tensor | Sequence[float] | None = None) -> Tensor:
        """Read the window out of memory states: :meth:`LegendreMemory.decode`."""
        return self.memory.decode(m, delays)

    def _like(self) -> Tensor:
        """A tensor whose device and dtype are the layer's."""
        raise NotImplementedError

    def _prepare(self, x: Any) -> Tensor:
        """Follow an input, if there are no parameters, and warn of ensembles; give ``_like()``."""
        like, memory = self._like(), self.memory
        if like is memory._anchor:
            memory._follow(x)
            like = self._like()
        if is_differentiated() and not self.learn_theta and is_batched(like):
            memory._warn_of_thetas()
        return like

    def _system(self) -> System:
        """The discrete system of the memory, on the layer's device."""
        return self.memory._system(self._like().device)

    def _set_kind(self) -> None:
        """Tell the memory what this layer and the members of an ensemble have in common."""
        shapes = ((name, p.shape) for name, p in self.named_parameters())
        self.memory._set_kind((type(self), *shapes))

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "memory" not in state.get("_modules", {}):
            raise TypeError(
                f"this pickle holds a {type(self).__name__} of another package or version, whose "
                "modules have the names of ours: load it there, save its state_dict(), and pass "
                "that to load_state_dict() of a layer built here"
            )
        super().__setstate__(state)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        name = prefix[:-1] or type(self).__name__
        adopt(self.memory, state_dict, prefix, args[0] or {}, name, args[-1])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def initialize(
    layer: nn.Module, initializers: Mapping[str, Callable[[Tensor], Any]] | None
) -> None:
    """Call the initializer of each parameter that is named.

    Raises:
        ValueError: The layer has no such parameter.
    """
    parameters = dict(layer.named_parameters())
    if initializers is not None and not isinstance(initializers, Mapping):
        raise TypeError(f"initializers must map names of parameters to functions: {initializers!r}")
    for name, function in (initializers or {}).items():
        name = present_name(name, parameters)
        if name not in parameters:
            raise ValueError(
                f"initializers name {name!r}, which is no parameter of this layer: it has "
                f"{', '.join(parameters)}"
            )
        with torch.no_grad():
            function(parameters[name])
