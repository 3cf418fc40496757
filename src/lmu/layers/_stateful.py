"""Functions with a state of their own, such as spiking neurons."""

import copy
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from lmu.ops._modes import is_plain

# What a copy may say to an input of another shape than it is made for.
_ERRORS = (RuntimeError, TypeError, ValueError, IndexError, AttributeError)


def has_state(function: Any, size: int = 1) -> bool | None:
    """True if a function gives another answer when it is asked again; None if it cannot be asked.

    A copy on the CPU is asked, in training mode and not, with the same random numbers each time;
    those of the caller go on as if nothing had been drawn.

    Args:
        function: Called with rows of ``size`` numbers; or None.
        size: Number of its features.
    """
    if isinstance(function, FunctionType):
        inside = [cell.cell_contents for cell in function.__closure__ or ()]
        answers = [has_state(part, size) for part in inside if isinstance(part, nn.Module)]
        return True if True in answers else None if None in answers else False
    if function is None or isinstance(function, BuiltinFunctionType):
        return False
    tensors = (
        [*function.parameters(), *function.buffers()] if isinstance(function, nn.Module) else []
    )
    if not is_plain(*tensors) or any(type(t.data) is not Tensor for t in tensors):
        return None
    dtype = next((t.dtype for t in tensors if t.is_floating_point()), None)
    sizes = torch.logspace(-2, 1, 8, device="cpu", dtype=dtype)
    x = torch.cat([sizes, -sizes]).unsqueeze(1).repeat(1, size)
    try:
        return any(_differs(copy.deepcopy(function), x, training) for training in (False, True))
    except _ERRORS:
        # Of another shape, or of another batch than a state that is there already.
        # Hooks make weights that are no state.
        parts = function.modules() if isinstance(function, nn.Module) else [function]
        kept = [vars(part) for part in parts if not getattr(part, "_forward_pre_hooks", None)]
        return any(isinstance(value, Tensor) for part in kept for value in part.values())


def _differs(function: Any, x: Tensor, training: bool) -> bool:
    if isinstance(function, nn.Module):
        function.to("cpu").train(training)
    answers = []
    for _ in range(4):
        with torch.random.fork_rng([]), torch.inference_mode(False), torch.no_grad():
            torch.default_generator.manual_seed(0)
            answers.append(function(x.clone()).clone())
    return not all(torch.equal(answers[0], answer) for answer in answers[1:])


class StatefulCheck:
    """Caches the answer of :func:`has_state` for a function until the function changes."""

    def __init__(self, size: int = 1) -> None:
        self.size, self.function, self.answer = size, None, False

    def __call__(self, function: Any) -> bool:
        if function is not self.function and not torch.compiler.is_compiling():
            answer = has_state(function, self.size)
            if answer is None:
                return False
            self.function, self.answer = function, answer
        return self.answer

    def __reduce__(self) -> tuple[Any, ...]:
        return StatefulCheck, (self.size,)  # copies have a copy of the function
