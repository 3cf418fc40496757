"""The discrete system of a memory, as constants or as parameters."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lmu.layers._checks import check_device, check_dtype, check_flag, check_size, check_thetas
from lmu.layers._foreign import compare_dynamics, translate
from lmu.layers._systems import check_system
from lmu.ops import System
from lmu.ops._modes import compute_dtype, is_plain, is_transformed, power_dtype
from lmu.theory import discretize, discretize_theta, least_theta, legt

# Thetas that memories of a kind were built with, to tell whether an ensemble may be of several.
_built: dict[tuple[Any, ...], set[tuple[Any, ...]]] = {}


def _matrix(name: str) -> Any:
    return property(lambda self: self._read(name), lambda self, value: self._replace(name, value))


class Dynamics(nn.Module):
    """Sole owner of ``Ad``, ``Bd``, ``log_theta`` and all that follows from them.

    ``Ad`` (order, order) and ``Bd`` (order,), or with dynamics for each channel (channels, order,
    order) and (channels, order), are parameters where they are learned. Otherwise they are plain
    tensors in float64, whatever the dtype of the module: no buffers, which other code would copy,
    broadcast, average and cast. A tensor that is assigned to ``memory.Ad`` replaces the constant.
    With ``learn_theta`` there is only the parameter ``log_theta``.
    """

    _version = 3  # of the state_dict; until 2 the layer itself had these entries

    Ad = _matrix("Ad")
    Bd = _matrix("Bd")
    log_theta: Tensor

    def __init__(
        self,
        memory_size: int,
        theta: float | Sequence[float],
        channels: int,
        learn_a: bool,
        learn_b: bool,
        learn_theta: bool,
        discretizer: str | None,
        system: Any,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.memory_size = check_size("memory_size", memory_size)
        self.channels = check_size("channels", channels)
        self.learn_a = check_flag("learn_a", learn_a)
        self.learn_b = check_flag("learn_b", learn_b)
        self.learn_theta = check_flag("learn_theta", learn_theta)
        if learn_theta and (learn_a or learn_b):
            raise ValueError(
                "learn_theta trains the matrices through theta and learn_a, learn_b train them "
                "freely: choose one of the two"
            )
        self.discretizer = discretizer
        checked: Any = check_thetas(theta, channels)
        space = check_system(system, memory_size, channels, checked, learn_theta, discretizer)
        self._space = space
        self.system = system if isinstance(system, str) else space
        self._theta: float | tuple[float, ...] = checked
        exact = self._initial()  # which refuses a theta that is no positive number
        self._theta = tuple(map(float, checked)) if isinstance(checked, tuple) else float(checked)
        # None under a fake mode, whose tensors are of no use beyond it.
        self._exact = exact if is_plain(*exact.values()) else None
        self._assigned = False  # whether a matrix was
        self._least_theta = 0.0
        if self.learn_theta:
            assert discretizer is not None  # which learn_theta refuses
            self._least_theta = least_theta(memory_size, discretizer)
        self._kind: tuple[Any, ...] = (type(self), memory_size, channels)
        self._forget()
        self._add_parameters({"device": check_device(device), "dtype": check_dtype(dtype)})

    def _add_parameters(self, factory: dict[str, Any]) -> None:
        self._set_anchor(torch.empty(0, **factory))
        if self.learn_theta:
            # With an axis even where all channels share it: fully_shard takes no scalars.
            # Never narrower than float32, in which an optimizer's step would not move it.
            number = len(self._theta) if isinstance(self._theta, tuple) else 1
            empty = torch.empty(number, **factory)
            self.log_theta = nn.Parameter(empty.to(compute_dtype(empty.dtype)))
        for name, learned in (("Ad", self.learn_a), ("Bd", self.learn_b)):
            if learned:
                empty = torch.empty(self._matrices()[name].shape, **factory)
                # register_parameter refuses the name, which is that of a property.
                self._parameters[name] = nn.Parameter(empty)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set learned dynamics back to the system that the memory was built with."""
        with torch.no_grad():
            for name, learned in (("Ad", self.learn_a), ("Bd", self.learn_b)):
                if learned:
                    getattr(self, name).copy_(self._matrices()[name])
            if self.learn_theta:
                theta = torch.tensor(self._theta, dtype=torch.float64)
                self.log_theta.copy_((theta - self._least_theta).log())
        self._place()

    @property
    def theta(self) -> float | tuple[float, ...]:
        """Length of the window in time steps, or of each channel's; the present one if learned.

        If a learned one is sharded (``fully_shard``), all processes must read it together.
        """
        if not self.learn_theta or self.log_theta.is_meta:
            return self._theta
        log_theta: Any = self.log_theta.detach()
        log_theta = (log_theta.full_tensor() if self._sharded else log_theta).cpu()
        values = self._theta_of(log_theta).reshape(-1)
        shown = tuple(map(self._shortest, values.tolist(), log_theta))
        return shown if isinstance(self._theta, tuple) else shown[0]

    def _shortest(self, theta: float, log_theta: Tensor) -> float:
        """The shortest number that makes the same parameter: 10 and not 10.00000032."""
        for digits in range(1, 17):
            short = float(f"{theta:.{digits}g}")
            if short > self._least_theta and log_theta == math.log(short - self._least_theta):
                return short
        return theta

    @property
    def _own_hooks(self) -> bool:
        """True if a call of this module does more than its ``forward``."""
        return bool(self._forward_hooks or self._forward_pre_hooks or self._backward_hooks)

    def _prune(self) -> bool:
        """Make pruned matrices, as a call would; True if all hooks are those of pruning."""
        from torch.nn.utils.prune import BasePruningMethod

        hooks = list(self._forward_pre_hooks.values())
        others = self._forward_hooks or self._backward_hooks
        if others or not all(isinstance(hook, BasePruningMethod) for hook in hooks):
            return False
        for hook in hooks:
            hook(self, ())
        return True

    @property
    def _sharded(self) -> bool:
        """True if a process holds only its part of ``log_theta``."""
        return hasattr(self.log_theta, "full_tensor")

    def _theta_of(self, log_theta: Tensor) -> Tensor:
        # Above the bound by construction, so that the system stays stable whatever is learned.
        log_theta = log_theta.to(power_dtype(log_theta.device)).clamp(-50, 50)
        return self._least_theta + log_theta.exp()

    def _initial(self) -> dict[str, Tensor]:
        """``Ad`` and ``Bd`` that the memory was built with, in float64 on the CPU."""
        with torch.inference_mode(False), torch.no_grad():
            thetas = self._theta if isinstance(self._theta, tuple) else (self._theta,)
            if self._space is not None:
                for theta in thetas:
                    legt(1, theta)  # refuses what is no positive number
                return self._space.discretize(self.discretizer)
            method: Any = self.discretizer
            systems = [discretize(*legt(self.memory_size, v), method) for v in thetas]
            Ad, Bd = (torch.stack(matrices) for matrices in zip(*systems, strict=True))
        return {"Ad": Ad, "Bd": Bd} if thetas is self._theta else {"Ad": Ad[0], "Bd": Bd[0]}

    def _matrices(self) -> dict[str, Tensor]:
        return self._initial() if self._exact is None else self._exact

    def _continuous(self) -> list[tuple[Tensor, Tensor]]:
        """``A`` and ``B`` per time step of each channel; a learned window has its present length.

        Raises:
            ValueError: The matrices were assigned, or passed as discrete ones.
        """
        if self._assigned or self.discretizer is None:
            raise ValueError(
                "the discrete matrices of this memory were passed as such, and follow from no "
                "continuous system: build it with system=(A, B) and a discretizer"
            )
        if self._space is None:
            thetas = self.theta if isinstance(self.theta, tuple) else (self.theta,) * self.channels
            return [legt(self.memory_size, theta) for theta in thetas]
        A, B, _ = self._space
        return [(A, B)] * self.channels if A.ndim == 2 else list(zip(A, B, strict=True))

    def _forget(self) -> None:
        """Drop what follows from the matrices."""
        self._systems: dict[torch.device, System] = {}
        self._discretized: tuple[Any, System] | None = None

    def _is_learned(self, name: str) -> bool:
        return self.learn_a if name == "Ad" else self.learn_b

    def _read(self, name: str) -> Tensor:
        if not self._is_learned(name):
            device = self._anchor.device
            return getattr(self._system() if self.learn_theta else self._constant(device), name)
        parameter = self._parameters.get(name)
        if parameter is not None:
            return parameter
        if name not in self.__dict__:  # while a parametrization takes its place
            raise AttributeError(f"{type(self).__name__} has no {name} at present")
        return self.__dict__[name]

    def _replace(self, name: str, value: Any) -> None:
        """Compute with another constant matrix; theta then no longer tells what is remembered."""
        if self._is_learned(name):  # by what takes the parameter's place, such as pruning
            self.__dict__[name] = value
            return
        exact = self._matrices()
        shape = exact[name].shape
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.shape != shape:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name} must be a floating tensor {tuple(shape)}, got {got}")
        if self.learn_theta:
            raise ValueError(f"{name} follows from log_theta: build it without learn_theta")
        self._exact = exact | {name: value.detach()}
        if is_plain(value, exact[name]):  # not where an ensemble's is taken back
            self._remember("replaced")
            first = self._initial()
            self._assigned = any(not torch.equal(self._exact[n].cpu(), first[n]) for n in first)
        self._forget()

    def _system(self, device: torch.device | None = None) -> System:
        """The discrete system, in float64 unless it is learned, or follows from a learned theta.

        The latter is kept without gradients until theta changes: steps of a stream read it again
        and again.
        """
        device = self._anchor.device if device is None else device
        if self.learn_theta:
            return self._from_theta()
        constant = self._constant(device)
        if not (self.learn_a or self.learn_b):
            return constant
        Ad = self.Ad if self.learn_a else constant.Ad
        return System(Ad, self.Bd if self.learn_b else constant.Bd, constant=False)

    def _from_theta(self) -> System:
        theta = self._theta_of(self.log_theta)
        theta = theta if isinstance(self._theta, tuple) else theta[0]
        keep = not (torch.is_grad_enabled() or is_transformed()) and is_plain(theta)
        values = theta.tolist() if keep else None
        if keep and self._discretized is not None and self._discretized[0] == values:
            return self._discretized[1]
        method: Any = self.discretizer
        systems = [discretize_theta(self.memory_size, v, method) for v in theta.reshape(-1)]
        Ad, Bd = (torch.stack(matrices) for matrices in zip(*systems, strict=True))
        system = System(*((Ad, Bd) if theta.ndim else (Ad[0], Bd[0])), constant=keep)
        if keep:
            self._discretized = values, system
        return system

    def _constant(self, device: torch.device) -> System:
        """The constant matrices on a device."""
        system = self._systems.get(device)
        if system is None:
            dtype = power_dtype(device)
            Ad, Bd = (t.to(device, dtype) for t in self._matrices().values())
            system = System(Ad, Bd, constant=True)
            if not torch.compiler.is_compiling() and is_plain(Ad, Bd):
                self._systems = self._systems | {device: system}  # at once, for other threads
        return system

    def _place(self) -> None:
        """Make the constant matrices now, outside of any graph that a compiler traces."""
        self._forget()
        if not self.learn_theta:
            self._constant(self._anchor.device)
            self._remember()

    def _set_anchor(self, anchor: Tensor) -> None:
        """Keep a tensor with the module's device and dtype; never on meta.

        From there nothing can be moved, and no checkpoint brings it back.
        """
        device = "cpu" if anchor.is_meta else anchor.device
        self._anchor = torch.empty(0, dtype=anchor.dtype, device=device)

    def _remember(self, *marks: Any) -> None:
        _built.setdefault(self._kind, set()).add((self._theta, self.discretizer, *marks))

    def _set_kind(self, kind: tuple[Any, ...]) -> None:
        """Name what the members of an ensemble of this memory's owner have in common."""
        self._kind = kind
        self._remember()

    def _warn_of_thetas(self) -> None:
        """Warn if the members of an ensemble may have been built with different thetas."""
        if not is_plain(*self._matrices().values()):
            return  # stacked with the parameters, one for each member
        if len(_built.get(self._kind, ())) > 1:
            warnings.warn(
                f"all members of this ensemble compute with theta={self._name_theta()} of the "
                "module that is called, but layers of its kind were built with others, which "
                "torch.func.stack_module_state does not collect. If they are the members, stack "
                "'memory.Ad' and 'memory.Bd' of each into the buffers too, or build them with "
                "learn_theta=True",
                stacklevel=2,
            )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_systems": {}, "_discretized": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._place()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Dynamics":
        wide = self.log_theta.detach() if self.learn_theta else None
        super()._apply(fn, recurse)
        if wide is not None:
            self._keep_wide(wide)
        self._set_anchor(fn(self._anchor))
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
            metadata["dynamics"] = self._facts()

    def _facts(self) -> dict[str, Any]:
        """Constants that the weights were trained for, which no entry of a state_dict holds."""
        learned = self.learn_theta or (self.learn_a and self.learn_b)
        theta = list(self._theta) if isinstance(self._theta, tuple) else self._theta
        own = {"theta": None if learned else theta, "discretizer": self.discretizer}
        other = self._assigned or self._space is not None
        return own | {"replaced": self._fingerprint() if other else False}

    def _fingerprint(self) -> list[float] | None:
        """Numbers that tell systems apart, of matrices that are not learned."""
        matrices = self._matrices()
        probe = torch.linspace(0.5, 1.5, self.memory_size, dtype=torch.float64, device="cpu")
        sums = [
            float((matrices[name].to(probe) * probe).sum())
            for name, learned in (("Ad", self.learn_a), ("Bd", self.learn_b))
            if not learned and is_plain(matrices[name])
        ]
        return sums or None

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        theirs: Mapping[str, Any] = args[0] or {}
        name = prefix[:-1].removesuffix(".memory") or type(self).__name__
        compare_dynamics(self._facts(), theirs.get("dynamics"), name, args[-1])
        own = f"theta={self._name_theta()} and discretizer={self.discretizer!r}"
        translate(state_dict, prefix, self._matrices(), self._parameters, args[-1], own)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if self.learn_theta:
            self._keep_wide(self.log_theta.detach())  # with assign=True it is the state_dict's

    def _describe(self) -> str:
        """Arguments that differ from their defaults, for ``extra_repr`` of layers."""
        text = f"memory_size={self.memory_size}, theta={self._name_theta()}"
        for name in ("learn_a", "learn_b", "learn_theta"):
            text += f", {name}=True" if getattr(self, name) else ""
        if self._space is not None:
            text += (
                f", system={self.system!r}" if isinstance(self.system, str) else ", system=(...)"
            )
        return text + (f", discretizer={self.discretizer!r}" if self.discretizer != "zoh" else "")

    def _name_theta(self) -> str:
        # A name must not wait for other processes.
        theta = self._theta if self.learn_theta and self._sharded else self.theta
        if isinstance(theta, tuple):
            return f"({', '.join(f'{value:g}' for value in theta)})"
        return f"{theta:g}"
