"""What all layers share: the discrete Legendre system as buffers or parameters."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lmu.layers._checks import check_flag, check_size, check_thetas
from lmu.layers._foreign import translate
from lmu.ops._autograd import is_exporting, is_transformed
from lmu.ops._precision import compute_dtype, power_dtype, widen
from lmu.theory import (
    decode_window,
    discretize,
    discretize_theta,
    impulse_response,
    least_theta,
    legt,
)

_DERIVED = ("Ad", "Bd", "E", "H")  # unless they are parameters


class LegendreModule(nn.Module):
    """Base of the layers: holds ``Ad`` (order, order) and ``Bd`` (order,) for one step.

    With a theta for each channel they are (channels, order, order) and (channels, order). They are
    parameters where they are learned and otherwise non-persistent buffers in float64, whatever the
    dtype of the layer. Buffers are made anew from the originals whenever the module changes dtype
    or device: rounded ones never become the source of wider ones, and ``to_empty()`` leaves no
    garbage in them. With ``learn_theta`` there is only the parameter ``log_theta``.
    """

    Ad: Tensor
    Bd: Tensor
    E: Tensor | None  # Ad - I, unless it is learned
    H: Tensor  # the impulse response, as far as it was wanted
    log_theta: Tensor
    seq_len: int | None = None  # steps for which H is made in advance

    def __init__(
        self,
        memory_size: int,
        theta: float | Sequence[float],
        learn_a: bool,
        learn_b: bool,
        learn_theta: bool,
        discretizer: str,
        memory_channels: int = 1,
    ) -> None:
        super().__init__()
        self.memory_size = check_size("memory_size", memory_size)
        self.memory_channels = check_size("memory_channels", memory_channels)
        self.learn_a = check_flag("learn_a", learn_a)
        self.learn_b = check_flag("learn_b", learn_b)
        self.learn_theta = check_flag("learn_theta", learn_theta)
        if learn_theta and (learn_a or learn_b):
            raise ValueError(
                "learn_theta trains the matrices through theta and learn_a, learn_b train them "
                "freely: choose one of the two"
            )
        thetas, shared = check_thetas(theta, memory_channels)
        with torch.inference_mode(False), torch.no_grad():
            systems = [discretize(*legt(memory_size, value), discretizer) for value in thetas]
            Ad, Bd = (torch.stack(matrices) for matrices in zip(*systems, strict=True))
        if shared:
            Ad, Bd = Ad[0], Bd[0]
        self._exact: dict[str, Tensor] = {"Ad": Ad, "Bd": Bd}
        self._theta = tuple(float(v) for v in thetas) if Ad.ndim == 3 else float(thetas[0])
        self._least_theta = least_theta(memory_size, discretizer) if learn_theta else 0.0
        self._discretized: tuple[Any, Tensor, Tensor] | None = None
        self.discretizer = discretizer
        self.register_load_state_dict_post_hook(_refresh_after_loading)

    @property
    def theta(self) -> float | tuple[float, ...]:
        """Length of the window in time steps, or of each channel's; what it is now if learned.

        Where a learned one is sharded (``fully_shard``) all processes must ask together.
        """
        if not self.learn_theta or self.log_theta.is_meta:
            return self._theta
        theta: Any = self._current_theta()
        values = (theta.full_tensor() if self._sharded else theta).tolist()
        return tuple(values) if isinstance(values, list) else values

    @property
    def _sharded(self) -> bool:
        """Whether a process holds only its part of ``log_theta``."""
        return hasattr(self.log_theta, "full_tensor")

    def _current_theta(self) -> Tensor:
        # Above the bound by construction, so that the system stays stable whatever is learned.
        # And far from where exp() leaves the numbers: training may push as hard as it likes.
        log_theta = self.log_theta.to(power_dtype(self.log_theta.device)).clamp(-50, 50)
        theta = self._least_theta + log_theta.exp()
        return theta if isinstance(self._theta, tuple) else theta[0]

    @property
    def _constant(self) -> bool:
        """Whether the dynamics are not learned, so that what follows from them can be kept."""
        return not (self.learn_a or self.learn_b or self.learn_theta)

    def _add_dynamics(self, factory: dict[str, Any]) -> None:
        """Register ``Ad``, ``Bd`` and ``E``; subclasses call this after their own parameters."""
        if self.learn_theta:
            # Of one axis also where all channels share it: fully_shard takes no scalars.
            number = len(self._theta) if isinstance(self._theta, tuple) else 1
            self.log_theta = nn.Parameter(torch.empty(number, **factory))
        for name, learned in (("Ad", self.learn_a), ("Bd", self.learn_b)):
            empty = torch.empty(self._exact[name].shape, **factory)
            if learned:
                setattr(self, name, nn.Parameter(empty))
            else:
                self.register_buffer(name, None if self.learn_theta else empty, persistent=False)
        for name in ("E", "H"):
            self.register_buffer(name, None, persistent=False)

    def _dynamics(self) -> tuple[Tensor, Tensor]:
        """``Ad`` and ``Bd``, in float64 unless they are parameters; from theta where it is learned.

        Without gradients they are kept until theta has another value: steps of a stream want them
        again and again.
        """
        if not self.learn_theta:
            return self.Ad, self.Bd
        theta = self._current_theta()
        keep = not (torch.is_grad_enabled() or is_transformed() or theta.is_meta)
        values = theta.tolist() if keep else None
        if keep and self._discretized is not None and self._discretized[0] == values:
            return self._discretized[1:]
        systems = [
            discretize_theta(self.memory_size, value, self.discretizer)
            for value in theta.reshape(-1).unbind()
        ]
        Ad, Bd = (torch.stack(matrices) for matrices in zip(*systems, strict=True))
        Ad, Bd = (Ad, Bd) if theta.ndim else (Ad[0], Bd[0])
        if keep:
            self._discretized = values, Ad, Bd
        return Ad, Bd

    def decode(self, m: Tensor, delays: Tensor | Sequence[float] | None = None) -> Tensor:
        r"""Read the window out of a memory state: what went into the memory, so many steps ago.

        .. math:: u_{t-k} \approx \sum_i P_i(2r - 1)\, m_i(t), \qquad r\theta = k + 1/2

        The half step is the hold's: an input is held for a step. The window is low-pass filtered by
        the order of the memory; near its ends the error is largest.

        Args:
            m: Memory states (..., memory_channels * memory_size).
            delays: Steps ago (points,), within -1/2 and theta - 1/2 and not only whole ones; 0 is
                the newest input. All whole ones of the shortest window if None.

        Returns:
            The encoded inputs u (..., points, memory_channels).

        Raises:
            TypeError: ``m`` is not floating.
            ValueError: The last axis is not the memory's, or a delay leaves a window.

        Source: Voelker et al., NeurIPS 2019, equation 3.
        """
        if m.shape[-1:] != (self.memory_channels * self.memory_size,):
            raise ValueError(
                f"m must have the shape (..., {self.memory_channels * self.memory_size}), "
                f"memory_channels * memory_size, got {tuple(m.shape)}"
            )
        theta = self.theta
        windows = theta if isinstance(theta, tuple) else (theta,) * self.memory_channels
        if delays is None:
            delays = torch.arange(max(1, int(min(windows))), dtype=torch.float64)
        steps = torch.as_tensor(delays, dtype=torch.float64, device="cpu")
        if steps.ndim != 1:
            raise ValueError(f"delays must have the shape (points,), got {tuple(steps.shape)}")
        if steps.numel() and not (-0.5 <= steps.min() <= steps.max() <= min(windows) - 0.5):
            raise ValueError(
                f"delays must lie within -0.5 and {min(windows) - 0.5:g} steps, the window, got "
                f"values from {steps.min().item():g} to {steps.max().item():g}"
            )
        channels = m.unflatten(-1, (self.memory_channels, self.memory_size)).unbind(-2)
        read = [
            decode_window(channel, ((steps + 0.5) / window).clamp(0, 1))
            for channel, window in zip(channels, windows, strict=True)
        ]
        return torch.stack(read, dim=-1)

    def reset_parameters(self) -> None:
        """Draw all parameters anew; learned dynamics go back to the Legendre system."""
        self._reset_dynamics()

    def _reset_dynamics(self) -> None:
        with torch.no_grad():
            for name, value in self._exact.items():
                if name in self._parameters:
                    getattr(self, name).copy_(value)
            if self.learn_theta:
                theta = torch.tensor(self._theta, dtype=torch.float64)
                self.log_theta.copy_((theta - self._least_theta).log())
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
        self._discretized = None
        for name, value in self._exact.items():
            if name in self._buffers and not self.learn_theta:
                self._buffers[name] = value.to(device, power_dtype(device), copy=True)
        self.E = None
        if not (self.learn_a or self.learn_theta):
            self.E = self._increment().to(compute_dtype(self._like().dtype))
        self.H = torch.empty(0, device=device, dtype=compute_dtype(self._like().dtype))
        if self.seq_len is not None:
            self._impulse_response(self.seq_len)

    def _impulse_response(self, length: int) -> Tensor | None:
        """The kept impulse response, made longer if need be; None if it cannot be kept."""
        if not self._constant:
            return None
        if self.H.shape[-1] < length and is_exporting():
            return None
        if self.H.shape[-1] < length:
            # Kept beyond this call, so it must serve training even if this is inference; and for
            # the next length, if lengths creep up.
            longest = length if length == self.seq_len else 1 << (length - 1).bit_length()
            with torch.inference_mode(False), torch.no_grad():
                H = impulse_response(self.Ad, self.Bd, longest)
                self.H = H.to(compute_dtype(self._like().dtype))
        return self.H

    def _increment(self) -> Tensor:
        """``Ad - I``, by which a recurrence advances the memory."""
        if self.E is not None:
            return self.E
        Ad = widen(self._dynamics()[0])
        return Ad - torch.eye(self.memory_size, device=Ad.device, dtype=Ad.dtype)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        kept = {name: None for name in _DERIVED if name in self._buffers}
        state["_discretized"] = None
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
        name = f"theta={self._name_theta()} and discretizer={self.discretizer!r}"
        translate(state_dict, prefix, self._exact, self._parameters, args[-1], name)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _describe(self) -> str:
        """The shared part of ``extra_repr``, without what has its default value."""
        text = f"memory_size={self.memory_size}, theta={self._name_theta()}"
        if self.memory_channels > 1:
            text += f", memory_channels={self.memory_channels}"
        for name in ("learn_a", "learn_b", "learn_theta"):
            text += f", {name}=True" if getattr(self, name) else ""
        return text + (f", discretizer={self.discretizer!r}" if self.discretizer != "zoh" else "")

    def _name_theta(self) -> str:
        # A name must not wait for other processes.
        theta = self._theta if self.learn_theta and self._sharded else self.theta
        if isinstance(theta, tuple):
            return f"({', '.join(f'{value:g}' for value in theta)})"
        return f"{theta:g}"


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
        if name not in parameters:
            raise ValueError(
                f"initializers name {name!r}, which is no parameter of this layer: it has "
                f"{', '.join(parameters)}"
            )
        with torch.no_grad():
            function(parameters[name])


def _refresh_after_loading(module: nn.Module, _: Any) -> None:
    """With ``assign=True`` a loaded checkpoint changes the device and dtype of the layer."""
    assert isinstance(module, LegendreModule)
    like = module._like()
    if module._made_for != (like.device, like.dtype):
        module._refresh()
