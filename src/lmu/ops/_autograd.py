"""What the hand-written backward passes share."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def is_transformed() -> bool:
    """Whether a compiler or ``torch.func`` looks on, which want plain operations."""
    # There is no public way to ask for the latter.
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def is_exporting() -> bool:
    """Whether ``torch.export`` looks on, for which nothing may be kept on a module."""
    # Early PyTorch cannot be asked: there nothing is kept in compiling, which is safe.
    asked = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
    return asked()


def differentiable_backward(
    run: Callable[..., tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    grads: Sequence[Tensor],
    needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Gradients that have a graph of their own, from running a plain version of the forward again.

    The inputs keep their history, so that derivatives of the gradients reach what they came from.
    But one input may have come from another, and that path is not this function's: so the plain
    version is run, and differentiated, on aliases.
    """
    aliases = [tensor.view_as(tensor) for tensor in inputs]
    outputs = run(*aliases)
    wanted = [alias for alias, need in zip(aliases, needed, strict=True) if need]
    found = torch.autograd.grad(
        outputs, wanted, grads, create_graph=True, allow_unused=True, materialize_grads=True
    )
    remaining = iter(found)
    return tuple(next(remaining) if need else None for need in needed)
