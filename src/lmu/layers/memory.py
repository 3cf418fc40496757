"""The Legendre memory as a module: a signal in, the coefficients of its window out."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lmu._arguments import checked, explained, flag, optional, tensor, whole
from lmu.layers._checks import check_input, check_sequence, check_state, check_weight
from lmu.layers._dynamics import Dynamics
from lmu.layers._native_step import step_memory
from lmu.layers._sequences import Ragged, align_right, unpack
from lmu.layers._shard import Shard
from lmu.layers._window import read_window
from lmu.ops import (
    MEMORY_METHODS,
    READOUT_METHODS,
    MethodChoice,
    Problem,
    explain_memory,
    memory_step,
)
from lmu.ops._activations import check_activation
from lmu.ops._modes import compute_dtype, is_transformed, memory_dtype, no_autocast, widen
from lmu.ops.memory.dispatch import run_final_state, run_memory
from lmu.ops.readout.dispatch import pick_readout, run_readout
from lmu.ops.system import channels as each_channel
from lmu.theory import apply_powers

Activation = str | Callable[[Tensor], Tensor]
Lengths = Tensor | Sequence[int] | None
STATES = tuple(name for name, method in MEMORY_METHODS.items() if method.all_states)


class LegendreMemory(Dynamics):
    r"""A linear memory of the last ``theta`` time steps of each of its channels.

    .. math::
        m_t &= \bar A m_{t-1} + \bar B u_t, \\
        u_{t-k} &\approx \sum_i P_i(2r - 1)\, m_{t,i}, \qquad r\theta = k + 1/2

    Args:
        memory_size: Order d: number of Legendre polynomials that span the window.
        theta: Length of the window in time steps; or a sequence of lengths, one per channel.
        channels: Number of signals, each of which has a memory.
        learn_a: Train ``Ad``, the discrete state matrix.
        learn_b: Train ``Bd``, the discrete input vector.
        learn_theta: Train the length of the window, of each channel if theta is a sequence, as
            the parameter ``log_theta``: it stays positive and, with Euler's method, stable.
        discretizer: ``"zoh"``, ``"euler"`` or ``"bilinear"``; ``"euler-unchecked"`` is Euler's also
            where it amplifies noise, as imported models may. None: ``system`` is discrete already.
        system: Another system than Legendre's: ``"fourier"``, the series of the window, whose order
            is odd; or matrices of your own, ``(A, B)`` or ``(A, B, decoder)`` with A (order, order)
            and B (order,) per time step, or with a first axis for the channels. Matrices are used
            as they are: ``theta`` must be the length of their window, which ``decode`` reads.
            ``decoder(order, r)`` gives the weights (*r.shape, order) that read a state at the
            fractions r of ``theta``. Methods by FFT lose digits where powers of the matrices grow
            large: name the method ``"chunked"`` for such a system.
        method: How the states of all steps are computed, a key of
            :data:`lmu.ops.MEMORY_METHODS` that gives them all; ``"auto"`` chooses the fastest, see
            :meth:`explain`.
        device: Device of the parameters.
        dtype: Dtype of the parameters, and of the input.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A size is below 1, ``theta`` is not positive and finite, the discretizer is
            unknown, or it is Euler's and would amplify noise for this ``theta``.

    Source: Voelker et al., NeurIPS 2019, equations 1 to 4.

    Example:
        >>> memory = lmu.LegendreMemory(16, theta=100)  # doctest: +SKIP
        >>> m, m_n = memory(u)  # doctest: +SKIP
    """

    _shard: Shard | None = None  # which lmu.distributed sets
    seq_len: int | None = None  # a length that is likely, of which the impulse response is kept

    def __init__(
        self,
        memory_size: int,
        theta: float | Sequence[float],
        channels: int = 1,
        *,
        learn_a: bool = False,
        learn_b: bool = False,
        learn_theta: bool = False,
        discretizer: str | None = "zoh",
        system: Any = None,
        method: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            memory_size,
            theta,
            channels,
            learn_a,
            learn_b,
            learn_theta,
            discretizer,
            system,
            device,
            dtype,
        )
        self.method = method
        self._check_method()

    def _check_method(self) -> None:
        method = self.method
        if not isinstance(method, str) or method not in {"auto", *STATES}:
            raise ValueError(f"method must be 'auto' or one of {list(STATES)}, got {method!r}")

    def extra_repr(self) -> str:
        """The arguments that differ from their defaults."""
        text = self._describe()
        text += f", channels={self.channels}" if self.channels > 1 else ""
        return text if self.method == "auto" else f"{text}, method={self.method!r}"

    def forward(
        self, u: Tensor | PackedSequence, m_0: Tensor | None = None, lengths: Lengths = None
    ) -> tuple[Any, Tensor]:
        """Run over a sequence.

        Args:
            u: Signals (batch, time, channels), of any length; or a ``PackedSequence``.
            m_0: Memory before the first step (batch, channels * memory_size), or of one sequence
                for all; zeros if None. It may be float64, and ``m_n`` is then too.
            lengths: Number of steps of each sequence (batch,); all if None. What lies beyond is
                padding, and has no influence on anything.

        Returns:
            The memory at all steps (batch, time, channels * memory_size), channel after channel,
            zero in padding or packed as ``u`` was, and after the last step (batch, channels *
            memory_size). Both are at least float32.

        Raises:
            TypeError: A dtype is not the memory's (unless under autocast).
            ValueError: A shape or device does not fit, or a length is not within 0 and time.
        """
        signal, m_0, ragged = self._checked(u, m_0, lengths)
        if ragged is None:
            m, m_n = self._states(signal, m_0)
            return m.flatten(2), self._of_last_step(m_n)[0].flatten(1)
        m = self._states(signal, m_0)[0].flatten(2)
        m = torch.where(ragged.inside, m, m.new_zeros(()))
        return ragged.pack(m), self._last(signal, m_0, ragged).flatten(1)

    def final(
        self, u: Tensor | PackedSequence, m_0: Tensor | None = None, lengths: Lengths = None
    ) -> Tensor:
        """The memory after the last step alone, by one matrix product.

        Arguments and errors are those of :meth:`forward`.

        Returns:
            (batch, channels * memory_size), at least float32.
        """
        signal, m_0, ragged = self._checked(u, m_0, lengths)
        m_n = self._last(signal, m_0, ragged)
        return (self._of_last_step(m_n)[0] if ragged is None else m_n).flatten(1)

    @explained(W=tensor("rows", "states", floating=True), bias=optional(tensor(floating=True)))
    def readout(
        self,
        u: Tensor,
        W: Tensor,
        m_0: Tensor | None = None,
        *,
        bias: Tensor | None = None,
        activation: Activation = "identity",
        method: str = "auto",
    ) -> tuple[Tensor, Tensor]:
        r"""Read the memory at all steps without forming its states: :math:`y_t = f(W m_t + b)`.

        Args:
            u: Signals (batch, time, channels).
            W: (rows, channels * memory_size), channel after channel.
            m_0: Memory before the first step (batch, channels * memory_size); zeros if None.
            bias: (rows,); zeros if None.
            activation: f, a name such as ``"relu"`` or a function.
            method: A key of :data:`lmu.ops.READOUT_METHODS`, or ``"auto"``.

        Returns:
            ``y`` (batch, time, rows), and the memory after the last step (batch, channels *
            memory_size). Both are at least float32.

        Raises:
            TypeError: A dtype is not the memory's (unless under autocast).
            ValueError: A shape or device does not fit; the method is unknown.
        """
        if method != "auto" and (not isinstance(method, str) or method not in READOUT_METHODS):
            known = list(READOUT_METHODS)
            raise ValueError(f"method must be 'auto' or one of {known}, got {method!r}")
        check_activation(activation)
        if isinstance(u, PackedSequence):
            raise TypeError("readout takes a tensor (batch, time, channels), got a PackedSequence")
        signal, m_0, _ = self._checked(u, m_0, None)
        check_weight("W", W, (len(W), self.channels * self.memory_size), self._anchor)
        bias = W.new_zeros(len(W)) if bias is None else bias
        check_weight("bias", bias, (len(W),), self._anchor)
        y, m_n = self._readout(signal, signal[..., :0], W, W[:, :0], bias, m_0, method, activation)
        return y, self._of_last_step(m_n)[0].flatten(1)

    @explained(u=tensor(floating=True))
    def step(self, u: Tensor, m: Tensor | None = None) -> Tensor:
        """Advance one time step.

        Args:
            u: Signals (batch, channels).
            m: What the call before returned (batch, channels * memory_size); zeros if None. It may
                be float64, recommended for theta above a few thousand.

        Returns:
            The memory (batch, channels * memory_size), at least float32.

        Raises:
            TypeError: A dtype is not the memory's (unless under autocast).
            ValueError: A shape or device does not fit.
        """
        self._follow(u)
        check_input(u, ("batch",), self.channels, self._anchor, name="channels")
        return self._step(u, self._start(u, m)).flatten(1)

    @explained(m=tensor(floating=True))
    def decode(self, m: Tensor, delays: Tensor | Sequence[float] | None = None) -> Tensor:
        r"""Read the window out of a memory state: the signal ``delays`` steps ago.

        .. math:: u_{t-k} \approx \sum_i P_i(2r - 1)\, m_i(t), \qquad r\theta = k + 1/2

        The half step is the hold's: an input is held for a step. The window is low-pass filtered by
        the order of the memory; near its ends the error is largest.

        Args:
            m: Memory states (..., channels * memory_size).
            delays: Steps ago (points,), within -1/2 and theta - 1/2 and not only whole ones; 0 is
                the newest input. Or (..., points), with delays for each row of ``m``. All whole
                ones of the shortest window if None.

        Returns:
            The signals (..., points, channels).

        Raises:
            TypeError: ``m`` is not floating.
            ValueError: The last axis is not the memory's, a delay leaves a window, or ``system``
                came without a decoder.

        Source: Voelker et al., NeurIPS 2019, equation 3.
        """
        decoder = None
        if self._space is not None:
            decoder = self._space.decoder
            if decoder is None:
                raise ValueError("this memory has no decoder: pass system=(A, B, decoder)")
        return read_window(m, delays, self.theta, self.channels, self.memory_size, decoder)

    @checked(length=whole(1), batch_size=whole(0), initial_state=flag)
    def explain(
        self, length: int, batch_size: int = 1, *, initial_state: bool = False
    ) -> MethodChoice:
        """Say how the states of ``length`` steps would be computed, why, and at what cost."""
        device = self._anchor.device.type
        problem = Problem(length, self.memory_size, 0, batch_size, self.channels, device)
        if self.method != "auto":
            cost = MEMORY_METHODS[self.method].cost(problem)
            return MethodChoice(self.method, "asked for by name", cost)
        transformed = is_transformed()
        return explain_memory(
            problem, all_states=True, initial_state=initial_state, transformed=transformed
        )

    # What follows is unchecked, for layers: states are (batch, channels, order).

    def _states(self, u: Tensor, m_0: Tensor | None) -> tuple[Tensor, Tensor]:
        """The memory at all steps (batch, time, channels, order), and after the last."""
        system = self._system(u.device)
        if self._shard is not None:
            m_0 = self._shard.start(u, system, m_0)
        if self.method != "auto":  # which may have been set since
            self._check_method()
        H = system.kept_response(u.shape[1], compute_dtype(u.dtype), self.seq_len)
        return run_memory(u, widen(system.Ad), widen(system.Bd), m_0, method=self.method, H=H)

    def _last(self, u: Tensor, m_0: Tensor | None, ragged: Ragged | None = None) -> Tensor:
        """The memory after the last step of each sequence; of a shard, after its last step."""
        system = self._system(u.device)
        if ragged is None:
            if self._shard is None:
                return run_final_state(u, system, m_0, self.seq_len)
            return self._shard.final(u, system, m_0)
        if self._shard is not None:
            raise ValueError(
                "lengths and packed sequences cannot be spread over processes: pad all sequences "
                "to one length and drop lengths"
            )
        # Without input the memory stays at zero: all sequences may as well end together.
        m_n = run_final_state(align_right(u, ragged.lengths), system, None, self.seq_len)
        if m_0 is None:
            return m_n
        each = each_channel(self.channels, widen(system.Ad), widen(system.Bd), None)
        free = [
            apply_powers(Ad, widen(m).mT, ragged.lengths, u.shape[1]).mT
            for m, (Ad, _, _) in zip(m_0.unbind(1), each, strict=True)
        ]
        return (m_n + torch.stack(free, dim=1)).to(m_0.dtype)

    def _readout(
        self,
        u: Tensor,
        x: Tensor,
        W_m: Tensor,
        W_x: Tensor,
        bias: Tensor,
        m_0: Tensor | None,
        method: str,
        activation: Activation = "identity",
    ) -> tuple[Tensor, Tensor]:
        """``f(W_m m_t + W_x x_t + bias)`` at all steps, and the memory after the last."""
        system = self._system(u.device)
        if self._shard is not None:
            m_0 = self._shard.start(u, system, m_0)
        if method == "auto":
            method = pick_readout(u, system.Bd, W_m.shape[0], m_0 is not None)
        H = None
        if method not in {"chunked", "triton"}:
            H = system.kept_response(u.shape[1], compute_dtype(u.dtype), self.seq_len)
        Ad, Bd = widen(system.Ad), widen(system.Bd)
        return run_readout(
            u, x, Ad, Bd, W_m, W_x, bias, m_0, method=method, H=H, activation=activation
        )

    def _of_last_step(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Values of the sequence's last step, from those of the last step here."""
        return values if self._shard is None else self._shard.last(*values)

    def _step(self, u: Tensor, m: Tensor) -> Tensor:
        dtype, system = compute_dtype(u.dtype), self._system(u.device)
        after = step_memory(u.to(dtype), m, system)
        if after is not None:
            return after
        with no_autocast(u.device):
            return memory_step(u.to(dtype), m, system.increment(dtype), system.Bd.to(dtype))

    def _start(self, u: Tensor, m: Tensor | None) -> Tensor:
        """The state before a step, checked."""
        return self._zeros(u) if m is None else self._checked_memory(m, u.shape[0], self._anchor)

    def _zeros(self, u: Tensor) -> Tensor:
        shape = u.shape[0], self.channels, self.memory_size
        return u.new_zeros(shape, dtype=compute_dtype(u.dtype))

    def _checked(
        self, u: Any, m_0: Any, lengths: Any
    ) -> tuple[Tensor, Tensor | None, Ragged | None]:
        signal, ragged = unpack(u, lengths)
        self._follow(signal)
        check_sequence(signal, self.channels, self._anchor, name="channels")
        m = None if m_0 is None else self._checked_memory(m_0, signal.shape[0], self._anchor)
        return signal, m, ragged

    def _checked_memory(self, m: Any, batch: int, like: Tensor) -> Tensor:
        """A memory (batch, channels * order) as (batch, channels, order)."""
        m = check_state("m", m, (batch, self.channels * self.memory_size), like)
        dtype = memory_dtype(m, compute_dtype(like.dtype))
        return m.to(dtype).unflatten(1, (self.channels, self.memory_size))

    def _like(self) -> Tensor:
        """A tensor whose device and dtype are the memory's."""
        return self._anchor

    def _follow(self, u: Any) -> None:
        """Go to the input's device, unless parameters are elsewhere."""
        if not isinstance(u, Tensor) or u.device == self._anchor.device:
            return
        if all(parameter.device == u.device for parameter in self.parameters()):
            self._anchor = torch.empty(0, device=u.device, dtype=self._anchor.dtype)
