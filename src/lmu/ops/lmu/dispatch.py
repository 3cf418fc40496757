"""Public entry to the nonlinear LMU: the table of methods, the choice of one, and its call."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from lmu._arguments import explained, flag, instance, tensor, word
from lmu.ops import native as core
from lmu.ops._activations import FUSED, Function, check_activation, is_fused
from lmu.ops._modes import is_exporting, is_transformed, no_autocast
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
from lmu.ops.lmu.block_matrices import BlockDynamics
from lmu.ops.lmu.blocks import blocks, blocks_cost, blocks_terms, native_blocks_terms
from lmu.ops.lmu.loop import loop, loop_cost, loop_terms
from lmu.ops.lmu.naive import LMUWeights
from lmu.ops.lmu.native import native, native_cost, native_terms
from lmu.ops.lmu.parallel import parallel, parallel_cost


class LMUMethod(NamedTuple):
    """An algorithm, its cost, and the activations that it runs."""

    run: Callable[..., tuple[Tensor, Tensor, Tensor]]
    cost: CostFunction
    activations: tuple[str, ...] | None = None  # those that it runs; None for all
    terms: Terms | None = None  # of those that are compared by time
    needs: str = ""  # "core" or "triton"


LMU_METHODS: dict[str, LMUMethod] = {
    "loop": LMUMethod(loop, loop_cost, terms=loop_terms),
    "blocks": LMUMethod(blocks, blocks_cost, FUSED, blocks_terms),
    "native": LMUMethod(native, native_cost, FUSED, native_terms, needs="core"),
    "native_blocks": LMUMethod(
        partial(blocks, engine="native"), blocks_cost, FUSED, native_blocks_terms, needs="core"
    ),
    "triton": LMUMethod(partial(blocks, engine="triton"), blocks_cost, ("tanh",), needs="triton"),
    "parallel": LMUMethod(parallel, parallel_cost),
}


def choose_lmu(
    problem: Problem,
    *,
    feedback: bool = True,
    transformed: bool = False,
    activation: str | Function = "tanh",
) -> str:
    """Choose the method of a nonlinear LMU; a cached pure function of the sizes and the machine.

    Args:
        problem: Its sizes; ``rows`` are the hidden units.
        feedback: Whether the hidden state is fed back into the memory, or several channels are fed
            back into each other.
        transformed: True under a transform of ``torch.func``.
        activation: Of the hidden units.
    """
    check_activation(activation)
    try:
        return _decide(problem, feedback, transformed, _name(activation), present_machine())[0]
    except TypeError:  # an argument is not hashable
        check_choice(problem, feedback=feedback, transformed=transformed)
        raise


def explain_lmu(
    problem: Problem,
    *,
    feedback: bool = True,
    transformed: bool = False,
    activation: str | Function = "tanh",
) -> MethodChoice:
    """Explain the choice of :func:`choose_lmu`: its reason and cost."""
    method = choose_lmu(problem, feedback=feedback, transformed=transformed, activation=activation)
    machine, where = present_machine(), ""
    reason = _decide(problem, feedback, transformed, _name(activation), machine)[1]
    if not reason:
        compared = explain_comparison(_seconds(problem, _name(activation), machine))
        reason = f"all steps: {compared}"
        where = explain_machine(machine, problem.device)
    return MethodChoice(method, reason, LMU_METHODS[method].cost(problem), where)


@lru_cache(maxsize=4096, typed=True)
def _decide(
    problem: Problem, feedback: bool, transformed: bool, activation: str | None, machine: Machine
) -> tuple[str, str]:
    """The method and the reason, which is empty where times decide."""
    check_choice(problem, feedback=feedback, transformed=transformed)
    if transformed:
        return "loop", "torch.func transforms need plain operations"
    if not feedback and problem.length > 1:
        return "parallel", "nothing is fed back: the memory needs no steps, only h does"
    method, *others = _seconds(problem, activation, machine)
    if not others:
        return method, f"blocks of time run the activations {', '.join(FUSED)}"
    return method, ""


@lru_cache(maxsize=4096)
def _pick(
    sizes: tuple[int, int, int, int, int],
    device: str,
    feedback: bool,
    transformed: bool,
    activation: str | None,
    machine: Machine,
) -> str:
    """The method, by one look-up: it is asked for at each call of a layer."""
    batch, length, states, hidden, channels = sizes
    problem = Problem(length, states // channels, hidden, batch, channels, device)
    return _decide(problem, feedback, transformed, activation, machine)[0]


def _seconds(problem: Problem, activation: str | None, machine: Machine) -> dict[str, float]:
    """Estimated seconds of the methods that run an activation, the fastest first."""
    methods = {
        name: m
        for name, m in LMU_METHODS.items()
        if m.activations is None or activation in m.activations
    }
    return compare("lmu", methods, problem, machine)


def _name(activation: str | Function) -> str | None:
    return activation if isinstance(activation, str) else None


def check_lmu_method(method: str, *, feedback: bool, activation: str | Function) -> None:
    """Refuse a method that is unknown, or cannot run this recurrence; ``"auto"`` always can."""
    if method == "auto":
        return
    if not isinstance(method, str) or method not in LMU_METHODS:
        raise ValueError(f"method must be 'auto' or one of {list(LMU_METHODS)}, got {method!r}")
    if method == "parallel" and feedback:
        raise ValueError(
            "method 'parallel' cannot run: e_h feeds the hidden state back into the memory; "
            "choose 'blocks', or build the layer with hidden_to_memory=False"
        )
    activations = LMU_METHODS[method].activations
    if activations is not None and activation not in activations:
        name = activation if isinstance(activation, str) else "a function"
        raise ValueError(
            f"method {method!r} runs the activations {', '.join(activations)}, got {name}: choose "
            "one of them, or method 'auto'"
        )


@explained(
    x=tensor("batch", "time", "input", floating=True),
    h=tensor("batch", "hidden", floating=True),
    m=tensor("batch", "order", floating=True),
    weights=instance(LMUWeights),
    method=word,
    feedback=flag,
)
def lmu_sequence(
    x: Tensor,
    h: Tensor,
    m: Tensor,
    weights: LMUWeights,
    *,
    method: str = "auto",
    feedback: bool = True,
    dynamics: BlockDynamics | None = None,
    activation: str | Function = "tanh",
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The hidden states of a whole sequence of the nonlinear LMU.

    ``u_t = e_x x_t + e_h h_{t-1} + e_m m_{t-1}``, ``m_t = m_{t-1} + E m_{t-1} + Bd u_t`` and
    ``h_t = f(W_x x_t + W_h h_{t-1} + W_m m_t)``. All in the dtype of ``x``, also under autocast.

    Args:
        x: Input (batch, time, input), of the dtype of all other arguments.
        h: Hidden state before the first step (batch, hidden).
        m: Memory before the first step (batch, channels * order).
        weights: The layer's weights.
        method: ``"blocks"``, with a hand-written backward pass; ``"loop"``, of plain operations; or
            ``"auto"``: see :func:`choose_lmu`; or ``"parallel"``, where nothing is fed back; or
            ``"triton"``: blocks whose steps are one kernel with tanh, on CUDA, by name only as yet.
        feedback: Whether ``e_h`` may differ from zero, or ``e_m`` with several channels.
        dynamics: Block dynamics, if they are constant: ``"blocks"`` need not compute them then.
        activation: Of the hidden units: ``"tanh"``, ``"relu"``, ``"sigmoid"`` or ``"identity"``,
            which every method but ``"triton"`` runs; ``"gelu"`` or a function, which go step by
            step by autograd.

    Returns:
        Hidden states (batch, time, hidden), and the last ``(h, m)``.

    Raises:
        ValueError: The method is unknown, ``"parallel"`` in spite of feedback, or one that
            does not run the activation.

    Source: Voelker et al., NeurIPS 2019, equations 4, 6 and 7.
    """
    check_lmu_method(method, feedback=feedback, activation=check_activation(activation))
    return run_lmu(
        x, h, m, weights,
        method=method, feedback=feedback, dynamics=dynamics, activation=activation,
    )  # fmt: skip


def run_lmu(
    x: Tensor,
    h: Tensor,
    m: Tensor,
    weights: LMUWeights,
    *,
    method: str = "auto",
    feedback: bool = True,
    dynamics: BlockDynamics | None = None,
    activation: str | Function = "tanh",
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """:func:`lmu_sequence` of arguments that have been checked."""
    if method == "auto" and torch.compiler.is_compiling():
        # For any length, on which a compiler must not specialize.
        in_blocks = is_fused(activation) and not is_exporting()
        engine = "native_blocks" if core.is_available(x) else "blocks"
        method = engine if in_blocks else "loop"
        if not feedback and not is_exporting():
            method = "parallel"
    elif method == "auto":
        sizes = *x.shape[:2], m.shape[1], h.shape[1], len(weights.e_x)
        traits = feedback, is_transformed(), _name(activation), present_machine()
        method = _pick(sizes, x.device.type, *traits)
    with no_autocast(x.device):
        y, h, m = LMU_METHODS[method].run(x, h, m, weights, dynamics, activation)
    return y, (h, m)
