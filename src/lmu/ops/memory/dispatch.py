"""Public entry to the linear memory: the table of methods, the choice of one, and its call."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from lmu._arguments import explained, instance, optional, whole, word
from lmu._arguments import tensor as tensor_rule
from lmu.ops._checks import check_memory
from lmu.ops._modes import (
    compute_dtype,
    convert,
    is_differentiated,
    is_exporting,
    is_transformed,
    no_autocast,
    widen,
)
from lmu.ops.cost import (
    CostFunction,
    Machine,
    MethodChoice,
    Problem,
    Terms,
    check_choice,
    compare,
    explain_comparison,
    explain_machine,
    present_machine,
)
from lmu.ops.memory.chunked import chunked, chunked_cost, chunked_final, chunked_terms
from lmu.ops.memory.fft import fft, fft_cost, fft_terms
from lmu.ops.memory.final import compiled_final, final, final_cost
from lmu.ops.memory.naive import naive
from lmu.ops.memory.native import native_cost, native_states, native_terms
from lmu.ops.memory.native_fft import native_fft, native_fft_cost, native_fft_terms
from lmu.ops.memory.recurrent import recurrent, recurrent_cost
from lmu.ops.system import System, channels

# (u, Ad, Bd, m_0, H) -> all states (batch, time, channels, order) or the last (batch, channels,
# order), where all arguments but Ad and Bd have the dtype of u, and those have it or a better one.
Run = Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor | None], Tensor]


class MemoryMethod(NamedTuple):
    """An algorithm, its cost, and the states that it gives."""

    run: Run
    cost: CostFunction
    all_states: bool = True  # or only the last
    terms: Terms | None = None  # of those that are compared by time where all states are needed
    needs: str = ""  # "core" or "triton"
    starts: bool = False  # compared also where the memory starts from a state
    own_dynamics: bool = False  # whether it takes Ad and Bd of each channel; else one by one


MEMORY_METHODS: dict[str, MemoryMethod] = {
    "naive": MemoryMethod(naive, recurrent_cost),
    "final": MemoryMethod(final, final_cost, all_states=False),
    "fft": MemoryMethod(fft, fft_cost, terms=fft_terms),
    "native_fft": MemoryMethod(native_fft, native_fft_cost, terms=native_fft_terms, needs="core"),
    "chunked": MemoryMethod(chunked, chunked_cost, terms=chunked_terms, starts=True),
    "chunked_final": MemoryMethod(chunked_final, final_cost, all_states=False),
    "recurrent": MemoryMethod(recurrent, recurrent_cost),
    "native": MemoryMethod(
        native_states,
        native_cost,
        terms=native_terms,
        needs="core",
        starts=True,
        own_dynamics=True,
    ),
}


def choose_memory(
    problem: Problem, *, all_states: bool, initial_state: bool = False, transformed: bool = False
) -> str:
    """Choose the method of a memory; a cached pure function of the sizes and the machine.

    Args:
        problem: Its sizes.
        all_states: Whether all states are needed, and not only the last.
        initial_state: Whether the memory starts from a state.
        transformed: True under a compiler or a transform of ``torch.func``.
    """
    try:
        return _decide(problem, all_states, initial_state, transformed, present_machine())[0]
    except TypeError:  # an argument is not hashable
        _check(problem, all_states, initial_state, transformed)
        raise


def explain_memory(
    problem: Problem, *, all_states: bool, initial_state: bool = False, transformed: bool = False
) -> MethodChoice:
    """Explain the choice of :func:`choose_memory`: its reason and cost."""
    method = choose_memory(
        problem, all_states=all_states, initial_state=initial_state, transformed=transformed
    )
    machine, where = present_machine(), ""
    reason = _decide(problem, all_states, initial_state, transformed, machine)[1]
    if not reason:
        compared = explain_comparison(_seconds(problem, initial_state, machine))
        reason = f"all states: {compared}"
        where = explain_machine(machine, problem.device)
    return MethodChoice(method, reason, MEMORY_METHODS[method].cost(problem), where)


def _check(problem: Problem, all_states: bool, initial_state: bool, transformed: bool) -> None:
    check_choice(
        problem, all_states=all_states, initial_state=initial_state, transformed=transformed
    )


@lru_cache(maxsize=4096, typed=True)
def _decide(
    problem: Problem, all_states: bool, initial_state: bool, transformed: bool, machine: Machine
) -> tuple[str, str]:
    """The method and the reason, which is empty where times decide."""
    _check(problem, all_states, initial_state, transformed)
    if not all_states:
        return "final", "only the last state is needed: one matrix product gives it"
    if problem.length == 1:
        return "recurrent", "a single step needs no transform"
    if transformed:
        return "chunked", "compilers and torch.func see plain products in it"
    return next(iter(_seconds(problem, initial_state, machine))), ""


@lru_cache(maxsize=4096)
def _pick(
    shape: tuple[int, int, int],
    order: int,
    device: str,
    initial_state: bool,
    transformed: bool,
    machine: Machine,
) -> str:
    """The method for all states, by one look-up: it is asked for at each call of a layer."""
    batch, length, channels = shape
    problem = Problem(length, order, 0, batch, channels, device)
    return _decide(problem, True, initial_state, transformed, machine)[0]


def _seconds(problem: Problem, initial_state: bool, machine: Machine) -> dict[str, float]:
    """Estimated seconds of the methods that can give all states, the fastest first."""
    methods = {name: m for name, m in MEMORY_METHODS.items() if m.starts or not initial_state}
    return compare("memory", methods, problem, machine)


def fastest_seconds(problem: Problem, machine: Machine) -> float:
    """Estimated seconds of all states by the method that is chosen for them."""
    return next(iter(_seconds(problem, False, machine).values()))


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
        method: ``"auto"``, or a key of :data:`MEMORY_METHODS`.
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
    if method != "auto" and not _lookup(method).all_states:
        raise ValueError(
            f"method {method!r} gives the last state only; call final_memory, or choose one of "
            f"{[key for key, m in MEMORY_METHODS.items() if m.all_states]}"
        )
    return run_memory(u, Ad, Bd, m_0, method=method, H=H)


def run_memory(
    u: Tensor,
    Ad: Tensor,
    Bd: Tensor,
    m_0: Tensor | None = None,
    *,
    method: str = "auto",
    H: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`memory` of arguments that have been checked."""
    if method == "auto" and torch.compiler.is_compiling():
        method = "chunked"  # for any length, on which a compiler must not specialize
    elif method == "auto":
        machine, transformed = present_machine(), is_transformed()
        order, device = Bd.shape[-1], u.device.type
        method = _pick(u.shape, order, device, m_0 is not None, transformed, machine)
    m = run_method(method, u, Ad, Bd, m_0, H)
    if m_0 is not None and m_0.dtype != m.dtype:
        return m, run_final(u, Ad, Bd, m_0, H=H)
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
    if method != "auto":
        _lookup(method)
    return run_final(u, Ad, Bd, m_0, method=method, H=H)


