"""The Legendre Memory Unit without feedback, evaluated for all time steps at once."""

from collections.abc import Sequence
from typing import Literal, overload

import torch
from torch import Tensor, nn

from lmu.layers._checks import (
    check_dtype,
    check_flag,
    check_input,
    check_pair,
    check_size,
    check_state,
)
from lmu.layers._legendre import LegendreModule
from lmu.ops import (
    READOUTS,
    Choice,
    Work,
    choose,
    choose_readout,
    final_memory,
    memory_step,
    readout,
)
from lmu.ops._autograd import is_transformed
from lmu.ops._precision import compute_dtype, no_autocast, widen

State = tuple[Tensor, Tensor]


class LMUFFT(LegendreModule):
    r"""The parallel Legendre Memory Unit: its memory is a linear filter of the whole sequence.

    .. math::
        u_t &= \mathrm{relu}(W_u x_t + b_u) \\
        m_t &= \bar A m_{t-1} + \bar B u_t \\
        h_t &= \mathrm{relu}(W_h [m_t; x_t] + b_h)

    Args:
        input_size: Number of input features.
        hidden_size: Number of hidden units.
        memory_size: Order d of the Legendre memory.
        seq_len: Length of the sequences that are expected, for which the impulse response is
            computed in advance. A hint: any length runs and gives the right answer. None computes
            it at the first call.
        theta: Length of the memory's window in time steps; or a sequence with that of each channel.
        memory_channels: Number of memories, each with an input ``u`` of its own.
        learn_a: Train ``Ad``, the discrete state matrix.
        learn_b: Train ``Bd``, the discrete input vector.
        learn_theta: Train the length of the window, of each channel where theta is a sequence, as
            the parameter ``log_theta``: it stays positive and, with Euler's method, stable.
        return_sequences: Give the hidden states of all steps. False gives the last one, by a single
            matrix product: far quicker, and what sequence classification wants.
        method: How all steps are computed, ``"fft"``, ``"chunked"`` or ``"states"``; ``"auto"``
            chooses, see :func:`lmu.ops.choose_readout`.
        discretizer: ``"zoh"``, ``"euler"`` or ``"bilinear"``.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Parameters are ``W_u`` (``nn.Linear(input_size, memory_channels)``) and ``W_h``
    (``nn.Linear(memory_channels * memory_size + input_size, hidden_size)``, the memory's columns
    first, channel after channel).

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A size is below 1, ``theta`` is not positive and finite, the discretizer is
            unknown, or it is Euler's and unstable for this ``theta``.

    Source: Chilkuri & Eliasmith, ICML 2021, equations 18 to 20, 25 and 26.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        memory_size: int,
        seq_len: int | None,
        theta: float | Sequence[float],
        *,
        memory_channels: int = 1,
        learn_a: bool = False,
        learn_b: bool = False,
        learn_theta: bool = False,
        return_sequences: bool = True,
        method: str = "auto",
        discretizer: str = "zoh",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            memory_size, theta, learn_a, learn_b, learn_theta, discretizer, memory_channels
        )
        check_dtype(dtype)
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.seq_len = None if seq_len is None else check_size("seq_len", seq_len)
        self.return_sequences = check_flag("return_sequences", return_sequences)
        if method not in {"auto", *READOUTS}:
            raise ValueError(f"method must be 'auto' or one of {list(READOUTS)}, got {method!r}")
        self.method = method
        factory = {"device": device, "dtype": dtype}
        self.W_u = nn.Linear(input_size, memory_channels, **factory)
        self._state_size = memory_channels * memory_size
        self.W_h = nn.Linear(self._state_size + input_size, hidden_size, **factory)
        self._add_dynamics(factory)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew, as ``nn.Linear`` does, but with an encoder that is not dead.

        A relu that is never positive learns nothing, and a quarter of all draws would give one for
        inputs such as pixels, which are not negative. So each row of ``W_u`` is given the sign with
        which its weights sum to a positive number, and ``b_u`` is made positive.
        """
        self.W_u.reset_parameters()
        self.W_h.reset_parameters()
        with torch.no_grad():
            total = self.W_u.weight.sum(dim=1, keepdim=True)
            self.W_u.weight.mul_(torch.where(total < 0, -1.0, 1.0))
            self.W_u.bias.abs_()
        super().reset_parameters()

    def extra_repr(self) -> str:
        """The arguments that the layer was built with."""
        text = (
            f"input_size={self.input_size}, hidden_size={self.hidden_size}, "
            f"seq_len={self.seq_len}, {self._describe()}"
        )
        return text if self.return_sequences else f"{text}, return_sequences=False"

    @overload
    def forward(
        self, x: Tensor, state: State | None = None, *, return_state: Literal[False] = False
    ) -> tuple[Tensor, Tensor]: ...
    @overload
    def forward(
        self, x: Tensor, state: State | None = None, *, return_state: Literal[True]
    ) -> tuple[Tensor, State]: ...
    def forward(
        self, x: Tensor, state: State | None = None, *, return_state: bool = False
    ) -> tuple[Tensor, Tensor | State]:
        """Run over a sequence.

        Args:
            x: Input (batch, time, input_size), of any length.
            state: ``(h_0, m_0)`` before the first step, (batch, hidden_size) and (batch,
                memory_channels * memory_size), as ``return_state`` gives it; zeros if None. Only
                ``m_0`` matters: nothing is fed back from the hidden units.
            return_state: Give the whole state in the second place, to go on with the sequence.

        Returns:
            The hidden states of all steps (batch, time, hidden_size), or with
            ``return_sequences=False`` the last one (batch, hidden_size); and the last hidden state
            ``h_n`` (batch, hidden_size), or with ``return_state`` the pair ``(h_n, m_n)`` with
            ``m_n`` (batch, memory_channels * memory_size), which is at least float32.

        Raises:
            TypeError: A dtype is not the layer's (unless under autocast).
            ValueError: A shape or device does not fit.
        """
        check_input(x, ("batch", "time"), self.input_size, self.W_u.weight)
        m_0 = self._initial_memory(x.shape[0], state)
        u = torch.relu(self.W_u(x))
        Ad, Bd = (widen(t) for t in self._dynamics())
        if self.return_sequences:
            output, m_n = self._all_outputs(u, x, Ad, Bd, m_0)
            h_n = output[:, -1].clone()  # a kept state must not keep the whole sequence
        else:
            m_n = final_memory(u, Ad, Bd, m_0, H=self._impulse_response(x.shape[1]))
            output = h_n = self._read_out(m_n, x[:, -1])
        return output, (h_n, m_n.flatten(1)) if return_state else h_n

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Advance one time step, for streams: the same numbers as over the whole sequence.

        Args:
            x: Input (batch, input_size).
            state: The state that the call before returned; zeros if None.

        Returns:
            The hidden units (batch, hidden_size), and the state to give to the next call.

        Raises:
            TypeError: A dtype is not the layer's (unless under autocast).
            ValueError: A shape or device does not fit.
        """
        check_input(x, ("batch",), self.input_size, self.W_u.weight)
        u = torch.relu(self.W_u(x))
        m = self._initial_memory(x.shape[0], state)
        dtype = compute_dtype(u.dtype)
        E, Bd = self._increment(), self._dynamics()[1]
        with no_autocast(x.device):
            if m is None:
                m = u.new_zeros(len(u), self.memory_channels, self.memory_size, dtype=dtype)
            m_n = memory_step(u.to(dtype), m, E.to(dtype), Bd.to(dtype))
        h = self._read_out(m_n, x)
        return h, (h, m_n.flatten(1))

    def _all_outputs(
        self, u: Tensor, x: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Hidden units of all steps and the last memory state (batch, channels, order)."""
        method = self.method
        if method == "auto":
            method = self.explain(x.shape[1], len(x), initial_state=m_0 is not None).method
        H = None if method == "chunked" else self._impulse_response(x.shape[1])
        W_m, W_x = self.W_h.weight.split((self._state_size, self.input_size), dim=1)
        output, m_n = readout(u, x, Ad, Bd, W_m, W_x, self.W_h.bias, m_0, method=method, H=H)
        return output.to(u.dtype), m_n

    def explain(self, length: int, batch_size: int = 1, *, initial_state: bool = False) -> Choice:
        """Say how the outputs of so many steps would be computed, why, and at what cost.

        Args:
            length: Number of time steps.
            batch_size: Number of sequences.
            initial_state: Whether the call is given a state.
        """
        work = self._work(length, batch_size)
        if not self.return_sequences:
            return choose(work, all_states=False, initial_state=initial_state)
        return choose_readout(work, initial_state=initial_state, transformed=is_transformed())

    def _work(self, length: int, batch_size: int) -> Work:
        return Work(
            length=length,
            order=self.memory_size,
            rows=self.hidden_size,
            batch=batch_size,
            channels=self.memory_channels,
            device=self._like().device.type,
        )

    def _read_out(self, m: Tensor, x: Tensor) -> Tensor:
        """Hidden units of one step, from the memory (batch, channels, order) and the input."""
        return torch.relu(self.W_h(torch.cat([m.flatten(1).to(x.dtype), x], dim=1)))

    def _initial_memory(self, batch: int, state: State | None) -> Tensor | None:
        if state is None:
            return None
        _, m = self._checked_state(batch, state)
        return m.unflatten(1, (self.memory_channels, self.memory_size))

    def _checked_state(self, batch: int, state: State | None) -> State:
        """The given state, checked, or zeros; ``m`` in the dtype that it is computed in."""
        like = self.W_u.weight
        dtype = compute_dtype(like.dtype)
        if state is None:
            h = torch.zeros(batch, self.hidden_size, device=like.device, dtype=dtype)
            return h, h.new_zeros(batch, self._state_size)
        check_pair(state)
        h, m = state
        check_state("h", h, (batch, self.hidden_size), like)
        check_state("m", m, (batch, self._state_size), like)
        return h.to(dtype), m.to(dtype)

    def _like(self) -> Tensor:
        return self.W_u.weight
