"""One step of the nonlinear Legendre Memory Unit."""

from torch import Tensor

from lmu.layers._nonlinear import NonlinearLMU


class LMUCell(NonlinearLMU):
    r"""A single step of the Legendre Memory Unit, as ``nn.LSTMCell`` is of ``nn.LSTM``.

    .. math::
        u_t &= e_x x_t + e_h h_{t-1} + e_m m_{t-1} \\
        m_t &= \bar A m_{t-1} + \bar B u_t \\
        h_t &= \tanh(W_x x_t + W_h h_{t-1} + W_m m_t)

    Args:
        input_size: Number of input features.
        hidden_size: Number of hidden units.
        memory_size: Order d of the Legendre memory.
        theta: Length of the memory's window in time steps.
        learn_a: Train ``Ad``, the discrete state matrix.
        learn_b: Train ``Bd``, the discrete input vector.
        learn_theta: Train the length of the window, as the parameter ``log_theta``.
        hidden_to_memory: Feed the hidden state back into the memory. Without ``e_h`` the memory is
            linear in the input, and a sequence of it is evaluated at once.
        memory_to_memory: Feed the memory back into its input by ``e_m``.
        discretizer: ``"zoh"``, ``"euler"`` or ``"bilinear"``.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Parameters are ``e_x`` (1, input_size), ``e_h`` (1, hidden_size), ``e_m`` (1, memory_size),
    ``W_x`` (hidden_size, input_size), ``W_h`` (hidden_size, hidden_size) and ``W_m`` (hidden_size,
    memory_size); there are no biases.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A size is below 1, ``theta`` is not positive and finite, the discretizer is
            unknown, or it is Euler's and unstable for this ``theta``.

    Source: Voelker et al., NeurIPS 2019, equations 4, 6 and 7.
    """

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Advance one time step.

        Args:
            x: Input (batch, input_size).
            state: ``(h, m)`` of the step before, (batch, hidden_size) and (batch, memory_size);
                zeros if None.

        Returns:
            ``h`` (batch, hidden_size) in the layer's dtype, and ``m`` (batch, memory_size) in that
            dtype but at least float32.

        Raises:
            TypeError: A dtype is not the layer's (unless under autocast).
            ValueError: A shape or device does not fit.
        """
        return self._step(x, state)[1]
