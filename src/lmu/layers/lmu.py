"""The nonlinear Legendre Memory Unit over a sequence."""

import inspect
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lmu._arguments import checked, whole
from lmu.layers._call import step_by_call
from lmu.layers._checks import check_flag, check_sequence, check_sequences
from lmu.layers._hidden import CellAdapter
from lmu.layers._modules import is_hooked
from lmu.layers._sequences import Ragged, align_left, align_right, in_pieces, unpack
from lmu.layers.cell import LMUCell
from lmu.layers.memory import Lengths
from lmu.layers.state import State
from lmu.ops import LMU_METHODS, BlockDynamics, MethodChoice, Problem, System, block_length
from lmu.ops._activations import ZERO_AT_ZERO
from lmu.ops._modes import compute_dtype, is_transformed, no_autocast, widen
from lmu.ops._states import output_of
from lmu.ops.lmu.dispatch import check_lmu_method, explain_lmu, run_lmu
from lmu.ops.lmu.parallel import run_parallel

Sequences = Tensor | PackedSequence
_OF_LSTM = {  # arguments of nn.LSTM that LMU lacks
    "batch_first": "input is (batch, time, input) always",
    "num_layers": "put layers into an LMUStack",
    "bidirectional": "put two layers into a Bidirectional",
    "bias": "pass memory_bias and hidden_bias",
    "proj_size": "pass a module as hidden_cell",
}


class Record(NamedTuple):
    """Outputs, memory states and inputs of the memory at all steps."""

    output: Tensor  # (batch, time, hidden_size)
    m: Tensor  # (batch, time, memory_channels * memory_size)
    u: Tensor  # (batch, time, memory_channels)


