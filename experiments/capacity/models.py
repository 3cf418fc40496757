"""Models of the capacity task, and the error of decoding their states."""

import torch
from torch import Tensor, nn

from lmu import LegendreMemory
from lmu._arguments import checked, instance, tensor, whole


@checked(
    memory=instance(LegendreMemory),
    signal=tensor("batch", "time", floating=True, finite=True, filled=True),
    delays=tensor("points", whole=True),
    reads=whole(1),
)
@torch.no_grad()
def decoding_error(
    memory: LegendreMemory, signal: Tensor, delays: Tensor, *, reads: int = 200
) -> Tensor:
    """Measure the error of the input decoded from the memory, by delay.

    Args:
        memory: A memory of one channel and one window.
        signal: Inputs (batch, time), longer than two windows; the first window is not decoded.
        delays: Delays in steps (points,), below the window.
        reads: Number of evenly spaced moments at which each signal's memory is decoded.

    Returns:
        Root mean square of the error over that of the signal, for each delay (points,).

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The signal is too short or not finite, or a delay is beyond the window.

    Source: Voelker et al., NeurIPS 2019, section 3.1 and equation 3.
    """
    window = int(memory.theta) if isinstance(memory.theta, float) else 0
    if window < 1 or memory.channels > 1:
        raise ValueError(f"memory must be of one signal and one window, got {memory}")
    if len(delays) and not 0 <= int(delays.min()) <= int(delays.max()) < window:
        raise ValueError(
            f"delays must lie within 0 and {window - 1}, the window, got {int(delays.min())} to "
            f"{int(delays.max())}"
        )
    length = signal.shape[1]
    if length <= 2 * window:
        raise ValueError(f"the signal must be longer than {2 * window} steps, got {length}")
    ends = torch.linspace(window + 1, length, reads).long().unique()
    m, start, total = None, 0, torch.zeros(len(delays), dtype=torch.float64)
    for end in ends.tolist():
        m = memory.final(signal[:, start:end, None], m)
        held = memory.decode(m, delays)[..., 0]
        total += (held - signal[:, end - 1 - delays]).double().square().sum(0)
        start = end
    power = signal[:, window:].double().square().mean()
    return (total / (len(ends) * len(signal)) / power).sqrt()


class DelayLine(nn.Module):
    """An LSTM that is trained to return its input at several delays.

    Args:
        hidden_size: Number of units.
        delays: Number of outputs.
    """

    @checked(hidden_size=whole(1), delays=whole(1))
    def __init__(self, hidden_size: int, delays: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, hidden_size, batch_first=True)
        self.linear = nn.Linear(hidden_size, delays)

    @checked(x=tensor("batch", "time", "features", floating=True))
    def forward(self, x: Tensor) -> Tensor:
        """Return estimates at all steps (batch, time, delays) from inputs (batch, time, 1)."""
        if x.dtype != self.linear.weight.dtype:
            raise TypeError(f"x must be {self.linear.weight.dtype}, got {x.dtype}")
        if x.shape[2] != 1 or not x.shape[1]:
            raise ValueError(f"x must have the shape (batch, time >= 1, 1), got {tuple(x.shape)}")
        return self.linear(self.lstm(x)[0])
