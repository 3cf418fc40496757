"""Data of the capacity task: decode the input of a whole window from the present state."""

import torch
from torch import Tensor

from lmu._arguments import LARGEST, checked, number, whole

CUTOFF = 10.0  # cycles in a window: 10 Hz with a window of a second


@checked(
    length=whole(1),
    theta=number(above=0),
    seed=whole(0, 2**63 - 1),
    cutoff=number(above=0),
    batch=whole(0),
)
def band_limited_noise(
    length: int, theta: float, *, seed: int, cutoff: float = CUTOFF, batch: int = 1
) -> Tensor:
    """Draw white noise without frequencies above ``cutoff`` cycles in ``theta`` steps.

    Args:
        length: Number of steps.
        theta: Length of the window in steps.
        seed: Seed of the amplitudes and phases.
        cutoff: Highest frequency, in cycles per window.
        batch: Number of independent signals.

    Returns:
        Signals (batch, length) with a root mean square of 1.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The signal is too short for a single frequency, or a number is out of range.
    """
    bins = int(min(cutoff * length / theta, LARGEST))
    if bins < 1:
        raise ValueError(
            f"{length} steps hold no frequency up to {cutoff:g} cycles in {theta:g} steps: "
            "make the signal longer"
        )
    g = torch.Generator().manual_seed(seed)
    spectrum = torch.zeros(batch, length // 2 + 1, dtype=torch.complex128)
    last = min(bins, length // 2)
    spectrum[:, 1 : last + 1] = torch.randn(batch, last, dtype=torch.complex128, generator=g)
    signal = torch.fft.irfft(spectrum, length)
    return signal / signal.square().mean(dim=1, keepdim=True).sqrt()
