"""The parallel LMU of the paper: all states by FFT, then the read-out; or step by step."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from lmu.ops import memory
from lmu.theory import discretize, impulse_response, legt


class TextbookLMUFFT(nn.Module):
    """Chilkuri & Eliasmith (2021), equations 18 to 20 and 26, term by term.

    Parameters have the names of :class:`lmu.LMUFFT`, and the impulse response is the exact one, so
    that both layers compute the same function.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        memory_size: int,
        seq_len: int,
        theta: float,
        memory_channels: int = 1,
    ) -> None:
        super().__init__()
        self.seq_len = seq_len
        self.W_u = nn.Linear(input_size, memory_channels)
        self.W_h = nn.Linear(memory_channels * memory_size + input_size, hidden_size)
        Ad, Bd = discretize(*legt(memory_size, theta))
        spectrum = torch.fft.rfft(impulse_response(Ad, Bd, seq_len), n=2 * seq_len)
        self.register_buffer("spectrum", spectrum.to(torch.complex64), persistent=False)
        self.register_buffer("Ad", Ad.float(), persistent=False)
        self.register_buffer("Bd", Bd.float()[:, None], persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return all hidden states and the last, of ``x`` (batch, seq_len, input_size)."""
        u = torch.relu(self.W_u(x))
        U = torch.fft.rfft(u.transpose(1, 2), n=2 * self.seq_len)[:, :, None]
        m = torch.fft.irfft(U * self.get_buffer("spectrum"), n=2 * self.seq_len)
        m = m[..., : self.seq_len].flatten(1, 2).transpose(1, 2)
        h = torch.relu(self.W_h(torch.cat([m, x], dim=2)))
        return h, h[:, -1]

    def step(self, x: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """Advance one step of one memory; ``x`` (batch, input) and ``m`` (batch, order)."""
        u = torch.relu(self.W_u(x))
        m = linear(m, self.get_buffer("Ad")) + linear(u, self.get_buffer("Bd"))
        return torch.relu(self.W_h(torch.cat([m, x], dim=1))), m


class NaiveLMUFFT(nn.Module):
    """The same layer with the naive reference of :mod:`lmu.ops` for its memory, for float64."""

    def __init__(
        self, input_size: int, hidden_size: int, memory_size: int, seq_len: object, theta: float
    ) -> None:
        super().__init__()
        del seq_len
        self.W_u = nn.Linear(input_size, 1)
        self.W_h = nn.Linear(memory_size + input_size, hidden_size)
        self.Ad, self.Bd = discretize(*legt(memory_size, float(theta)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return all hidden states and the last, of ``x`` (batch, time, input_size)."""
        m, _ = memory(torch.relu(self.W_u(x)), self.Ad, self.Bd, method="naive")
        h = torch.relu(self.W_h(torch.cat([m[:, :, 0], x], dim=2)))
        return h, h[:, -1]
