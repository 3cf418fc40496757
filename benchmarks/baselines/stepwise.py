"""The nonlinear LMU of the paper, by its equations in a loop over time."""

import torch
from torch import Tensor, nn

from lmu.theory import discretize, legt


class StepwiseLMU(nn.Module):
    """Voelker et al. (2019), equations 4, 6 and 7, step by step; parameters as in ``LMU``."""

    def __init__(self, input_size: int, hidden_size: int, memory_size: int, theta: float) -> None:
        super().__init__()
        self.e_x = nn.Parameter(torch.empty(1, input_size))
        self.e_h = nn.Parameter(torch.empty(1, hidden_size))
        self.e_m = nn.Parameter(torch.empty(1, memory_size))
        self.W_x = nn.Parameter(torch.empty(hidden_size, input_size))
        self.W_h = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.W_m = nn.Parameter(torch.empty(hidden_size, memory_size))
        Ad, Bd = discretize(*legt(memory_size, theta))
        self.register_buffer("Ad", Ad.float(), persistent=False)
        self.register_buffer("Bd", Bd.float()[:, None], persistent=False)

    def step(self, x: Tensor, h: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """Advance one step; ``x`` (batch, input), ``h`` (batch, hidden), ``m`` (batch, order)."""
        linear = nn.functional.linear
        u = linear(x, self.e_x) + linear(h, self.e_h) + linear(m, self.e_m)
        m = linear(m, self.get_buffer("Ad")) + linear(u, self.get_buffer("Bd"))
        h = torch.tanh(linear(x, self.W_x) + linear(h, self.W_h) + linear(m, self.W_m))
        return h, m

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return all hidden states and the last state, of ``x`` (batch, time, input)."""
        h = x.new_zeros(x.shape[0], self.W_h.shape[0])
        m = x.new_zeros(x.shape[0], self.W_m.shape[1])
        outputs = []
        for t in range(x.shape[1]):
            h, m = self.step(x[:, t], h, m)
            outputs.append(h)
        return torch.stack(outputs, dim=1), (h, m)
