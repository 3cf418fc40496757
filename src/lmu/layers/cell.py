"""One step of the nonlinear Legendre Memory Unit."""

from typing import Any

from torch import Tensor

from lmu.layers._nonlinear import NonlinearLMU
from lmu.layers.state import State


class LMUCell(NonlinearLMU):
    r"""A single step of the Legendre Memory Unit, as ``nn.LSTMCell`` is of ``nn.LSTM``.

    .. math::
        u_t &= e_x x_t + e_h h_{t-1} + e_m m_{t-1} \\
        m_t &= \bar A m_{t-1} + \bar B u_t \\
        h_t &= \tanh(W_x x_t + W_h h_{t-1} + W_m m_t)

    Args:
        input_size: Number of input features.
        hidden_size: Number of hidden units; None asks the hidden cell.
        memory_size: Order d of the Legendre memory.
        theta: Length of the memory's window in time steps; or a sequence with that of each channel.
        learn_a: Train ``Ad``, the discrete state matrix.
        learn_b: Train ``Bd``, the discrete input vector.
        learn_theta: Train the length of the window, of each channel where theta is a sequence, as
            the parameter ``log_theta``.
        memory_channels: Number of memories, each with an input u of its own.
        hidden_cell: What reads the memory: ``"tanh"``, the equation above; None, which gives
            ``[m_t; x_t]`` itself as output; or a module, called with ``[m_t; x_t]`` alone
            (``nn.Linear``, ``nn.Sequential``) or, if its ``forward`` takes a state too, as
            ``nn.LSTMCell`` is. Its output is its state, or the state's first tensor.
        hidden_to_memory: Feed the hidden state back into the memory. Without ``e_h`` the memory is
            linear in the input, and a sequence of it is evaluated at once.
        memory_to_memory: Feed the memory back into its input by ``e_m``.
        input_to_hidden: Let the hidden cell read the input too, and not only the memory.
        encode_input: False hands the input to the memory as it is, without ``e_x``; there must be
            as many memory channels as input features.
        encoder_activation: A function of u, such as ``torch.tanh``; linear if None.
        memory_bias: Add ``b_u`` to u.
        hidden_bias: Add ``b_h`` in the default hidden cell.
        dropout: Probability with which each number of the input is dropped in training, for all
            that reads it, anew at each step.
        recurrent_dropout: Probability with which a state is dropped where ``e_h`` and ``e_m`` feed
            it back, in training, the same states at all steps of a call.
        initializers: By names of parameters, functions that fill them in place, such as ``{"e_x":
            nn.init.ones_}``; what they do not name is drawn as usual.
        discretizer: ``"zoh"``, ``"euler"`` or ``"bilinear"``; ``"euler-unchecked"`` is Euler's also
            where it amplifies noise, as imported models may.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Parameters are, with c memory channels, ``e_x`` (c, input_size), ``e_h`` (c, hidden_size),
    ``e_m`` (c, c * memory_size), ``W_x`` (hidden_size, input_size), ``W_h`` (hidden_size,
    hidden_size) and ``W_m`` (hidden_size, c * memory_size), channel after channel; ``b_u`` (c,) and
    ``b_h`` (hidden_size,) if asked for. Of these, None is what an argument leaves out.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A size is below 1, ``theta`` is not positive and finite, the discretizer is
            unknown, or it is Euler's and would amplify noise for this ``theta``.

    Source: Voelker et al., NeurIPS 2019, equations 4, 6 and 7.
    """

    def forward(self, x: Tensor, state: State = None) -> tuple[Any, Tensor]:
        """Advance one time step.

        Args:
            x: Input (batch, input_size).
            state: ``(h, m)`` of the step before, (batch, hidden_size) and (batch, memory_channels *
                memory_size); zeros if None. With a recurrent ``hidden_cell``, ``h`` is its state.
                ``m`` may be float64, which windows beyond some thousand steps want: what comes
                back then is too.

        Returns:
            ``h`` (batch, hidden_size) in the layer's dtype, and ``m`` in that dtype but at
            least float32.

        Raises:
            TypeError: A dtype is not the layer's (unless under autocast).
            ValueError: A shape or device does not fit.
        """
        return self._step(x, state)[1]
