"""Activations of Keras, and a hidden cell that PyTorch lacks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS = {
    "celu": nn.CELU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "hard_sigmoid": nn.Hardsigmoid,
    "hard_silu": nn.Hardswish,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "linear": nn.Identity,
    "log_softmax": lambda: nn.LogSoftmax(dim=-1),
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softmax": lambda: nn.Softmax(dim=-1),
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "swish": nn.SiLU,
    "tanh": nn.Tanh,
}


class ResetFirstGRUCell(nn.RNNCellBase):
    r"""The gated recurrent unit as first published; Keras's with ``reset_after=False``.

    .. math::
        r_t &= \sigma(W_r z_t + U_r h_{t-1} + b_r) \\
        g_t &= \sigma(W_g z_t + U_g h_{t-1} + b_g) \\
        n_t &= f(W_n z_t + U_n (r_t \odot h_{t-1}) + b_n) \\
        h_t &= (1 - g_t) \odot n_t + g_t \odot h_{t-1}

    ``nn.GRUCell`` multiplies by the reset gate after the product with ``U_n``.

    Args:
        input_size: Number of inputs.
        hidden_size: Number of hidden units.
        activation: The function f, as a module.
        bias: Add the biases ``b``.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Parameters are ``weight_ih`` (3 * hidden_size, input_size), ``weight_hh`` (3 * hidden_size,
    hidden_size) and ``bias_ih`` (3 * hidden_size,), the rows of ``r``, ``g`` and ``n`` stacked.

    Source: Cho et al., EMNLP 2014 (arXiv 1406.1078), equations 5 to 8.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        activation: nn.Module,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)
        self.register_parameter("bias_hh", None)  # one is enough
        self.activation = activation

    def forward(self, z: Tensor, state: Tensor | None = None) -> Tensor:
        """Return the state ``h_t`` (batch, hidden_size) after ``z`` (batch, input_size)."""
        n = self.hidden_size
        h = z.new_zeros(len(z), n) if state is None else state
        share = F.linear(z, self.weight_ih, self.bias_ih)
        U_gates, U_n = self.weight_hh.split((2 * n, n))
        r, g = (share[:, : 2 * n] + h @ U_gates.mT).sigmoid().chunk(2, dim=1)
        candidate = self.activation(share[:, 2 * n :] + (r * h) @ U_n.mT)
        return candidate + g * (h - candidate)
