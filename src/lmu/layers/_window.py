"""The window that a memory state holds."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lmu.layers._systems import Decoder
from lmu.theory import decode_window


def read_window(
    m: Tensor,
    delays: Tensor | Sequence[float] | None,
    theta: float | tuple[float, ...],
    channels: int,
    order: int,
    decoder: Decoder | None = None,
) -> Tensor:
    """Decode memory states, as :meth:`lmu.LegendreMemory.decode`; ``theta`` in steps.

    ``decoder`` is that of another system than Legendre's.
    """
    if m.shape[-1:] != (channels * order,):
        raise ValueError(
            f"m must have the shape (..., {channels * order}), "
            f"channels * memory_size, got {tuple(m.shape)}"
        )
    windows = theta if isinstance(theta, tuple) else (theta,) * channels
    if delays is None:
        delays = torch.arange(max(1, int(min(windows))), dtype=torch.float64)
    try:
        steps = torch.as_tensor(delays, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"delays must be numbers of steps, got {delays!r}") from error
    if not steps.ndim or (steps.ndim > 1 and steps.shape[:-1] != m.shape[:-1]):
        raise ValueError(
            f"delays must have the shape (points,), or {(*m.shape[:-1], 'points')} for each "
            f"row of m, got {tuple(steps.shape)}"
        )
    if steps.numel() and not (-0.5 <= steps.min() <= steps.max() <= min(windows) - 0.5):
        raise ValueError(
            f"delays must lie within -0.5 and {min(windows) - 0.5:g} steps, the window, got "
            f"values from {steps.min().item():g} to {steps.max().item():g}"
        )
    each = m.unflatten(-1, (channels, order)).unbind(-2)
    fractions = [((steps + 0.5) / window).clamp(0, 1) for window in windows]
    if decoder is None:
        read = [decode_window(m_c, r) for m_c, r in zip(each, fractions, strict=True)]
    else:
        read = [_apply(decoder, m_c, r) for m_c, r in zip(each, fractions, strict=True)]
    return torch.stack(read, dim=-1)


def _apply(decoder: Decoder, m: Tensor, r: Tensor) -> Tensor:
    weights = decoder(m.shape[-1], r)
    if not isinstance(weights, Tensor) or weights.shape != (*r.shape, m.shape[-1]):
        got = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        raise ValueError(
            f"the decoder of system must give a tensor {(*r.shape, m.shape[-1])}, got {got}"
        )
    return (weights.to(m) @ m.unsqueeze(-1)).squeeze(-1)
