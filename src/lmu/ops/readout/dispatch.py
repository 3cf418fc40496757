"""Public entry to read-outs of a linear memory: the table of methods, the choice, the call."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from lmu._arguments import explained, optional, word
from lmu._arguments import tensor as tensor_rule
from lmu.ops._activations import FUSED, Function, apply_rows, check_activation
from lmu.ops._checks import check_memory, check_readout
from lmu.ops._modes import compute_dtype, convert, is_transformed, no_autocast
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
from lmu.ops.readout.chunked import chunks_readout, chunks_readout_cost, chunks_readout_terms
from lmu.ops.readout.fft import fft_readout, fft_readout_cost, fft_readout_terms
from lmu.ops.readout.native import native_readout, native_readout_cost, native_readout_terms
from lmu.ops.readout.native_fft import native_fft_cost, native_fft_readout, native_fft_terms
from lmu.ops.readout.states import states_readout, states_readout_cost, states_readout_terms
from lmu.ops.readout.triton import kernels_readout, kernels_readout_cost

# (u, x, Ad, Bd, W_m, W_x, bias, m_0, H, activation) -> hidden units of all steps and the last
# memory state.
Run = Callable[..., tuple[Tensor, Tensor]]


class ReadoutMethod(NamedTuple):
    """An algorithm, its cost, and the activations that it applies."""

    run: Run
    cost: CostFunction
    terms: Terms | None = None  # of those that are compared by time
    activations: tuple[str, ...] = FUSED  # those that it applies itself
    needs: str = ""  # "core" or "triton"
    starts: bool = False  # compared also where the memory starts from a state


READOUT_METHODS: dict[str, ReadoutMethod] = {
    "states": ReadoutMethod(states_readout, states_readout_cost, states_readout_terms),
    "fft": ReadoutMethod(fft_readout, fft_readout_cost, fft_readout_terms),
    "chunked": ReadoutMethod(
        chunks_readout, chunks_readout_cost, chunks_readout_terms, starts=True
    ),
    "native": ReadoutMethod(
        native_readout, native_readout_cost, native_readout_terms, needs="core", starts=True
    ),
    "native_fft": ReadoutMethod(
        native_fft_readout,
        native_fft_cost,
        native_fft_terms,
        activations=(*FUSED, "gelu"),
        needs="core",
    ),
    # By name only, as yet.
    "triton": ReadoutMethod(
        kernels_readout, kernels_readout_cost, activations=("relu", "identity"), needs="triton"
    ),
}


def choose_readout(
    problem: Problem, *, initial_state: bool = False, transformed: bool = False
) -> str:
    """Choose the method of a read-out; a cached pure function of the sizes and the machine.

    Args:
        problem: Its sizes.
        initial_state: Whether the memory starts from a state.
        transformed: True under a compiler or a transform of ``torch.func``.
    """
    try:
        return _decide(problem, initial_state, transformed, present_machine())[0]
    except TypeError:  # an argument is not hashable
        check_choice(problem, initial_state=initial_state, transformed=transformed)
        raise


def explain_readout(
    problem: Problem, *, initial_state: bool = False, transformed: bool = False
) -> MethodChoice:
    """Explain the choice of :func:`choose_readout`: its reason and cost."""
    method = choose_readout(problem, initial_state=initial_state, transformed=transformed)
    machine, where = present_machine(), ""
    reason = _decide(problem, initial_state, transformed, machine)[1]
    if not reason:
        compared = explain_comparison(_seconds(problem, initial_state, machine))
        reason = f"all outputs: {compared}"
        where = explain_machine(machine, problem.device)
    return MethodChoice(method, reason, READOUT_METHODS[method].cost(problem), where)


@lru_cache(maxsize=4096, typed=True)
def _decide(
    problem: Problem, initial_state: bool, transformed: bool, machine: Machine
) -> tuple[str, str]:
    """The method and the reason, which is empty where times decide."""
    check_choice(problem, initial_state=initial_state, transformed=transformed)
    if problem.length == 1:
        return "states", "a single step has no time to share"
    if transformed:
        return "chunked", "compilers and torch.func see plain products in it"
    return next(iter(_seconds(problem, initial_state, machine))), ""


def _seconds(problem: Problem, initial_state: bool, machine: Machine) -> dict[str, float]:
    """Estimated seconds of the methods that can run, the fastest first."""
    methods = {name: m for name, m in READOUT_METHODS.items() if m.starts or not initial_state}
    return compare("readout", methods, problem, machine)


_tensor = tensor_rule(floating=True)


@explained(
    u=_tensor,
    x=_tensor,
    Ad=_tensor,
    Bd=_tensor,
    W_m=_tensor,
    W_x=_tensor,
    bias=_tensor,
    m_0=optional(_tensor),
    method=word,
    H=optional(_tensor),
)
def readout(
    u: Tensor,
    x: Tensor,
    Ad: Tensor,
    Bd: Tensor,
    W_m: Tensor,
    W_x: Tensor,
    bias: Tensor,
    m_0: Tensor | None = None,
    *,
    method: str = "auto",
    H: Tensor | None = None,
    activation: str | Function = "relu",
) -> tuple[Tensor, Tensor]:
    """Hidden units ``f(W_m m_t + W_x x_t + b)`` of the memory ``m_t = Ad m_{t-1} + Bd u_t``.

    The read-out is linear before the activation f, so that the memory's states need not be formed.
    All in the dtype of ``u`` but at least float32, also under autocast. Differentiable in every
    argument.

    Args:
        u: Encoded input (batch, time, channels).
        x: Input (batch, time, input).
        Ad: (order, order), of the precision of ``u`` or better.
        Bd: (order,), of the dtype of ``Ad``.
        W_m: (hidden, channels * order), channel after channel.
        W_x: (hidden, input).
        bias: (hidden,).
        m_0: Memory before the first step (batch, channels, order); zeros if None.
        method: ``"auto"``, or a key of :data:`READOUT_METHODS`.
        H: The impulse response (order, at least time), to save computing it.
        activation: f: ``"relu"``, ``"tanh"``, ``"sigmoid"`` or ``"identity"``, which are fused with
            what comes before; ``"gelu"``; or a function of all units (batch, time, hidden), which
            must treat each step alike.

    Returns:
        Hidden units (batch, time, hidden) and the last memory state (batch, channels, order).

    Raises:
        TypeError: An argument is not floating, or dtypes are mixed.
        ValueError: A rank, size or device does not fit; the method is unknown.

    Source: Chilkuri & Eliasmith, ICML 2021, equations 19, 20 and 26.
    """
    check_memory(u, Ad, Bd, m_0, H)
    check_readout(u, x, Bd, W_m, W_x, bias)
    if method != "auto" and (not isinstance(method, str) or method not in READOUT_METHODS):
        raise ValueError(f"method must be 'auto' or one of {list(READOUT_METHODS)}, got {method!r}")
    check_activation(activation)
    return run_readout(u, x, Ad, Bd, W_m, W_x, bias, m_0, method=method, H=H, activation=activation)


def pick_readout(u: Tensor, Bd: Tensor, rows: int, initial_state: bool) -> str:
    """Choose the method for an input (batch, time, channels) and a number of hidden units."""
    if torch.compiler.is_compiling():
        return "chunked"  # for any length, on which a compiler must not specialize
    machine, transformed = present_machine(), is_transformed()
    return _pick(u.shape, Bd.shape[-1], rows, u.device.type, initial_state, transformed, machine)


@lru_cache(maxsize=4096)
def _pick(
    shape: tuple[int, int, int],
    order: int,
    rows: int,
    device: str,
    initial_state: bool,
    transformed: bool,
    machine: Machine,
) -> str:
    """The method, by one look-up: it is asked for at each call of a layer."""
    batch, length, channels = shape
    problem = Problem(length, order, rows, batch, channels, device)
    return _decide(problem, initial_state, transformed, machine)[0]


def pick_readout_of(sizes: tuple[int, int, int], order: int, rows: int, initial_state: bool) -> str:
    """Choose the method for batch, time and channels on the CPU, where nothing is transformed."""
    return _pick(sizes, order, rows, "cpu", initial_state, False, present_machine())


def run_readout(
    u: Tensor,
    x: Tensor,
    Ad: Tensor,
    Bd: Tensor,
    W_m: Tensor,
    W_x: Tensor,
    bias: Tensor,
    m_0: Tensor | None = None,
    *,
    method: str = "auto",
    H: Tensor | None = None,
    activation: str | Function = "relu",
) -> tuple[Tensor, Tensor]:
    """:func:`readout` of arguments that have been checked."""
    if method == "auto":
        method = pick_readout(u, Bd, W_m.shape[0], m_0 is not None)
    row = READOUT_METHODS[method]
    run, fused = row.run, row.activations
    if activation not in fused:
        z, m_n = run_readout(
            u, x, Ad, Bd, W_m, W_x, bias, m_0, method=method, H=H, activation="identity"
        )
        return apply_rows(activation, z), m_n
    dtype = compute_dtype(u.dtype)
    with no_autocast(u.device):
        u, x = convert(u, dtype), convert(x, dtype)
        W_m, W_x, bias = convert(W_m, dtype), convert(W_x, dtype), convert(bias, dtype)
        if not torch.compiler.is_compiling() and not len(u):  # transforms refuse an empty batch
            u, x = (pad(t, (0, 0, 0, 0, 0, 1)) for t in (u, x))
            y, m_n = run(u, x, Ad, Bd, W_m, W_x, bias, None, H, activation)
            return y[:0], m_n[:0]
        return run(u, x, Ad, Bd, W_m, W_x, bias, m_0, H, activation)
