"""What all layers share: the discrete Legendre system as buffers or parameters."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lmu.layers._checks import check_flag, check_size
from lmu.ops._precision import compute_dtype, power_dtype
from lmu.theory import discretize, legt

# Derived tensors that checkpoints of other ports hold; A and B are theirs for our Ad and Bd.
_FOREIGN = {"A": "Ad", "B": "Bd"}
_IGNORED = ("H", "fft_H")
_DERIVED = ("Ad", "Bd", "E", "H")  # our own, unless they are parameters


class LegendreModule(nn.Module):
    """Base of the layers: holds ``Ad`` (order, order) and ``Bd`` (order,) for one step.

    They are parameters where they are learned and otherwise non-persistent buffers in float64,
    whatever the dtype of the layer. Buffers are made anew from the originals whenever the module
    changes dtype or device: rounded ones never become the source of wider ones, and ``to_empty()``
    leaves no garbage in them.
    """

    Ad: Tensor
    Bd: Tensor
    E: Tensor | None  # Ad - I, unless Ad is learned

    def __init__(
        self, memory_size: int, theta: float, learn_a: bool, learn_b: bool, discretizer: str
    ) -> None:
        super().__init__()
        self.memory_size = check_size("memory_size", memory_size)
        self.learn_a = check_flag("learn_a", learn_a)
        self.learn_b = check_flag("learn_b", learn_b)
        with torch.inference_mode(False), torch.no_grad():
            Ad, Bd = discretize(*legt(memory_size, theta), discretizer)
        self._exact: dict[str, Tensor] = {"Ad": Ad, "Bd": Bd}
        self.register_load_state_dict_post_hook(_refresh_after_loading)
        self.theta = float(theta)
        self.discretizer = discretizer

    def _add_dynamics(self, factory: dict[str, Any]) -> None:
        """Register ``Ad``, ``Bd`` and ``E``; subclasses call this after their own parameters."""
        for name, learned in (("Ad", self.learn_a), ("Bd", self.learn_b)):
            empty = torch.empty(self._exact[name].shape, **factory)
            if learned:
                setattr(self, name, nn.Parameter(empty))
            else:
                self.register_buffer(name, empty, persistent=False)
        self.register_buffer("E", None, persistent=False)

    def reset_parameters(self) -> None:
        """Draw all parameters anew; learned dynamics go back to the Legendre system."""
        with torch.no_grad():
            for name, value in self._exact.items():
                if name in self._parameters:
                    getattr(self, name).copy_(value)
        self._refresh()

    def _like(self) -> Tensor:
        """A parameter whose device and dtype are the layer's."""
        raise NotImplementedError

    def _refresh(self) -> None:
        """Make the derived buffers anew, for the device and dtype that the layer has now."""
        device = self._like().device
        self._made_for = device, self._like().dtype
        with torch.inference_mode(False), torch.no_grad():
            self._make_buffers(device)

    def _make_buffers(self, device: torch.device) -> None:
        """``Ad`` and ``Bd``, where they are not learned, and what subclasses derive from them."""
        for name, value in self._exact.items():
            if name in self._buffers:
                self._buffers[name] = value.to(device, power_dtype(device), copy=True)
        self.E = None
        if not self.learn_a:
            self.E = self._increment().to(compute_dtype(self._like().dtype))

    def _increment(self) -> Tensor:
        """``Ad - I``, by which a recurrence advances the memory."""
        if self.E is not None:
            return self.E
        return self.Ad - torch.eye(self.memory_size, device=self.Ad.device, dtype=self.Ad.dtype)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        kept = {name: None for name in _DERIVED if name in self._buffers}
        state["_buffers"] = self._buffers | kept  # made anew, as is what subclasses keep
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._refresh()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LegendreModule":
        for name in _DERIVED:  # made anew, not converted: a device may lack their dtype
            if name in self._buffers:
                self._buffers[name] = None
        super()._apply(fn, recurse)
        self._refresh()
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        errors: list[str] = args[-1]
        for theirs, ours in _FOREIGN.items():
            value = state_dict.pop(prefix + theirs, None)
            if value is None:
                continue
            exact = self._exact[ours]
            if value.numel() != exact.numel():
                shape = tuple(value.shape)
                errors.append(
                    f"{prefix}{theirs} has the shape {shape}, ours is {tuple(exact.shape)}"
                )
            elif ours in self._parameters:
                state_dict.setdefault(prefix + ours, value.reshape(exact.shape))
            else:
                self._compare(prefix + theirs, value.reshape(exact.shape), exact)
        for name in _IGNORED:
            state_dict.pop(prefix + name, None)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _compare(self, key: str, theirs: Tensor, exact: Tensor) -> None:
        """Say so if a checkpoint was made with other dynamics than this layer computes with."""
        if theirs.is_meta:  # no values to compare
            return
        # What tells windows apart is how far the matrix is from the identity.
        identity = torch.eye(len(exact), dtype=exact.dtype, device=exact.device)
        scale = (exact - identity if exact.ndim == 2 else exact).abs().max()
        difference = (theirs.to("cpu", torch.float64) - exact).abs().max()
        if not difference < 1e-3 * scale + 1e-6:
            warnings.warn(
                f"{key} in the state_dict is not the matrix of theta={self.theta:g} and "
                f"discretizer={self.discretizer!r} (they differ by {difference.item():.2g}); the "
                "layer goes on with its own. Was the checkpoint made with another theta, or with "
                "trained dynamics (learn_a, learn_b)?",
                stacklevel=2,
            )

    def _describe(self) -> str:
        """The shared part of ``extra_repr``, without what has its default value."""
        text = f"memory_size={self.memory_size}, theta={self.theta:g}"
        for name in ("learn_a", "learn_b"):
            text += f", {name}=True" if getattr(self, name) else ""
        return text + (f", discretizer={self.discretizer!r}" if self.discretizer != "zoh" else "")


def _refresh_after_loading(module: nn.Module, _: Any) -> None:
    """With ``assign=True`` a loaded checkpoint changes the device and dtype of the layer."""
    assert isinstance(module, LegendreModule)
    like = module._like()
    if module._made_for != (like.device, like.dtype):
        module._refresh()
