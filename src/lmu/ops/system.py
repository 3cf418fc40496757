"""The discrete system of a memory, and its derived tensors, kept while it is constant."""

import threading
import weakref
from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from lmu._arguments import dtype as dtype_rule
from lmu._arguments import explained, flag, optional, tensor, whole
from lmu.ops._modes import is_exporting, is_plain, not_recorded, widen
from lmu.ops.lmu.block_matrices import BlockDynamics, block_dynamics
from lmu.theory import impulse_response
from lmu.theory.rounding import narrow

T = TypeVar("T")
# Aliases: torch.compile cannot trace a function with these written out in its signature.
Joined = tuple[Tensor, Tensor]
Squares = list[Tensor]

LARGEST_KEPT = 1 << 24  # numbers: a longer impulse response is computed where it is needed


def channels(
    number: int, Ad: Tensor, Bd: Tensor, H: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Iterate over ``Ad``, ``Bd`` and ``H`` of each channel, shared or its own."""
    for c in range(number):
        if Ad.ndim == 2:
            yield Ad, Bd, H
        else:
            yield Ad[c], Bd[c], None if H is None else H[c]


@explained(E=tensor(floating=True), Bd=tensor(floating=True), channels=whole(1))
def join_channels(E: Tensor, Bd: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Join several memories into one system with blocks on its diagonal.

    Shapes: ``E`` (order, order) and ``Bd`` (order,), or with a first axis for the channels; returns
    (channels * order, channels * order) and (channels * order, channels).
    """
    if channels == 1:
        return E.reshape(E.shape[-2:]), Bd.reshape(-1, 1)
    d = E.shape[-1]
    eye = torch.eye(channels, dtype=E.dtype, device=E.device)
    Es, Bs = E.expand(channels, d, d), Bd.expand(channels, d)
    joined = (eye[:, None, :, None] * Es[:, :, None, :]).reshape(channels * d, channels * d)
    return joined, (Bs[:, :, None] * eye[:, None, :]).reshape(channels * d, channels)


class System:
    """``m_t = Ad m_{t-1} + Bd u_t``, and the values that algorithms derive from it.

    Derived values of a constant system are kept, for the version of ``Ad`` and ``Bd`` that they
    were made from. Those of a learned one are made at each call, differentiably.

    Args:
        Ad: (order, order), or (channels, order, order) with dynamics for each channel.
        Bd: (order,) or (channels, order).
        constant: Whether neither is learned.
    """

    @explained(Ad=tensor(floating=True), Bd=tensor(floating=True), constant=flag)
    def __init__(self, Ad: Tensor, Bd: Tensor, *, constant: bool) -> None:
        self.Ad, self.Bd, self.constant = Ad, Bd, constant
        traced = torch.compiler.is_compiling()
        self.keeps = constant and not traced and is_plain(Ad, Bd)
        self._kept: dict[Hashable, tuple[tuple[int, int], Any]] = {}
        self.plans: dict[Hashable, Any] = {}  # of the compiled core, by sizes and versions
        if self.keeps:
            with _lock:
                _systems[Ad] = weakref.ref(self)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is derived: plans hold addresses, which a copy must not."""
        return self.__dict__ | {"_kept": {}, "plans": {}}

    def increment(self, dtype: torch.dtype | None = None) -> Tensor:
        """``Ad - I``, by which a recurrence advances the memory; in float64 if ``dtype`` is None.

        For a long window ``Ad`` is close to the identity, and rounding it loses digits that
        rounding the increment keeps.
        """

        def make() -> Tensor:
            Ad = widen(self.Ad)
            E = Ad - torch.eye(Ad.shape[-1], device=Ad.device, dtype=Ad.dtype)
            return E if dtype is None else narrow(E, dtype)

        return self._keep(("increment", dtype), make)

    def joined(self, channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """``Ad - I`` (order, order) and ``Bd`` (order, channels) of all channels as one system."""

        def make() -> Joined:
            E, Bd = join_channels(self.increment(dtype), narrow(self.Bd, dtype), channels)
            # A view of Bd that is kept would keep Bd.
            return (E.clone(), Bd.clone()) if self.constant else (E, Bd)

        return self._keep(("joined", channels, dtype), make)

    def stepping(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """``Ad - I`` and ``Bd``, shared or with a first axis for the channels."""

        def make() -> Joined:
            E, Bd = self.increment(dtype), narrow(self.Bd, dtype)
            return (E, Bd.clone()) if self.constant else (E, Bd)

        return self._keep(("stepping", dtype), make)

    @explained(length=whole(1), dtype=dtype_rule, likely=optional(whole(1)))
    def response(self, length: int, dtype: torch.dtype, likely: int | None = None) -> Tensor | None:
        """The impulse response, of ``length`` steps or more; None where it cannot be kept.

        It is kept for the next power of two, so that growing lengths rarely recompute it, unless
        the length is the ``likely`` one.
        """
        return self.kept_response(length, dtype, likely)

    def kept_response(
        self, length: int, dtype: torch.dtype, likely: int | None = None
    ) -> Tensor | None:
        """:meth:`response` of arguments that have been checked."""
        traced = torch.compiler.is_compiling()
        if not self.constant or traced or self.Bd.numel() * length > LARGEST_KEPT:
            return None
        kept = self._look_up(("response", dtype))
        if kept is not None and kept.shape[-1] >= length:
            return kept
        longest = 1 << (length - 1).bit_length()
        if length == likely or self.Bd.numel() * longest > LARGEST_KEPT:
            longest = length
        return self._make(
            ("response", dtype), lambda: narrow(impulse_response(self.Ad, self.Bd, longest), dtype)
        )

    @explained(channels=whole(1), steps=whole(1), dtype=dtype_rule)
    def block_dynamics(self, channels: int, steps: int, dtype: torch.dtype) -> BlockDynamics:
        """Dynamics of a block of ``steps`` steps, with all channels as one system."""

        def make() -> BlockDynamics:
            E, Bd = join_channels(self.increment(), widen(self.Bd), channels)
            return BlockDynamics(*(narrow(t, dtype) for t in block_dynamics(E, Bd, steps)))

        if self.constant and torch.compiler.is_compiling() and not is_exporting():
            like = torch.empty(0, dtype=dtype, device=self.Ad.device)
            return BlockDynamics(*_kept_dynamics(self.Ad, self.Bd, channels, steps, like))
        return self._keep(("block_dynamics", channels, steps, dtype), make)

    def squares(self, bits: int) -> list[Tensor]:
        """``Ad^(2^i)`` for i below ``bits``, at least."""
        kept = self._look_up("squares") if self.constant else None
        if kept is not None and len(kept) >= bits:
            return kept

        def make() -> Squares:
            squares = [self.Ad.clone()] if kept is None else list(kept)
            while len(squares) < bits:
                squares.append(squares[-1] @ squares[-1])
            return squares

        return self._make("squares", make) if self.constant else make()

    @explained(m=tensor("batch", "channels", "order", floating=True), steps=whole(0))
    def advance(self, m: Tensor, steps: int, *, adjoint: bool = False) -> Tensor:
        """Advance ``steps`` steps without input, ``Ad^steps m``; ``adjoint``: ``(Ad^T)^steps m``.

        Computed in the dtype of ``Ad``. Differentiable in both.

        Shapes: ``m`` (batch, channels, order).

        Cost: 2 b c d^2 log2(steps) FLOPs, and 2 d^3 log2(steps) for powers; those of a constant
        system are kept, and take d^2 log2(steps) numbers.
        """
        rows = m.transpose(0, 1).to(self.Ad.dtype)
        for bit, square in enumerate(self.squares(steps.bit_length())):
            if steps >> bit & 1:
                rows = rows @ (square if adjoint else square.mT)
        return rows.transpose(0, 1).to(m.dtype).contiguous()

    def derived(self, name: Hashable, make: Callable[[], T]) -> T:
        """A value derived from the system, kept by its name while the system is constant."""
        return self._keep(name, make)

    def _keep(self, name: Hashable, make: Callable[[], T]) -> T:
        kept = self._look_up(name)
        if kept is not None:
            return kept
        return self._make(name, make) if self.constant else make()

    def _look_up(self, name: Hashable) -> Any:
        if not self.keeps or torch.compiler.is_compiling():
            return None
        version, value = self._kept.get(name, (None, None))
        return value if version == (self.Ad._version, self.Bd._version) else None

    def _make(self, name: Hashable, make: Callable[[], T]) -> T:
        """Make a value that training can use too, even under inference mode, and keep it.

        Values of a transform, a tracer or a fake mode are not kept.
        """
        if torch.compiler.is_compiling():
            return make()
        version = (self.Ad._version, self.Bd._version) if self.keeps else None
        with torch.inference_mode(False), torch.no_grad(), not_recorded():
            value = make()
        parts: Any = value if isinstance(value, (tuple, list)) else (value,)
        if version is not None and is_plain(*parts):
            self._kept[name] = version, value
        return value


# Systems by their Ad, held weakly, because custom operators take only tensors.
_systems = WeakTensorKeyDictionary()
_lock = threading.Lock()


def system_of(Ad: Tensor, Bd: Tensor | None = None) -> System:
    """Return the system of these matrices: a layer's, with its kept values, or a new one.

    Without ``Bd`` only powers of ``Ad`` may be taken from it.
    """
    if Bd is None:
        Bd, same = Ad[..., 0], True
    else:
        same = False
    if torch.compiler.is_compiling() or Ad.requires_grad or Bd.requires_grad:
        return System(Ad, Bd, constant=False)
    with _lock:
        known = _systems.get(Ad)
    system = None if known is None else known()
    if system is not None and (same or system.Bd is Bd):
        return system
    return System(Ad, Bd, constant=True)


@torch.library.custom_op("lmu::block_dynamics", mutates_args=())
def _kept_dynamics(
    Ad: Tensor, Bd: Tensor, channels: int, steps: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Return copies: the results of a custom operator must not alias kept tensors."""
    increments, H = system_of(Ad, Bd).block_dynamics(channels, steps, like.dtype)
    return increments.clone(), H.clone()


@_kept_dynamics.register_fake
def _(Ad: Tensor, Bd: Tensor, channels: int, steps: int, like: Tensor) -> tuple[Tensor, Tensor]:
    order = channels * Bd.shape[-1]
    return like.new_empty(steps + 1, order, order), like.new_empty(steps * channels, order)
