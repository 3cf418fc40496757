"""Narrow dtypes without denormal numbers, on which processors are up to fifty times as slow."""

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.functional import softshrink

# Numbers below this are flushed.
_LEAST = {
    dtype: torch.finfo(dtype).tiny * 2.0**26
    for dtype in (torch.bfloat16, torch.float32, torch.float64)
}
# In early versions of PyTorch softshrink turns NaN into zero.
_SHRINKS = bool(softshrink(torch.full((33,), torch.nan), 1.0).isnan().all())


def flush(tensor: Tensor) -> Tensor:
    """Set numbers that are about to become denormal to zero; gradients pass unchanged.

    A memory without input decays for ever: in float32 it would reach denormal numbers after some
    windows, and stay there. Numbers below 8e-31 are flushed in float32, so that products of the
    others are normal. NaN and infinity stay. Float16 is not flushed: there numbers below 4,000 are
    about to become denormal.
    """
    if tensor.dtype == torch.float16:
        return tensor
    if _SHRINKS and not tensor.requires_grad and not _is_watched():
        return softshrink(tensor, _LEAST[tensor.dtype])  # the same in one operation
    # Compilers take this for a constant, unlike the value of a dict.
    least = torch.finfo(tensor.dtype).tiny * 2.0**26
    return tensor - tensor.detach().clamp(-least, least)


def flush_(tensor: Tensor) -> Tensor:
    """Apply :func:`flush` in place, without gradients."""
    return tensor if tensor.dtype == torch.float16 else tensor.copy_(flush(tensor))


def narrow(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert to a narrower dtype and flush; a tensor of that dtype is returned as it is."""
    return tensor if tensor.dtype == dtype else flush(tensor.to(dtype))


def _is_watched() -> bool:
    """True under a compiler or tracer, a transform of torch.func and forward-mode AD."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )
