"""The parallel LMU as the paper gives it: FFT of all states, then the read-out at all steps."""

import torch
from torch import Tensor, nn

from lmu.theory import discretize, impulse_response, legt


class TextbookLMUFFT(nn.Module):
    """Chilkuri & Eliasmith (2021), equations 18 to 20 and 26, term by term.

    Parameters have the names of :class:`lmu.LMUFFT`, and the impulse response is the exact one, so
    that both layers compute the same function.
    """

    def __init__(
        self, input_size: int, hidden_size: int, memory_size: int, seq_len: int, theta: float
    ) -> None:
        super().__init__()
        self.seq_len = seq_len
        self.W_u = nn.Linear(input_size, 1)
        self.W_h = nn.Linear(memory_size + input_size, hidden_size)
        H = impulse_response(*discretize(*legt(memory_size, theta)), seq_len)
        spectrum = torch.fft.rfft(H, n=2 * seq_len)
        self.register_buffer("spectrum", spectrum.to(torch.complex64), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """All hidden states and the last, of ``x`` (batch, seq_len, input_size)."""
        u = torch.relu(self.W_u(x))
        U = torch.fft.rfft(u.transpose(1, 2), n=2 * self.seq_len)
        m = torch.fft.irfft(U * self.get_buffer("spectrum"), n=2 * self.seq_len)
        m = m[:, :, : self.seq_len].transpose(1, 2)
        h = torch.relu(self.W_h(torch.cat([m, x], dim=2)))
        return h, h[:, -1]
