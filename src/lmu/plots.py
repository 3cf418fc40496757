"""Plots of the window that a memory holds."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lmu._extras import require
from lmu.layers import LMU, LMUFFT, LegendreMemory, LMUCell

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_window(
    layer: LegendreMemory | LMU | LMUFFT | LMUCell,
    m: Tensor,
    inputs: Tensor | None = None,
    *,
    points: int = 400,
    axes: "Axes | None" = None,
) -> "Axes":
    """Draw the window that a memory state holds, and the inputs that made it if they are passed.

    Args:
        layer: The memory or the layer that the state is of.
        m: One state (memory_channels * memory_size).
        inputs: Encoded inputs u up to now (time, memory_channels), the newest last. Without an
            encoder, or with one that leaves it as it is, these are the layer's inputs.
        points: Number of delays that are decoded.
        axes: Axes to draw into; those of a new figure if None. Show or save their ``figure``.

    Returns:
        The axes, with delays in steps from left (oldest) to right (now).

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: A shape does not fit.
    """
    require("matplotlib", extra="plot")
    if m.ndim != 1:
        raise ValueError(f"m must be one state, with a single axis, got {tuple(m.shape)}")
    memory = layer if isinstance(layer, LegendreMemory) else layer.memory
    channels = memory.channels
    if inputs is not None and (inputs.ndim != 2 or inputs.shape[1] != channels):
        raise ValueError(
            f"inputs must have the shape (time, memory_channels={channels}), "
            f"got {tuple(inputs.shape)}"
        )
    theta = memory.theta
    window = min(theta) if isinstance(theta, tuple) else theta
    delays = torch.linspace(-0.5, window - 0.5, points, dtype=torch.float64)
    with torch.no_grad():
        decoded = memory.decode(m.detach().to(torch.promote_types(m.dtype, torch.float32)), delays)
    drawn: Any = _new_axes() if axes is None else axes
    for c in range(channels):
        (line,) = drawn.plot(-delays, decoded[:, c].cpu(), label=_name("memory", c, channels))
        if inputs is not None:
            past = inputs[max(0, len(inputs) - int(window)) :, c].detach().cpu()
            steps = torch.arange(1 - len(past), 1)
            drawn.plot(
                steps, past.float(), ".", ms=3, color=line.get_color(), alpha=0.5,
                label=_name("input", c, channels),
            )  # fmt: skip
    drawn.set(xlabel="steps from now", ylabel="u")
    drawn.grid(alpha=0.3)
    drawn.legend()
    return drawn


def _name(what: str, channel: int, channels: int) -> str:
    return what if channels == 1 else f"{what}, channel {channel}"


def _new_axes() -> "Axes":
    # Not pyplot's figure: that needs a display, and is never freed.
    from matplotlib.figure import Figure

    return Figure(figsize=(7, 3), layout="constrained").subplots()
