"""The public entry to the linear memory: chooses an algorithm, or runs the one that is named."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from lmu._arguments import checked, explained, flag, instance, optional, whole, word
from lmu._arguments import tensor as tensor_rule
from lmu.ops._autograd import is_differentiated, is_exporting, is_transformed
from lmu.ops._channels import channels
from lmu.ops._precision import compute_dtype, no_autocast, widen
from lmu.ops.choice import Choice, Work, compare
from lmu.ops.chunked import chunked, chunked_final
from lmu.ops.fft import fft
from lmu.ops.final import compiled_final, final
from lmu.ops.recurrent import recurrent
from lmu.ops.reference import reference
from lmu.ops.system import System

# (u, Ad, Bd, m_0, H) -> all states (batch, time, channels, order) or the last (batch, channels,
# order), where all arguments but Ad and Bd have the dtype of u, and those have it or a better one.
Run = Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor | None], Tensor]


@dataclass(frozen=True)
class Method:
    """One algorithm: what it runs, and whether it gives all states or only the last."""

    run: Run
    all_states: bool


METHODS: dict[str, Method] = {
    "reference": Method(reference, all_states=True),
    "final": Method(final, all_states=False),
    "fft": Method(fft, all_states=True),
    "chunked": Method(chunked, all_states=True),
    "chunked_final": Method(chunked_final, all_states=False),
    "recurrent": Method(recurrent, all_states=True),
}


@checked(work=instance(Work), all_states=flag, initial_state=flag, transformed=flag)
def choose(
    work: Work, *, all_states: bool, initial_state: bool = False, transformed: bool = False
) -> Choice:
    """Pick the method of a memory: a pure function, the same everywhere."""
    if not all_states:
        return work.choice("final", "only the last state is wanted: one matrix product gives it")
    if work.length == 1:
        return work.choice("recurrent", "a single step needs no transform")
    if initial_state:
        return work.choice("chunked", "an initial state is one more row of a chunk's product")
    if transformed:
        return work.choice("chunked", "compilers and torch.func see plain products in it")
    fft, chunked = work.states_seconds("fft"), work.states_seconds("chunked")
    if fft <= chunked:
        return work.choice("fft", f"all states: {compare(fft, chunked)} in chunks")
    return work.choice("chunked", f"all states: {compare(chunked, fft)} by FFT")


_tensor = tensor_rule(floating=True)
_rules = {"u": _tensor, "Ad": _tensor, "Bd": _tensor, "m_0": optional(_tensor)}


@explained(**_rules, method=word, H=optional(_tensor))
def memory(
    u: Tensor,
    Ad: Tensor,
    Bd: Tensor,
    m_0: Tensor | None = None,
    *,
    method: str = "auto",
    H: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """All states of the memory ``m_t = Ad m_{t-1} + Bd u_t``, differentiable in every argument.

    Computed in the dtype of ``u`` but at least in float32, also under autocast; powers of ``Ad``
    are formed in float64.

    Args:
        u: Encoded input (batch, time, channels); one memory per channel.
        Ad: (order, order), of the precision of ``u`` or better; or (channels, order, order), with
            dynamics for each channel.
        Bd: (order,), of the dtype of ``Ad``; or (channels, order).
        m_0: State before the first step (batch, channels, order); zeros if None. It may be wider
            than ``u``, float64, and the last state then is too.
        method: ``"auto"``, or a key of :data:`METHODS`.
        H: The impulse response (order, at least time) or (channels, order, at least time), to save
            computing it from constant ``Ad`` and ``Bd``.

    Returns:
        States (batch, time, channels, order) and the last one (batch, channels, order).

    Raises:
        TypeError: An argument is not floating, or dtypes are mixed.
        ValueError: A rank, size or device does not fit; the method is unknown or does not give all
            states; ``H`` comes with an ``Ad`` or ``Bd`` that is being trained.
    """
    check_memory(u, Ad, Bd, m_0, H)
    if method == "auto" and torch.compiler.is_compiling():
        method = "chunked"  # whatever the length, which the compiler should not look at
    elif method == "auto":
        method = choose(
            work_of(u, Bd),
            all_states=True,
            initial_state=m_0 is not None,
            transformed=is_transformed(),
        ).method
    name = method
    if not _lookup(name).all_states:
        raise ValueError(
            f"method {name!r} gives the last state only; call final_memory, or choose one of "
            f"{[key for key, m in METHODS.items() if m.all_states]}"
        )
    m = run_method(name, u, Ad, Bd, m_0, H)
    if m_0 is not None and m_0.dtype != m.dtype:
        return m, final_memory(u, Ad, Bd, m_0, H=H)
    return m, m[:, -1].clone()  # a copy, so that a kept state does not keep the whole sequence


@explained(**_rules, method=word, H=optional(_tensor))
def final_memory(
    u: Tensor,
    Ad: Tensor,
    Bd: Tensor,
    m_0: Tensor | None = None,
    *,
    method: str = "auto",
    H: Tensor | None = None,
) -> Tensor:
    """The last state (batch, channels, order) alone; arguments and errors as :func:`memory`."""
    check_memory(u, Ad, Bd, m_0, H)
    if method == "auto" and torch.compiler.is_compiling():
        if not (Ad.requires_grad or Bd.requires_grad or is_differentiated() or is_exporting()):
            with no_autocast(u.device):
                return compiled_final(u.to(compute_dtype(u.dtype)), Ad, Bd, m_0)
        method = "chunked_final"
    name = choose(work_of(u, Bd), all_states=False).method if method == "auto" else method
    m = run_method(name, u, Ad, Bd, m_0, H)
    m = m[:, -1].clone() if METHODS[name].all_states else m
    return m if m_0 is None else m.to(m_0.dtype)


@explained(u=_tensor, system=instance(System), m_0=optional(_tensor), likely=optional(whole(1)))
def final_state(u: Tensor, system: System, m_0: Tensor | None, likely: int | None = None) -> Tensor:
    """The last state (batch, channels, order) of a system, whose impulse response is kept.

    Args:
        u: Encoded input (batch, time, channels).
        system: The memory's.
        m_0: State before the first step (batch, channels, order); zeros if None.
        likely: A length that is likely to come again.
    """
    H = system.response(u.shape[1], compute_dtype(u.dtype), likely)
    return final_memory(u, widen(system.Ad), widen(system.Bd), m_0, H=H)


def work_of(u: Tensor, Bd: Tensor, rows: int = 0) -> Work:
    """What :func:`choose` wants to know of the input (batch, time, channels)."""
    batch, length, number = u.shape
    return Work(length, Bd.shape[-1], batch=batch, channels=number, rows=rows, device=u.device.type)


def _lookup(name: str) -> Method:
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(f"method must be 'auto' or one of {list(METHODS)}, got {name!r}")
    return METHODS[name]


def run_method(
    name: str, u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None, H: Tensor | None
) -> Tensor:
    """Run a method on checked arguments, channel by channel where these have their own dynamics."""
    run = _lookup(name).run
    with no_autocast(u.device):
        u = u.to(compute_dtype(u.dtype))
        if not torch.compiler.is_compiling() and not len(u):  # transforms refuse an empty batch
            return run_method(name, pad(u, (0, 0, 0, 0, 0, 1)), Ad, Bd, None, H)[:0]
        if Ad.ndim == 2:
            return run(u, Ad, Bd, m_0, H)
        parts = []
        for c, (A, B, K) in enumerate(channels(u.shape[2], Ad, Bd, H)):
            one = slice(c, c + 1)
            parts.append(run(u[..., one], A, B, None if m_0 is None else m_0[:, one], K))
        return torch.cat(parts, dim=-2)


def check_memory(u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None, H: Tensor | None) -> None:
    """Say what is wrong with the arguments of a memory; see :func:`memory`."""
    if not isinstance(u, Tensor):
        raise TypeError(f"u must be a torch.Tensor, got {type(u).__name__}")
    if u.ndim != 3 or u.shape[1] == 0 or u.shape[2] == 0:
        raise ValueError(
            f"u must have the shape (batch, time >= 1, channels), got {tuple(u.shape)}"
        )
    batch, length, number = u.shape
    order = Bd.shape[-1] if Bd.ndim else 0
    if order < 1 or Ad.shape != (*Bd.shape, order) or Bd.shape[:-1] not in {(), (number,)}:
        raise ValueError(
            "Ad must have the shape (order, order) and Bd (order,), or with dynamics for each of "
            f"the {number} channels a first axis more, got {tuple(Ad.shape)} and {tuple(Bd.shape)}"
        )
    if m_0 is not None and m_0.shape != (batch, number, order):
        raise ValueError(
            f"m_0 must have the shape (batch, channels, order) = {(batch, number, order)}, "
            f"got {tuple(m_0.shape)}"
        )
    if H is not None and (H.shape[:-1] != Bd.shape or H.shape[-1] < length):
        raise ValueError(
            f"H must have the shape ({', '.join(map(str, Bd.shape))}, at least {length}), "
            f"got {tuple(H.shape)}"
        )
    if H is not None and (Ad.requires_grad or Bd.requires_grad):
        raise ValueError("H is a constant: leave it out where Ad or Bd needs a gradient")
    _check_types(u, Ad, Bd, m_0, H)


def _check_types(u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None, H: Tensor | None) -> None:
    wanted = compute_dtype(u.dtype)
    if not u.is_floating_point() or Ad.dtype != Bd.dtype:
        raise TypeError(
            "u must be floating and Ad and Bd of one dtype, "
            f"got u {u.dtype}, Ad {Ad.dtype}, Bd {Bd.dtype}"
        )
    if torch.promote_types(Ad.dtype, wanted) != Ad.dtype:
        raise TypeError(f"Ad and Bd must be at least {wanted} for u of {u.dtype}, got {Ad.dtype}")
    if H is not None and H.dtype != wanted:
        raise TypeError(f"H must be {wanted} for u of {u.dtype}, got {H.dtype}")
    if m_0 is not None and m_0.dtype not in {wanted, widen(m_0[:0]).dtype}:
        raise TypeError(f"m_0 must be {wanted} or float64 for u of {u.dtype}, got {m_0.dtype}")
    for name, tensor in (("Ad", Ad), ("Bd", Bd), ("m_0", m_0), ("H", H)):
        if tensor is not None and tensor.device != u.device:
            raise ValueError(f"u is on {u.device} but {name} on {tensor.device}: move one of them")