class LMU(LMUCell):
    r"""The Legendre Memory Unit: a nonlinear recurrence around a linear Legendre memory.

    .. math::
        u_t &= e_x x_t + e_h h_{t-1} + e_m m_{t-1} \\
        m_t &= \bar A m_{t-1} + \bar B u_t \\
        h_t &= \tanh(W_x x_t + W_h h_{t-1} + W_m m_t)

    Takes the place of ``nn.LSTM(..., batch_first=True)``; the memory takes that of the cell state.
    The recurrence is computed in float32 or better, also under autocast.

    Args:
        *cell: Arguments of :class:`LMUCell`: ``input_size``, ``hidden_size``, ``memory_size``,
            ``theta``, ``learn_a`` and ``learn_b``.
        return_sequences: Give the hidden states of all steps. False gives the last one, which is
            far quicker where nothing is fed back and the hidden cell has no state.
        method: How sequences are run, a key of :data:`lmu.ops.LMU_METHODS`; ``"auto"`` chooses, see
            :func:`lmu.ops.choose_lmu`.
        **options: All other arguments of :class:`LMUCell`, by name.

    Parameters and errors are those of :class:`lmu.LMUCell`.

    Source: Voelker et al., NeurIPS 2019, equations 4, 6 and 7.
    """

    def __init__(
        self, *cell: Any, return_sequences: bool = True, method: str = "auto", **options: Any
    ) -> None:
        try:
            super().__init__(*cell, **options)
        except TypeError as error:
            if "LMUCell.__init__()" not in str(error):
                raise
            message = str(error).replace("LMUCell.__init__()", "LMU")
            hints = [hint for name, hint in _OF_LSTM.items() if f"'{name}'" in message]
            raise TypeError(": ".join([message, *hints])) from None
        self.return_sequences = check_flag("return_sequences", return_sequences)
        self.method = self._checked_method(method)

    def _checked_method(self, method: str) -> str:
        if not isinstance(method, str) or method not in {"auto", *LMU_METHODS}:
            raise ValueError(f"method must be 'auto' or one of {list(LMU_METHODS)}, got {method!r}")
        if method == "parallel" and (self._is_coupled or self.recurrent_dropout):
            raise ValueError(
                "method 'parallel' needs hidden_to_memory=False, and with several memory channels, "
                "an encoder_activation or recurrent_dropout also memory_to_memory=False: what is "
                "fed back goes step by step"
            )
        if method in {"blocks", "native", "native_blocks", "triton"}:
            if not self._is_published or self.recurrent_dropout:
                raise ValueError(
                    f"method {method!r} runs the default hidden cell without encoder_activation "
                    "and recurrent_dropout: choose 'auto', 'loop' or 'parallel'"
                )
            check_lmu_method(method, feedback=True, activation=self.hidden_activation)
        return method

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - of sequences
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
            resets: True (batch, time) at steps before which the state is set to zero, such as the
                first of an episode.
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
        if resets is not None and self._starts_itself:
            raise ValueError(
                "resets cannot start a hidden cell again whose first state only it knows: "
                "run the sequences piece by piece, each without a state"
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
        check_sequence(signal, self.input_size, self._prepare(signal))
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
        x, steps, mask = ragged.x, ragged.lengths, ragged.inside
        if state is None and self._is_published and self.hidden_activation in ZERO_AT_ZERO:
            # Without input the state stays at zero: sequences may as well all end together.
            ones = align_right(mask.to(x.dtype), steps)
            y, after = self._run_whole(align_right(x, steps), None, ones)
            return align_left(y, steps), after
        if self.method in {"blocks", "triton"}:
            raise ValueError(
                f"method {self.method!r} cannot go on from a state, or with an activation that is "
                "not zero at zero, over sequences of several lengths: choose 'auto' or 'loop'"
            )
        h, m = self._checked_state(x.shape[0], state)
        x = x.to(compute_dtype(self._like().dtype))
        y, h, m = self._run_general(x, h, m, state is None, mask)
        return torch.where(mask, y, y.new_zeros(())), (h, m)

    def _run_whole(
        self, x: Tensor, state: State, ones: Tensor | None = None, *, every: bool = True
    ) -> tuple[Tensor, tuple[State, Tensor]]:
        """Run over sequences of one length; biases apply where ``ones`` (batch, time, 1) is 1."""
        h, m = self._checked_state(x.shape[0], state)
        dtype = self._like().dtype
        x = x.to(compute_dtype(dtype))
        if not self._is_published:
            y, h, m = self._run_general(x, h, m, state is None, every=every)
            return y, (h, m)
        if self.method != "auto":  # which may have been set since
            check_lmu_method(
                self.method, feedback=self._is_coupled, activation=self.hidden_activation
            )
        weights = self._weights(ones=self._biased)
        with no_autocast(x.device):
            if self._biased:
                x = torch.cat([x, torch.ones_like(x[..., :1]) if ones is None else ones.to(x)], 2)
            output, (h, m) = run_lmu(
                x,
                h,
                m,
                weights,
                method=self.method,
                feedback=self._is_coupled,
                dynamics=self._block_dynamics() if self._is_coupled else None,
                activation=self.hidden_activation,
            )
        return output.to(dtype), (h.to(dtype), m)

    def _run_general(
        self,
        x: Tensor,
        h: State,
        m: Tensor,
        from_zero: bool,
        mask: Tensor | None = None,
        *,
        every: bool = True,
    ) -> tuple[Tensor, State, Tensor]:
        """Any hidden cell or encoder: all of the memory and then the cell, or step by step.

        Steps that are padding are False in ``mask`` (batch, time, 1).
        """
        if self.method not in {"auto", "loop", "parallel"} or (
            self.method == "parallel" and self._is_coupled
        ):
            self._checked_method(self.method)
        if self._is_coupled or self.method == "loop":
            return self._loop(x, h, m, mask)
        cell, system = self._cell(), self._system()
        with no_autocast(x.device):
            u = self._activate(self._encode(x), x)
            if self.e_m is not None:  # of a single channel
                Bd = widen(system.Bd).reshape(-1)
                Ad = widen(system.Ad).reshape(len(Bd), -1) + Bd[:, None] * widen(self.e_m)
                system = System(Ad, Bd, constant=False)
        m_0 = None if from_zero else m
        if isinstance(cell, CellAdapter):
            last = not (every or cell.recurrent) and mask is None
            return run_parallel(u, x, h, m_0, system, cell, mask, last=last)
        y, h, m = run_parallel(u, F.pad(x, (0, 1), value=1.0), h, m_0, system, cell, mask)
        return y.to(self._like().dtype), h.to(self._like().dtype), m

    def record(
        self, x: Sequences, state: State = None, *, lengths: Lengths = None
    ) -> tuple[Record, tuple[State, Tensor]]:
        """Run step by step and give outputs, memory states and inputs of the memory at all steps.

        Arguments and errors are those of :meth:`forward`; dropout is active in training mode.

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
        check_sequence(signal, self.input_size, self._prepare(signal))
        h, m = self._checked_state(signal.shape[0], state)
        signal = F.dropout(signal, self.dropout, self.training) if self.dropout else signal
        signal = signal.to(compute_dtype(self._like().dtype))
        mask = None if ragged is None else ragged.inside
        everything, h, m = self._loop(signal, h, m, mask, record=True)
        if mask is not None:
            everything = torch.where(mask, everything, everything.new_zeros(()))
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
        """Say how sequences of ``length`` steps would be run, why, and at what cost."""
        problem = Problem(
            length,
            self.memory_size,
            self.hidden_size,
            batch_size,
            self.memory_channels,
            self._like().device.type,
        )
        if self.method != "auto":
            cost = LMU_METHODS[self.method].cost(problem) if self._is_published else None
            return MethodChoice(self.method, "asked for by name", cost)
        if not self._is_published:
            if self._is_coupled:
                return MethodChoice("loop", "the cell, or what is fed back, goes step by step")
            reason = "the memory is linear: all its states at once, then the cell"
            return MethodChoice("parallel", reason)
        return explain_lmu(
            problem,
            feedback=self._is_coupled,
            transformed=is_transformed(),
            activation=self.hidden_activation,
        )

    def extra_repr(self) -> str:
        """The arguments that differ from their defaults, but for those of the memory."""
        text = super().extra_repr()
        text += "" if self.return_sequences else ", return_sequences=False"
        return text if self.method == "auto" else f"{text}, method={self.method!r}"

    def _block_dynamics(self) -> BlockDynamics | None:
        """Those of constant dynamics; None where they are made from the weights."""
        system = self._system()
        if not system.constant:
            return None
        steps = block_length(self.hidden_size, self.memory_channels)
        return system.block_dynamics(self.memory_channels, steps, compute_dtype(self._like().dtype))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Other ports keep the parameters in a submodule named cell.
        inner = prefix + "cell."
        for key in [key for key in state_dict if key.startswith(inner)]:
            state_dict[prefix + key.removeprefix(inner)] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _signature() -> inspect.Signature:
    """The arguments of the cell and of the layer."""
    own, cell = inspect.signature(LMU.__init__), inspect.signature(LMUCell)
    added = [own.parameters[name] for name in ("return_sequences", "method")]
    return cell.replace(parameters=[*cell.parameters.values(), *added], return_annotation=None)


def _documentation() -> str | None:
    """The layer's docstring with the cell's arguments in the place of ``*cell``; None with -OO."""
    if LMU.__doc__ is None or LMUCell.__doc__ is None:
        return None
    cell = LMUCell.__doc__.split("    Args:\n")[1].split("\n\n")[0]
    before, rest = LMU.__doc__.split("        *cell:")
    return f"{before}{cell}\n        {rest[rest.index('return_sequences:') :]}".replace(
        "        **options: All other arguments of :class:`LMUCell`, by name.\n", ""
    )


# For help(), which would show *cell and **options.
LMU.__signature__ = _signature()  # pyright: ignore[reportAttributeAccessIssue]
LMU.__doc__ = _documentation()
