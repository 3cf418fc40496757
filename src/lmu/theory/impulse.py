"""Powers of the discrete system by doubling: log2(T) matrix products instead of T steps."""

import torch
from torch import Tensor

from lmu._arguments import checked, explained, tensor, whole
from lmu.theory.rounding import flush, narrow

_matrix = tensor(floating=True, filled=True)
_count = whole(0)


@checked(Ad=_matrix, X=_matrix, length=_count)
def krylov(Ad: Tensor, X: Tensor, length: int) -> Tensor:
    """The sequence ``X, Ad X, Ad^2 X, ...`` of ``length`` terms.

    The next n terms are ``Ad^n`` times the first n. Powers of ``Ad`` are formed in the
    dtype of ``Ad`` and rounded once, to the dtype of ``X``, when they are applied. Differentiable
    in both arguments.

    Args:
        Ad: (order, order), of the precision of ``X`` or better.
        X: (order, columns).
        length: Number of terms, at least 1.

    Returns:
        (order, length, columns), of the dtype of ``X``.

    Cost: 2 order^2 length columns + 2 order^3 log2(length) FLOPs.
    """
    terms, power = X[:, None, :], Ad
    while (n := terms.shape[1]) < length:
        known = terms[:, : length - n]
        following = flush(narrow(power, X.dtype) @ known.flatten(1))
        terms = torch.cat([terms, following.unflatten(1, known.shape[1:])], dim=1)
        if 2 * n < length:
            power = power @ power
    return terms


@checked(Ad=_matrix, Bd=_matrix, length=_count)
def impulse_response(Ad: Tensor, Bd: Tensor, length: int) -> Tensor:
    """Response ``H[:, k] = Ad^k Bd`` of the memory to a unit impulse, k steps after it.

    Args:
        Ad: (order, order), or (channels, order, order) with dynamics for each channel; best in
            float64, where rounding of powers is negligible.
        Bd: (order,) or (channels, order), of the same dtype.
        length: Number of steps, at least 1.

    Returns:
        ``H`` (order, length) or (channels, order, length), of the dtype of ``Bd``.

    Source: Chilkuri & Eliasmith, ICML 2021, equation 22.
    """
    if Ad.ndim == 3:
        return torch.stack([impulse_response(A, B, length) for A, B in zip(Ad, Bd, strict=True)])
    return krylov(Ad, Bd[:, None], length).squeeze(2)


@explained(Ad=_matrix, X=_matrix, exponent=_count)
def apply_power(Ad: Tensor, X: Tensor, exponent: int) -> Tensor:
    """The product ``Ad^exponent X`` by repeated squaring, without forming ``Ad^exponent``.

    Args:
        Ad: (order, order), of the precision of ``X`` or better.
        X: (order, columns).
        exponent: A non-negative integer.

    Returns:
        (order, columns), of the dtype of ``X``.

    Cost: 2 order^3 log2(exponent) FLOPs for the squarings.
    """
    power = Ad
    while exponent > 0:
        if exponent % 2:
            X = narrow(power, X.dtype) @ X
        exponent //= 2
        if exponent:
            power = power @ power
    return X


@explained(Ad=_matrix, X=_matrix, exponents=tensor(whole=True), largest=_count)
def apply_powers(Ad: Tensor, X: Tensor, exponents: Tensor, largest: int) -> Tensor:
    """The columns ``Ad^k_i x_i`` with an exponent for each, by repeated squaring.

    Args:
        Ad: (order, order), of the precision of ``X`` or better.
        X: (order, columns).
        exponents: Non-negative integers (columns,), none above ``largest``.
        largest: Bound of the exponents, known without waiting for the device.

    Returns:
        (order, columns), of the dtype of ``X``.

    Cost: 2 order^2 (order + columns) log2(largest) FLOPs.
    """
    power, bit = Ad, 1
    while bit <= largest:
        X = torch.where((exponents & bit).bool(), narrow(power, X.dtype) @ X, X)
        bit *= 2
        if bit <= largest:
            power = power @ power
    return X
