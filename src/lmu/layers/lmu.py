"""The nonlinear Legendre Memory Unit over a sequence."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lmu._arguments import checked, whole
from lmu.layers._call import step_by_call
from lmu.layers._checks import check_flag, check_sequence, check_sequences
from lmu.layers._hidden import TANH, CellAdapter
from lmu.layers._modules import is_hooked
from lmu.layers._nonlinear import Activation, HiddenCell, NonlinearLMU
from lmu.layers._ragged import Ragged, align_left, align_right, unpack
from lmu.layers._sequences import in_pieces
from lmu.layers.state import State
from lmu.ops import (
    LMU_METHODS,
    BlockDynamics,
    MethodChoice,
    Problem,
    System,
    block_length,
    explain_lmu,
    final_state,
    lmu_sequence,
    memory,
)
from lmu.ops._modes import compute_dtype, is_transformed, no_autocast, widen
from lmu.ops._states import last_valid, output_of

Sequences = Tensor | PackedSequence
Lengths = Tensor | Sequence[int] | None


class Record(NamedTuple):
    """What :meth:`LMU.record` gives of all steps."""

    output: Tensor  # (batch, time, hidden_size)
    m: Tensor  # (batch, time, memory_channels * memory_size)
    u: Tensor  # (batch, time, memory_channels)


class LMU(NonlinearLMU):
    r"""The Legendre Memory Unit: a nonlinear recurrence around a linear Legendre memory.

    .. math::
        u_t &= e_x x_t + e_h h_{t-1} + e_m m_{t-1} \\
        m_t &= \bar A m_{t-1} + \bar B u_t \\
        h_t &= \tanh(W_x x_t + W_h h_{t-1} + W_m m_t)

    Takes the place of ``nn.LSTM(..., batch_first=True)``; the memory takes that of the cell state.
    The recurrence is computed in float32 or better, also under autocast.

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
        return_sequences: Give the hidden states of all steps. False gives the last one, which is
            far quicker where nothing is fed back and the hidden cell has no state.
        method: How sequences are run, a key of :data:`lmu.ops.LMU_METHODS`; ``"auto"`` chooses, see
            :func:`lmu.ops.choose_lmu`.
        discretizer: ``"zoh"``, ``"euler"`` or ``"bilinear"``; ``"euler-unchecked"`` is Euler's also
            where it amplifies noise, as imported models may.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Parameters and errors are those of :class:`lmu.LMUCell`.

    Source: Voelker et al., NeurIPS 2019, equations 4, 6 and 7.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int | None,
        memory_size: int,
        theta: float | Sequence[float],
        learn_a: bool = False,
        learn_b: bool = False,
        *,
        memory_channels: int = 1,
        hidden_cell: HiddenCell = TANH,
        hidden_to_memory: bool = True,
        memory_to_memory: bool = True,
        input_to_hidden: bool = True,
        encode_input: bool = True,
        encoder_activation: Activation | None = None,
        memory_bias: bool = False,
        hidden_bias: bool = False,
        learn_theta: bool = False,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        initializers: Mapping[str, Callable[[Tensor], Any]] | None = None,
        return_sequences: bool = True,
        method: str = "auto",
        discretizer: str = "zoh",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            memory_size,
            theta,
            learn_a,
            learn_b,
            memory_channels=memory_channels,
            hidden_cell=hidden_cell,
            hidden_to_memory=hidden_to_memory,
            memory_to_memory=memory_to_memory,
            input_to_hidden=input_to_hidden,
            encode_input=encode_input,
            encoder_activation=encoder_activation,
            memory_bias=memory_bias,
            hidden_bias=hidden_bias,
            learn_theta=learn_theta,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            initializers=initializers,
            discretizer=discretizer,
            device=device,
            dtype=dtype,
        )
        self.return_sequences = check_flag("return_sequences", return_sequences)
        self.method = self._checked_method(method)

    def _checked_method(self, method: str) -> str:
        if not isinstance(method, str) or method not in {"auto", *LMU_METHODS}:
            raise ValueError(f"method must be 'auto' or one of {list(LMU_METHODS)}, got {method!r}")
        if method == "parallel" and (self._coupled or self.recurrent_dropout):
            raise ValueError(
                "method 'parallel' needs hidden_to_memory=False, and with several memory channels, "
                "an encoder_activation or recurrent_dropout also memory_to_memory=False: what is "
                "fed back goes step by step"
            )
        general = not self._fast or self.recurrent_dropout
        if method in {"blocks", "triton"} and general:
            raise ValueError(
                f"method {method!r} runs the default hidden cell without encoder_activation and "
                "recurrent_dropout: choose 'auto', 'loop' or 'parallel'"
            )
        return method

    def forward(
        self,
        x: Sequences,
        state: State = None,
        *,
        lengths: Lengths = None,
        resets: Tensor | None = None,
        return_sequences: bool | None = None,
    ) -> tuple[Any, tuple[State, Tensor]]:
        """Run over a sequence.

        Args:
            x: Input (batch, time, input_size), of any length; or a ``PackedSequence``.
            state: ``(h_0, m_0)`` before the first step, (batch, hidden_size) and (batch,
                memory_channels * memory_size), or of one sequence for all; zeros if None. Feed
                back what a call returned to go on with the sequence: the split gives the same
                numbers as the whole. With a recurrent ``hidden_cell``, ``h_0`` is what its state
                is.
            lengths: Number of steps of each sequence (batch,); all if None. What lies beyond is
                padding, and has no influence on anything; without a step the state stays as it is.
            resets: Where a sequence starts anew (batch, time): True at the first step that knows
                nothing of those before, such as one after an episode's end.
            return_sequences: Give the hidden states of all steps, or of the last alone; as the
                layer was built if None.

        Returns:
            All hidden states (batch, time, hidden_size), zero in padding, or packed as the input
            was; or with ``return_sequences=False`` the last one (batch, hidden_size). And the last
            state ``(h_n, m_n)`` of each sequence. Hidden states have the layer's dtype, ``m_n`` has
            that dtype but at least float32.

        Raises:
            TypeError: A dtype is not the layer's (unless under autocast).
            ValueError: A shape or device does not fit, or a length is not within 0 and time.
        """
        return self.run(x, state, lengths, resets, return_sequences)

    def run(
        self,
        x: Sequences,
        state: State = None,
        lengths: Lengths = None,
        resets: Any = None,
        return_sequences: bool | None = None,
    ) -> tuple[Any, tuple[State, Tensor]]:
        """As :meth:`forward`: what all layers have in common."""
        if resets is not None and self._starts_itself:
            raise ValueError(
                "resets cannot start a hidden cell of your own anew, whose first state only it "
                "knows: run the sequences piece by piece, each without a state"
            )
        every = check_sequences(self.return_sequences, return_sequences)
        return in_pieces(
            lambda x, state, lengths: self._run(x, state, lengths, every),
            x,
            state,
            lengths,
            resets,
        )

    def _run(
        self, x: Sequences, state: State, lengths: Lengths, every: bool
    ) -> tuple[Any, tuple[State, Tensor]]:
        signal, ragged = unpack(x, lengths)
        self._follow(signal)
        check_sequence(signal, self.input_size, self._like())
        if self.dropout:
            signal = F.dropout(signal, self.dropout, self.training)
            ragged = ragged and Ragged(signal, ragged.lengths, ragged.packed)
        if ragged is None:
            y, after = self._run_whole(signal, state, every=every)
        else:
            y, after = self._run_ragged(ragged, state)
        if not every:
            return output_of(after[0]).clone(), after
        return y if ragged is None else ragged.pack(y), after

    def _run_ragged(self, ragged: Ragged, state: State) -> tuple[Tensor, tuple[State, Tensor]]:
        """Outputs, zero in padding, and the state of each sequence at its end."""
        x, steps, alive = ragged.x, ragged.lengths, ragged.inside
        if state is None and self._fast:
            # Without input the state stays at zero: sequences may as well all end together.
            ones = align_right(alive.to(x.dtype), steps)
            y, after = self._run_whole(align_right(x, steps), None, ones)
            return align_left(y, steps), after
        if self.method in {"blocks", "triton"}:
            raise ValueError(
                f"method {self.method!r} cannot go on from a state with sequences of several "
                "lengths: choose 'auto' or 'loop'"
            )
        h, m = self._checked_state(x.shape[0], state)
        x = x.to(compute_dtype(self._like().dtype))
        y, h, m = self._run_general(x, h, m, state is None, alive)
        return torch.where(alive, y, y.new_zeros(())), (h, m)

    def _run_whole(
        self, x: Tensor, state: State, ones: Tensor | None = None, *, every: bool = True
    ) -> tuple[Tensor, tuple[State, Tensor]]:
        """Run over sequences of one length; ``ones`` (batch, time, 1) says where biases apply."""
        h, m = self._checked_state(x.shape[0], state)
        dtype = self._like().dtype
        x = x.to(compute_dtype(dtype))
        if not self._fast:
            y, h, m = self._run_general(x, h, m, state is None, every=every)
            return y, (h, m)
        weights = self._weights(ones=self._biased)
        with no_autocast(x.device):
            if self._biased:
                x = torch.cat([x, torch.ones_like(x[..., :1]) if ones is None else ones.to(x)], 2)
            output, (h, m) = lmu_sequence(
                x,
                h,
                m,
                weights,
                method=self.method,
                feedback=self._coupled,
                powers=self._block_powers() if self._coupled else None,
            )
        return output.to(dtype), (h.to(dtype), m)

    def _run_general(
        self,
        x: Tensor,
        h: State,
        m: Tensor,
        from_zero: bool,
        alive: Tensor | None = None,
        *,
        every: bool = True,
    ) -> tuple[Tensor, State, Tensor]:
        """Any hidden cell or encoder: the memory at once where it can be, or step by step.

        Where ``alive`` (batch, time, 1) is False there is padding, see :func:`run_steps`.
        """
        if self._coupled or self.method == "loop":
            return self._loop(x, h, m, alive)
        dtype, cell = self._like().dtype, self._cell()
        last = not every and isinstance(cell, CellAdapter) and not cell.recurrent
        last = last and alive is None
        states, m_n = self._linear_memory(x, None if from_zero else m, last)
        m = m_n if alive is None else last_valid(states, alive, m).to(m.dtype)
        if isinstance(cell, CellAdapter):
            y, h = cell.sequence(states, x[:, -1:] if last else x, h, alive)
            return y, h, m
        with no_autocast(x.device):
            y, h = cell.sequence(states, F.pad(x, (0, 1), value=1.0), h, alive)
        return y.to(dtype), h.to(dtype), m

    def _linear_memory(self, x: Tensor, m: Tensor | None, last: bool) -> tuple[Tensor, Tensor]:
        """All states (batch, time, order) or the ``last`` (batch, 1, order), and the last again."""
        c, d = self.memory_channels, self.memory_size
        system = self._system()
        with no_autocast(x.device):
            u = self._activate(self._encode(x), x)
            if self.e_m is not None:  # of a single channel
                Bd = widen(system.Bd).reshape(d)
                Ad = widen(system.Ad).reshape(d, d) + Bd[:, None] * widen(self.e_m)
                system = System(Ad, Bd, constant=False)
            m = None if m is None else m.unflatten(1, (c, d))
            if last:
                m_n = final_state(u, system, m).flatten(1)
                return m_n.unsqueeze(1), m_n
            H = system.response(x.shape[1], u.dtype)
            states, m_n = memory(u, widen(system.Ad), widen(system.Bd), m, H=H)
        return states.flatten(2), m_n.flatten(1)

    def record(
        self, x: Sequences, state: State = None, *, lengths: Lengths = None
    ) -> tuple[Record, tuple[State, Tensor]]:
        """Run step by step and give all that happens: outputs, memory states and its inputs.

        Arguments and errors are those of :meth:`forward`; ``dropout`` is as in training or not.

        Returns:
            Outputs (batch, time, hidden_size), states m (batch, time, memory_channels *
            memory_size) and inputs u of the memory (batch, time, memory_channels), the latter two
            at least float32; all zero in padding. And the last state ``(h_n, m_n)``.
        """
        if is_hooked(self):
            raise ValueError(
                "record() reads the weights, which a hook of this layer may make in a call: remove "
                "it first, as by prune.remove()"
            )
        signal, ragged = unpack(x, lengths)
        self._follow(signal)
        check_sequence(signal, self.input_size, self._like())
        h, m = self._checked_state(signal.shape[0], state)
        signal = F.dropout(signal, self.dropout, self.training) if self.dropout else signal
        signal = signal.to(compute_dtype(self._like().dtype))
        alive = None if ragged is None else ragged.inside
        everything, h, m = self._loop(signal, h, m, alive, record=True)
        if alive is not None:
            everything = torch.where(alive, everything, everything.new_zeros(()))
        sizes = self.hidden_size, self._state_size, self.memory_channels
        y, states, u = everything.split(sizes, dim=2)
        return Record(y.to(self._like().dtype), states, u), (h, m)

    def step(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Advance one time step, for streams: the same numbers as over the whole sequence.

        Args:
            x: Input (batch, input_size).
            state: The state that the call before returned; zeros if None.

        Returns:
            The hidden state (batch, hidden_size), and the state to give to the next call.

        Raises:
            TypeError: A dtype is not the layer's (unless under autocast).
            ValueError: A shape or device does not fit.
        """
        if is_hooked(self):
            return step_by_call(self, x, state)
        return self._step(x, state)

    @checked(length=whole(1), batch_size=whole(0))
    def explain(self, length: int, batch_size: int = 1) -> MethodChoice:
        """Say how sequences of so many steps would be run, why, and at what cost."""
        if self.method != "auto":
            work = self._work(length, batch_size)
            cost = LMU_METHODS[self.method].cost(work) if self._fast else None
            return MethodChoice(self.method, "asked for by name", cost)
        if not self._fast:
            if self._coupled:
                reason = "the hidden cell, or what is fed back, goes step by step"
                return MethodChoice("loop", reason)
            return MethodChoice(
                "parallel", "the memory is linear: all its states at once, then the cell"
            )
        transformed = is_transformed()
        work = self._work(length, batch_size)
        return explain_lmu(work, feedback=self._coupled, transformed=transformed)

    def _work(self, length: int, batch_size: int) -> Problem:
        return Problem(
            length,
            self.memory_size,
            self.hidden_size,
            batch_size,
            self.memory_channels,
            self._like().device.type,
        )

    def extra_repr(self) -> str:
        """The arguments that the layer was built with, without what has its default value."""
        text = super().extra_repr()
        text += "" if self.return_sequences else ", return_sequences=False"
        return text if self.method == "auto" else f"{text}, method={self.method!r}"

    def _block_powers(self) -> BlockDynamics | None:
        """The powers of constant dynamics; None where they are made from the weights."""
        system = self._system()
        if not system.constant:
            return None
        steps = block_length(self.hidden_size, self.memory_channels)
        return system.powers(self.memory_channels, steps, compute_dtype(self._like().dtype))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Other ports keep the parameters in a submodule named cell.
        inner = prefix + "cell."
        for key in [key for key in state_dict if key.startswith(inner)]:
            state_dict[prefix + key.removeprefix(inner)] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
