"""Many steps without input at once."""

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

# Of constant matrices, Ad -> (its version, [Ad, Ad^2, Ad^4, ...]): they take longer to compute than
# all else that carries a state.
_kept = WeakTensorKeyDictionary()


def squares(Ad: Tensor, bits: int) -> list[Tensor]:
    """``Ad^(2^i)`` for at least so many i; kept with the matrix, unless that has a gradient."""
    if torch.compiler.is_compiling() or Ad.requires_grad or Ad.is_inference():
        return _longer([Ad], bits)
    if Ad in _kept and _kept[Ad][0] == Ad._version:
        found = _kept[Ad][1]
    else:
        with torch.inference_mode(False):
            found = [Ad.clone()]  # the matrix itself would keep its own entry alive
        _kept[Ad] = Ad._version, found
    # What is kept must serve training even if this is inference.
    with torch.inference_mode(False), torch.no_grad():
        return _longer(found, bits)


def _longer(found: list[Tensor], bits: int) -> list[Tensor]:
    while len(found) < bits:
        found.append(found[-1] @ found[-1])
    return found


def advance(Ad: Tensor, state: Tensor, steps: int, *, adjoint: bool = False) -> Tensor:
    """The state ``Ad^steps m``, or with ``adjoint`` the gradient ``(Ad^T)^steps g``.

    Computed in the dtype of ``Ad``. Differentiable in both.

    Shapes: ``Ad`` (order, order) or (channels, order, order), ``state`` (batch, channels, order).

    Cost: 2 b c d^2 log2(steps) FLOPs, and 2 d^3 log2(steps) for powers that are not kept; those
    that are take d^2 log2(steps) numbers.
    """
    rows = state.transpose(0, 1).to(Ad.dtype)
    for bit, square in enumerate(squares(Ad, steps.bit_length())):
        if steps >> bit & 1:
            rows = rows @ (square if adjoint else square.mT)
    return rows.transpose(0, 1).to(state.dtype)
