"""What all layers share: the discrete Legendre system, as constants or parameters."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lmu._arguments import explained, tensor
from lmu.layers._checks import check_flag, check_size, check_thetas
from lmu.layers._foreign import compare_dynamics, translate
from lmu.layers._window import read_window
from lmu.ops import System
from lmu.ops._modes import (
    compute_dtype,
    is_batched,
    is_differentiated,
    is_plain,
    is_transformed,
    power_dtype,
)
from lmu.theory import discretize, discretize_theta, least_theta, legt

# Thetas that layers of a kind were built with, to tell whether an ensemble may be of several.
_built: dict[tuple[Any, ...], set[tuple[Any, ...]]] = {}


def _matrix(name: str) -> Any:
    return property(lambda self: self._read(name), lambda self, value: self._replace(name, value))


class LegendreModule(nn.Module):
    """Base of the layers, and the owner of their discrete systems.

    ``Ad`` (order, order) and ``Bd`` (order,), or with a theta for each channel (channels, order,
    order) and (channels, order), are parameters where they are learned. Otherwise they are plain
    tensors in float64, whatever the dtype of the layer: no buffers, which other code would copy,
    broadcast, average and cast. A tensor that is assigned to ``layer.Ad`` replaces the constant.
    With ``learn_theta`` there is only the parameter ``log_theta``.
    """

    _version = 2  # of the state_dict; since 2 Euler's least theta is another

    Ad = _matrix("Ad")
    Bd = _matrix("Bd")
    log_theta: Tensor
    # Arguments of a call that give the whole state in the second place.
    with_state: ClassVar[dict[str, Any]] = {}
    _ends_at_last_step = True  # and so can be asked for the output of the last step alone
    _replaced = False  # whether a matrix was assigned
    seq_len: int | None = None  # a length of which the impulse response is likely to be wanted

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
        self.discretizer = discretizer
        self._theta = check_thetas(theta, memory_channels)
        exact = self._legendre()
        several = isinstance(self._theta, tuple)
        self._theta = tuple(map(float, self._theta)) if several else float(self._theta)
        # None where a fake mode looks on, whose tensors are of no use beyond it.
        self._exact = exact if is_plain(*exact.values()) else None
        self._replaced = False
        self._least_theta = least_theta(memory_size, discretizer) if learn_theta else 0.0
        self._forget()

    @property
    def theta(self) -> float | tuple[float, ...]:
        """Length of the window in time steps, or of each channel's; what it is now if learned.

        Where a learned one is sharded (``fully_shard``) all processes must ask together.
        """
        if not self.learn_theta or self.log_theta.is_meta:
            return self._theta
        log_theta: Any = self.log_theta.detach()
        log_theta = (log_theta.full_tensor() if self._sharded else log_theta).cpu()
        values = self._theta_of(log_theta).reshape(-1)
        shown = tuple(map(self._shown, values.tolist(), log_theta))
        return shown if isinstance(self._theta, tuple) else shown[0]

    def _shown(self, theta: float, log_theta: Tensor) -> float:
        """The shortest number that makes the same parameter: 10 and not 10.00000032."""
        for digits in range(1, 17):
            short = float(f"{theta:.{digits}g}")
            if short > self._least_theta and log_theta == math.log(short - self._least_theta):
                return short
        return theta

    @property
    def _sharded(self) -> bool:
        """Whether a process holds only its part of ``log_theta``."""
        return hasattr(self.log_theta, "full_tensor")

    def _current_theta(self) -> Tensor:
        theta = self._theta_of(self.log_theta)
        return theta if isinstance(self._theta, tuple) else theta[0]

    def _theta_of(self, log_theta: Tensor) -> Tensor:
        # Above the bound by construction, so that the system stays stable whatever is learned.
        # And far from where exp() leaves the numbers: training may push as hard as it likes.
        log_theta = log_theta.to(power_dtype(log_theta.device)).clamp(-50, 50)
        return self._least_theta + log_theta.exp()

    @property
    def _constant(self) -> bool:
        """Whether the dynamics are not learned, so that what follows from them can be kept."""
        return not (self.learn_a or self.learn_b or self.learn_theta)

    def _add_dynamics(self, factory: dict[str, Any]) -> None:
        """Register what is learned of the dynamics; subclasses call this after their parameters."""
        self._drop_anchor(torch.empty(0, **factory))
        if self.learn_theta:
            # Of one axis also where all channels share it: fully_shard takes no scalars.
            # Never narrower than float32, in which a step of an optimizer would not move it.
            number = len(self._theta) if isinstance(self._theta, tuple) else 1
            empty = torch.empty(number, **factory)
            self.log_theta = nn.Parameter(empty.to(compute_dtype(empty.dtype)))
        for name, learned in (("Ad", self.learn_a), ("Bd", self.learn_b)):
            if learned:
                empty = torch.empty(self._matrices()[name].shape, **factory)
                # Not by register_parameter, to which the property is another attribute.
                self._parameters[name] = nn.Parameter(empty)

    def _drop_anchor(self, anchor: Tensor) -> None:
        """Keep what tells the device and dtype of a layer without parameters; never on meta.

        From there nothing can be moved, and no checkpoint brings it back.
        """
        self._anchor = (
            torch.empty(0, dtype=anchor.dtype, device="cpu") if anchor.is_meta else anchor
        )

    def _follow(self, x: Tensor) -> None:
        """A layer whose parameters are elsewhere, or that has none, goes where its input is."""
        anchor = self._anchor
        if isinstance(x, Tensor) and anchor.device != x.device and self._like() is anchor:
            self._anchor = torch.empty(0, device=x.device, dtype=anchor.dtype)

    def _legendre(self) -> dict[str, Tensor]:
        """``Ad`` and ``Bd`` of theta, in float64 on the CPU."""
        thetas = self._theta if isinstance(self._theta, tuple) else (self._theta,)
        with torch.inference_mode(False), torch.no_grad():
            systems = [discretize(*legt(self.memory_size, v), self.discretizer) for v in thetas]
            Ad, Bd = (torch.stack(matrices) for matrices in zip(*systems, strict=True))
        return {"Ad": Ad, "Bd": Bd} if thetas is self._theta else {"Ad": Ad[0], "Bd": Bd[0]}

    def _matrices(self) -> dict[str, Tensor]:
        return self._legendre() if self._exact is None else self._exact

    def _forget(self) -> None:
        """Drop what follows from the matrices."""
        self._systems: dict[torch.device, System] = {}
        self._discretized: tuple[Any, System] | None = None

    def _learned(self, name: str) -> bool:
        return self.learn_a if name == "Ad" else self.learn_b

    def _read(self, name: str) -> Tensor:
        if not self._learned(name):
            return getattr(self._system() if self.learn_theta else self._placed(), name)
        parameter = self._parameters.get(name)
        return self.__dict__[name] if parameter is None else parameter

    def _replace(self, name: str, value: Any) -> None:
        """Compute with another constant matrix; theta then no longer tells what is remembered."""
        if self._learned(name):  # by what takes the parameter's place, such as pruning
            self.__dict__[name] = value
            return
        exact = self._matrices()
        shape = exact[name].shape
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.shape != shape:
            given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name} must be a floating tensor {tuple(shape)}, got {given}")
        if self.learn_theta:
            raise ValueError(f"{name} follows from log_theta: build a layer without learn_theta")
        self._exact = exact | {name: value.detach()}
        if is_plain(value, exact[name]):  # not where an ensemble's is taken back
            self._remember_theta("replaced")
            legendre = self._legendre()
            self._replaced = any(
                not torch.equal(self._exact[n].cpu(), legendre[n]) for n in legendre
            )
        self._forget()

    def _system(self) -> System:
        """The discrete system, in float64 unless it is learned, or follows from a learned theta.

        The latter is kept without gradients until theta has another value: steps of a stream want
        it again and again.
        """
        if is_differentiated() and not self.learn_theta and is_batched(self._like()):
            self._warn_of_thetas()
        if self._constant:
            return self._placed()
        if not self.learn_theta:
            fixed = self._placed()
            Ad, Bd = (
                (self.Ad if self.learn_a else fixed.Ad),
                (self.Bd if self.learn_b else fixed.Bd),
            )
            return System(Ad, Bd, constant=False)
        theta = self._current_theta()
        keep = not (torch.is_grad_enabled() or is_transformed()) and is_plain(theta)
        values = theta.tolist() if keep else None
        if keep and self._discretized is not None and self._discretized[0] == values:
            return self._discretized[1]
        systems = [
            discretize_theta(self.memory_size, value, self.discretizer)
            for value in theta.reshape(-1).unbind()
        ]
        Ad, Bd = (torch.stack(matrices) for matrices in zip(*systems, strict=True))
        system = System(*((Ad, Bd) if theta.ndim else (Ad[0], Bd[0])), constant=keep)
        if keep:
            self._discretized = values, system
        return system

    def _placed(self) -> System:
        """The constant matrices on the device that the layer's parameters have now."""
        device = self._like().device
        system = self._systems.get(device)
        if system is None:
            dtype = power_dtype(device)
            Ad, Bd = (t.to(device, dtype) for t in self._matrices().values())
            system = System(Ad, Bd, constant=True)
            if not torch.compiler.is_compiling() and is_plain(Ad, Bd):
                self._systems = self._systems | {device: system}  # at once, for other threads
        return system

    def _remember_theta(self, *marks: Any) -> None:
        _built.setdefault(self._kind(), set()).add((self._theta, self.discretizer, *marks))

    def _kind(self) -> tuple[Any, ...]:
        """What the members of an ensemble have in common."""
        return type(self), *((name, p.shape) for name, p in self.named_parameters())

    def _warn_of_thetas(self) -> None:
        """Say so if the members of an ensemble may have been built with different thetas."""
        if not is_plain(*self._matrices().values()):
            return  # stacked with the parameters, one for each member
        if len(_built.get(self._kind(), ())) > 1:
            warnings.warn(
                f"all members of this ensemble compute with theta={self._name_theta()} of the "
                "module that is called, but layers of its kind were built with others, which "
                "torch.func.stack_module_state does not collect. If they are the members, stack "
                "'Ad' and 'Bd' of each into the buffers too, or build them with learn_theta=True",
                stacklevel=2,
            )

    @explained(m=tensor(floating=True))
    def decode(self, m: Tensor, delays: Tensor | Sequence[float] | None = None) -> Tensor:
        r"""Read the window out of a memory state: what went into the memory, so many steps ago.

        .. math:: u_{t-k} \approx \sum_i P_i(2r - 1)\, m_i(t), \qquad r\theta = k + 1/2

        The half step is the hold's: an input is held for a step. The window is low-pass filtered by
        the order of the memory; near its ends the error is largest.

        Args:
            m: Memory states (..., memory_channels * memory_size).
            delays: Steps ago (points,), within -1/2 and theta - 1/2 and not only whole ones; 0 is
                the newest input. Or (..., points), with delays for each row of ``m``. All whole
                ones of the shortest window if None.

        Returns:
            The encoded inputs u (..., points, memory_channels).

        Raises:
            TypeError: ``m`` is not floating.
            ValueError: The last axis is not the memory's, or a delay leaves a window.

        Source: Voelker et al., NeurIPS 2019, equation 3.
        """
        return read_window(m, delays, self.theta, self.memory_channels, self.memory_size)

    def reset_parameters(self) -> None:
        """Draw all parameters anew; learned dynamics go back to the Legendre system."""
        self._reset_dynamics()

    def _reset_dynamics(self) -> None:
        with torch.no_grad():
            for name, learned in (("Ad", self.learn_a), ("Bd", self.learn_b)):
                if learned:
                    getattr(self, name).copy_(self._matrices()[name])
            if self.learn_theta:
                theta = torch.tensor(self._theta, dtype=torch.float64)
                self.log_theta.copy_((theta - self._least_theta).log())
        self._place()

    def _like(self) -> Tensor:
        """A tensor whose device and dtype are the layer's."""
        raise NotImplementedError

    def _place(self) -> None:
        """Have the constant matrices ready, as a compiler had better find them."""
        self._forget()
        if not self.learn_theta:
            self._placed()
            self._remember_theta()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_systems": {}, "_discretized": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "_exact" not in state:
            raise TypeError(
                f"this pickle holds a {type(self).__name__} of another package, whose modules have "
                "the names of ours: load it there, save its state_dict(), and give that to "
                "load_state_dict() of a layer built here"
            )
        super().__setstate__(state)
        self._place()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LegendreModule":
        wide = self.log_theta.detach() if self.learn_theta else None
        super()._apply(fn, recurse)
        if wide is not None:
            self._keep_wide(wide)
        self._drop_anchor(fn(self._anchor))
        self._place()
        return self

    def _keep_wide(self, before: Tensor) -> None:
        """Undo that ``log_theta`` was narrowed: eight bits would round theta by a hundredth."""
        now = self.log_theta
        if now.dtype.itemsize >= 4 or not now.is_floating_point():
            return
        before = now.detach() if before.device != now.device and before.is_meta else before
        with torch.no_grad():
            now.data = before.to(now.device, compute_dtype(now.dtype))
            if now.grad is not None:
                now.grad.data = now.grad.to(now.dtype)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # Not as an entry, which others would take for a tensor of the model's.
        metadata = getattr(destination, "_metadata", {}).get(prefix[:-1])
        if metadata is not None:
            metadata["dynamics"] = self._dynamics()

    def _dynamics(self) -> dict[str, Any]:
        """What a checkpoint does not hold, but its weights were trained for."""
        learned = self.learn_theta or (self.learn_a and self.learn_b)
        theta = list(self._theta) if isinstance(self._theta, tuple) else self._theta
        own = {"theta": None if learned else theta, "discretizer": self.discretizer}
        return own | {"replaced": self._replaced}

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        version = args[0].get("version") if args[0] else self._version
        if self.discretizer == "euler" and self.learn_theta and version != self._version:
            args[-1].append(
                f"{prefix}log_theta is log(theta - b) with the least theta b that Euler's method "
                "allowed when it was saved, which is another now: set it to "
                f"log(theta - {self._least_theta:g})"
            )
        layer = prefix[:-1] or type(self).__name__
        compare_dynamics(self._dynamics(), (args[0] or {}).get("dynamics"), layer, args[-1])
        name = f"theta={self._name_theta()} and discretizer={self.discretizer!r}"
        translate(state_dict, prefix, self._matrices(), self._parameters, args[-1], name)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if self.learn_theta:
            self._keep_wide(self.log_theta.detach())  # with assign=True it is the state_dict's

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
