"""Narrow numbers without denormal ones, with which processors take up to fifty times as long."""

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.functional import softshrink

# Below it a number is flushed.
_LEAST = {
    dtype: torch.finfo(dtype).tiny * 2.0**26
    for dtype in (torch.bfloat16, torch.float32, torch.float64)
}
# Early versions of PyTorch make zero of NaN.
_SHRINKS = bool(softshrink(torch.full((33,), torch.nan), 1.0).isnan().all())


def flush(tensor: Tensor) -> Tensor:
    """The same numbers, but zero where they are about to become denormal; gradients pass unchanged.

    A memory that gets no input decays for ever: in float32 it would reach denormal numbers after
    some windows, and stay there. What is flushed is below 8e-31 in float32, so that products with
    what is left are normal. NaN and infinity stay. Float16 is not flushed: what is about to become
    denormal there are numbers below 4,000.
    """
    if tensor.dtype == torch.float16:
        return tensor
    if _SHRINKS and not tensor.requires_grad and not _is_watched():
        return softshrink(tensor, _LEAST[tensor.dtype])  # the same in one operation
    least = torch.finfo(tensor.dtype).tiny * 2.0**26  # a constant to compilers, as no dict's is
    return tensor - tensor.detach().clamp(-least, least)


def flush_(tensor: Tensor) -> Tensor:
    """:func:`flush` in place, where there are no gradients."""
    return tensor if tensor.dtype == torch.float16 else tensor.copy_(flush(tensor))


def narrow(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in a narrower dtype, flushed; itself if it has that dtype."""
    return tensor if tensor.dtype == dtype else flush(tensor.to(dtype))


def _is_watched() -> bool:
    """True under a compiler or tracer, a transform of torch.func and forward-mode AD."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )
