"""Narrow numbers without denormal ones, with which processors take up to fifty times as long."""

import torch
from torch import Tensor


def flush(tensor: Tensor) -> Tensor:
    """The same numbers, but zero where they are about to become denormal; gradients pass unchanged.

    A memory that gets no input decays for ever: in float32 it would reach denormal numbers after
    some windows, and stay there. What is flushed is below 8e-31 in float32, so that products with
    what is left are normal. NaN and infinity stay.
    """
    least = torch.finfo(tensor.dtype).tiny * 2.0**26
    return tensor - tensor.detach().clamp(-least, least)


def flush_(tensor: Tensor) -> Tensor:
    """:func:`flush` in place, where there are no gradients."""
    least = torch.finfo(tensor.dtype).tiny * 2.0**26
    return tensor.sub_(tensor.clamp(-least, least))


def narrow(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in a narrower dtype, flushed; itself if it has that dtype."""
    return tensor if tensor.dtype == dtype else flush(tensor.to(dtype))
