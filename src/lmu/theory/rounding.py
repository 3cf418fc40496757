"""Narrow numbers without denormal ones, with which processors take up to fifty times as long."""

import torch
from torch import Tensor


def flush(tensor: Tensor) -> Tensor:
    """The same numbers, but zero where they are about to become denormal; gradients pass unchanged.

    A memory that gets no input decays for ever: in float32 it would reach denormal numbers after
    some windows, and stay there. What is flushed is below 8e-31 in float32, so that products with
    what is left are normal. NaN and infinity stay.
    """
    least = _least(tensor.dtype)
    return tensor - tensor.detach().clamp(-least, least)


def flush_(tensor: Tensor) -> Tensor:
    """:func:`flush` in place, where there are no gradients."""
    least = _least(tensor.dtype)
    return tensor.sub_(tensor.clamp(-least, least))


def narrow(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in a narrower dtype, flushed; itself if it has that dtype.

    Float16 is not flushed: what is denormal there are numbers below 6e-5.
    """
    if tensor.dtype == dtype:
        return tensor
    return tensor.to(dtype) if dtype == torch.float16 else flush(tensor.to(dtype))


def _least(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).tiny * 2.0**26