def run_final(
    u: Tensor,
    Ad: Tensor,
    Bd: Tensor,
    m_0: Tensor | None = None,
    *,
    method: str = "auto",
    H: Tensor | None = None,
) -> Tensor:
    """:func:`final_memory` of arguments that have been checked."""
    if method == "auto" and torch.compiler.is_compiling():
        if not (Ad.requires_grad or Bd.requires_grad or is_differentiated() or is_exporting()):
            with no_autocast(u.device):
                return compiled_final(u.to(compute_dtype(u.dtype)), Ad, Bd, m_0)
        method = "chunked_final"
    name = "final" if method == "auto" else method
    m = run_method(name, u, Ad, Bd, m_0, H)
    m = m[:, -1].clone() if MEMORY_METHODS[name].all_states else m
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
    H = system.kept_response(u.shape[1], compute_dtype(u.dtype), likely)
    return final_memory(u, widen(system.Ad), widen(system.Bd), m_0, H=H)


def run_final_state(
    u: Tensor, system: System, m_0: Tensor | None, likely: int | None = None
) -> Tensor:
    """:func:`final_state` of arguments that have been checked."""
    H = system.kept_response(u.shape[1], compute_dtype(u.dtype), likely)
    return run_final(u, widen(system.Ad), widen(system.Bd), m_0, H=H)


def _lookup(name: str) -> MemoryMethod:
    if not isinstance(name, str) or name not in MEMORY_METHODS:
        raise ValueError(f"method must be 'auto' or one of {list(MEMORY_METHODS)}, got {name!r}")
    return MEMORY_METHODS[name]


def run_method(
    name: str, u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None, H: Tensor | None
) -> Tensor:
    """Run a method on checked arguments, channel by channel where these have their own dynamics."""
    run, own = MEMORY_METHODS[name].run, MEMORY_METHODS[name].own_dynamics
    with no_autocast(u.device):
        u = convert(u, compute_dtype(u.dtype))
        if not torch.compiler.is_compiling() and not len(u):  # transforms refuse an empty batch
            return run_method(name, pad(u, (0, 0, 0, 0, 0, 1)), Ad, Bd, None, H)[:0]
        if Ad.ndim == 2 or own:
            return run(u, Ad, Bd, m_0, H)
        parts = []
        for c, (A, B, K) in enumerate(channels(u.shape[2], Ad, Bd, H)):
            one = slice(c, c + 1)
            parts.append(run(u[..., one], A, B, None if m_0 is None else m_0[:, one], K))
        return torch.cat(parts, dim=-2)
