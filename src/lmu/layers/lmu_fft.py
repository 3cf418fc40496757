"""The Legendre Memory Unit without feedback, evaluated for all time steps at once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lmu._arguments import checked, flag, whole
from lmu.layers._call import step_by_call
from lmu.layers._checks import (
    check_activation,
    check_device,
    check_dtype,
    check_flag,
    check_input,
    check_pair,
    check_probability,
    check_sequence,
    check_sequences,
    check_size,
    check_state,
)
from lmu.layers._legendre import LegendreModule, initialize
from lmu.layers._modules import is_hooked, is_simple, name_of, reset_modules
from lmu.layers._ragged import Ragged, align_right, last_step, unpack
from lmu.layers._sequences import in_pieces
from lmu.layers._stateful import Asked, activate
from lmu.layers._time import WHOLE, Time
from lmu.ops import (
    READOUT_METHODS,
    MethodChoice,
    Problem,
    explain_memory,
    explain_readout,
    final_state,
    memory,
    memory_step,
    readout,
)
from lmu.ops._modes import compute_dtype, is_transformed, memory_dtype, no_autocast, widen
from lmu.ops.system import channels
from lmu.theory import apply_powers
from lmu.theory.rounding import narrow

State = tuple[Tensor, Tensor]
Started = tuple[Tensor | None, Tensor | None]  # h and m before the first step; None is zero
Lengths = Tensor | Sequence[int] | None


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
        seq_len: Length of the sequences that are expected, of which the impulse response is kept.
            A hint, which may be left out: any length runs and gives the right answer.
        theta: Length of the memory's window in time steps; or a sequence with that of each channel.
        memory_channels: Number of memories, each with an input ``u`` of its own.
        learn_a: Train ``Ad``, the discrete state matrix.
        learn_b: Train ``Bd``, the discrete input vector.
        learn_theta: Train the length of the window, of each channel where theta is a sequence, as
            the parameter ``log_theta``: it stays positive and, with Euler's method, stable.
        input_to_hidden: Let the hidden units read the input too, and not only the memory.
        encode_input: False hands the input to the memory as it is, without ``W_u``; there must be
            as many memory channels as input features.
        encoder_activation: What is applied to u, or None; ``"auto"`` is the relu of an encoded
            input, and nothing with ``encode_input=False``.
        dropout: Probability with which each number of the input is dropped in training, for all
            that reads it, anew at each step.
        initializers: By names of parameters, functions that fill them in place, such as
            ``{"W_u.weight": nn.init.ones_}``.
        return_sequences: Give the hidden states of all steps. False gives the last one, by a single
            matrix product: far quicker, and what sequence classification wants.
        method: How all steps are computed, ``"fft"``, ``"chunked"`` or ``"states"``, or by kernels
            for CUDA, ``"triton"``; ``"auto"`` chooses one of the former, see
            :func:`lmu.ops.choose_readout`.
        causal: Let no input touch an output before it. By FFT one that is NaN or huge spoils all
            earlier outputs of its sequence, and NaN those of its chunk by chunks: True computes in
            chunks, and gives NaN from the first input on that is not finite.
        discretizer: ``"zoh"``, ``"euler"`` or ``"bilinear"``; ``"euler-unchecked"`` is Euler's also
            where it amplifies noise, as imported models may.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Parameters are ``W_u`` (``nn.Linear(input_size, memory_channels)``) and ``W_h``
    (``nn.Linear(memory_channels * memory_size + input_size, hidden_size)``, the memory's columns
    first, channel after channel).

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A size is below 1, ``theta`` is not positive and finite, the discretizer is
            unknown, or it is Euler's and would amplify noise for this ``theta``.

    Source: Chilkuri & Eliasmith, ICML 2021, equations 18 to 20, 25 and 26.
    """

    causal = False  # of layers that were pickled before there was a choice
    with_state: ClassVar[dict[str, Any]] = {"return_state": True}
    _time: Time = WHOLE  # which lmu.distributed replaces

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        memory_size: int,
        seq_len: int | None = None,
        theta: float | Sequence[float] | None = None,
        *,
        memory_channels: int = 1,
        learn_a: bool = False,
        learn_b: bool = False,
        learn_theta: bool = False,
        input_to_hidden: bool = True,
        encode_input: bool = True,
        encoder_activation: Callable[[Tensor], Tensor] | Literal["auto"] | None = "auto",
        dropout: float = 0.0,
        initializers: Mapping[str, Callable[[Tensor], Any]] | None = None,
        return_sequences: bool = True,
        method: str = "auto",
        causal: bool = False,
        discretizer: str = "zoh",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if theta is None:
            raise TypeError(
                "theta must be a number of time steps, got None: "
                "LMUFFT(input_size, hidden_size, memory_size, theta=...)"
            )
        super().__init__(
            memory_size, theta, learn_a, learn_b, learn_theta, discretizer, memory_channels
        )
        check_dtype(dtype)
        check_device(device)
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.seq_len = None if seq_len is None else check_size("seq_len", seq_len)
        self.return_sequences = check_flag("return_sequences", return_sequences)
        if not isinstance(method, str) or method not in {"auto", *READOUT_METHODS}:
            raise ValueError(
                f"method must be 'auto' or one of {list(READOUT_METHODS)}, got {method!r}"
            )
        self.method, self.causal = method, check_flag("causal", causal)
        if causal and method not in {"auto", "chunked"}:
            raise ValueError(
                f"method {method!r} lets inputs touch earlier outputs: with causal=True choose "
                "'auto' or 'chunked'"
            )
        self.input_to_hidden = check_flag("input_to_hidden", input_to_hidden)
        self.encode_input = check_flag("encode_input", encode_input)
        if not encode_input and memory_channels != input_size:
            raise ValueError(
                "encode_input=False hands the input to the memory as it is, so that there must be "
                f"input_size={input_size} memory_channels, got {memory_channels}"
            )
        if encoder_activation == "auto":
            encoder_activation = torch.relu if encode_input else None
        self.encoder_activation = check_activation(encoder_activation)
        self._asked = Asked(memory_channels)
        self._refuse_state()
        self.dropout = check_probability("dropout", dropout)
        self.initializers = initializers
        factory = {"device": device, "dtype": dtype}
        self.W_u: nn.Linear  # None without encode_input; not so in the types, for all the others
        self.register_module("W_u", None)
        if encode_input:
            self.W_u = nn.Linear(input_size, memory_channels, **factory)
        self._state_size = memory_channels * memory_size
        read = self._state_size + input_size * input_to_hidden
        self.W_h = nn.Linear(read, hidden_size, **factory)
        self._add_dynamics(factory)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew, as ``nn.Linear`` does, but with an encoder that is not dead.

        A relu that is never positive learns nothing, and a quarter of all draws would give one for
        inputs such as pixels, which are not negative. So each row of ``W_u`` is given the sign with
        which its weights sum to a positive number, and ``b_u`` is made positive.
        """
        reset_modules(self.encoder_activation)
        if self.W_u is not None:
            self.W_u.reset_parameters()
            with torch.no_grad():
                total = self.W_u.weight.sum(dim=1, keepdim=True)
                self.W_u.weight.mul_(torch.where(total < 0, -1.0, 1.0))
                self.W_u.bias.abs_()
        self.W_h.reset_parameters()
        self._reset_dynamics()
        initialize(self, self.initializers)

    def extra_repr(self) -> str:
        """The arguments that the layer was built with."""
        text = (
            f"input_size={self.input_size}, hidden_size={self.hidden_size}, "
            f"seq_len={self.seq_len}, {self._describe()}"
        )
        for name in ("input_to_hidden", "encode_input", "return_sequences"):
            text += "" if getattr(self, name) else f", {name}=False"
        text += f", method={self.method!r}" if self.method != "auto" else ""
        text += ", causal=True" if self.causal else ""
        if self.encoder_activation is not torch.relu:
            name = getattr(self.encoder_activation, "__name__", repr(self.encoder_activation))
            text += f", encoder_activation={name}"
        return text + (f", dropout={self.dropout}" if self.dropout else "")

    @overload
    def forward(
        self,
        x: Tensor | PackedSequence,
        state: State | None = None,
        *,
        lengths: Lengths = None,
        resets: Tensor | None = None,
        return_state: Literal[False] = False,
        return_sequences: bool | None = None,
    ) -> tuple[Any, Tensor]: ...
    @overload
    def forward(
        self,
        x: Tensor | PackedSequence,
        state: State | None = None,
        *,
        lengths: Lengths = None,
        resets: Tensor | None = None,
        return_state: Literal[True],
        return_sequences: bool | None = None,
    ) -> tuple[Any, State]: ...
    def forward(
        self,
        x: Tensor | PackedSequence,
        state: State | None = None,
        *,
        lengths: Lengths = None,
        resets: Tensor | None = None,
        return_state: bool = False,
        return_sequences: bool | None = None,
    ) -> tuple[Any, Tensor | State]:
        """Run over a sequence.

        Args:
            x: Input (batch, time, input_size), of any length; or a ``PackedSequence``.
            state: ``(h_0, m_0)`` before the first step, (batch, hidden_size) and (batch,
                memory_channels * memory_size), as ``return_state`` gives it, or of one sequence for
                all; zeros if None. Only ``m_0`` matters: nothing is fed back from the hidden units.
            lengths: Number of steps of each sequence (batch,); all if None. What lies beyond is
                padding, and has no influence on anything; without a step the state stays as it is.
            resets: Where a sequence starts anew (batch, time): True at the first step that knows
                nothing of those before, such as one after an episode's end.
            return_state: Give the whole state in the second place, to go on with the sequence.
            return_sequences: Give the hidden states of all steps, or of the last alone; as the
                layer was built if None.

        Returns:
            The hidden states of all steps (batch, time, hidden_size), zero in padding, or packed as
            the input was; or with ``return_sequences=False`` the last one (batch, hidden_size). And
            the last hidden state
            ``h_n`` (batch, hidden_size), or with ``return_state`` the pair ``(h_n, m_n)`` with
            ``m_n`` (batch, memory_channels * memory_size), which is at least float32.

        Raises:
            TypeError: A dtype is not the layer's (unless under autocast).
            ValueError: A shape or device does not fit, or a length is not within 0 and time.
        """
        output, after = self.run(x, state, lengths, resets, return_sequences)
        return output, after if return_state else after[0]

    def run(
        self,
        x: Tensor | PackedSequence,
        state: State | None = None,
        lengths: Lengths = None,
        resets: Tensor | None = None,
        return_sequences: bool | None = None,
    ) -> tuple[Any, State]:
        """As :meth:`forward` with ``return_state=True``: what all layers have in common."""
        every = check_sequences(self.return_sequences, return_sequences)
        return in_pieces(
            lambda x, state, lengths: self._run(x, state, lengths, every),
            x,
            state,
            lengths,
            resets,
        )

    def _run(
        self, x: Tensor | PackedSequence, state: State | None, lengths: Lengths, every: bool
    ) -> tuple[Any, State]:
        signal, ragged = unpack(x, lengths)
        self._follow(signal)
        check_sequence(signal, self.input_size, self._like())
        self._refuse_state()
        before = self._checked_state(signal.shape[0], state)
        m_0 = before[1]
        if self.dropout:
            signal = F.dropout(signal, self.dropout, self.training)
        u = self._encode(signal)
        if ragged is not None:
            output, h_n, m_n = self._run_ragged(u, signal, before, ragged, every)
        elif every:
            m_0 = self._time.start(u, self._system(), m_0)
            output, m_n = self._all_outputs(u, signal, m_0)
            # A copy: a kept state must not keep the whole sequence.
            h_n, m_n = self._time.last(output[:, -1].clone(), m_n)
        else:
            m_n = self._time.final(u, self._system(), m_0, self.seq_len)
            m_n = self._spoil(m_n, u)
            m_n, x_n = self._time.last(m_n, signal[:, -1])
            output = h_n = self._read_out(m_n, x_n)
        return output, (h_n, m_n.flatten(1))

    def _run_ragged(
        self, u: Tensor, x: Tensor, before: Started, ragged: Ragged, every: bool
    ) -> tuple[Any, Tensor, Tensor]:
        """Outputs, last hidden and last memory state of sequences of several lengths."""
        if self._time is not WHOLE:
            raise ValueError(
                "lengths and packed sequences cannot be spread over processes: pad all sequences "
                "to one length and drop lengths"
            )
        steps, system = ragged.lengths, self._system()
        h_0, m_0 = before
        # Without input the memory stays at zero: all sequences may as well end together.
        m_n = self._spoil(self._final(align_right(u, steps), None), u)
        if m_0 is not None:
            each = channels(self.memory_channels, widen(system.Ad), widen(system.Bd), None)
            free = [
                apply_powers(A, widen(m).mT, steps, x.shape[1]).mT
                for m, (A, _, _) in zip(m_0.unbind(1), each, strict=True)
            ]
            m_n = (m_n + torch.stack(free, dim=1)).to(m_0.dtype)
        if not every:
            h_n = ragged.ended(self._read_out(m_n, last_step(x, steps)), h_0)
            return h_n, h_n, m_n
        output = self._all_outputs(u, x, m_0)[0]
        output = torch.where(ragged.inside, output, output.new_zeros(()))
        return ragged.pack(output), ragged.ended(last_step(output, steps), h_0), m_n

    def _encode(self, x: Tensor) -> Tensor:
        u = x if self.W_u is None else self.W_u(x)
        # An activation that works in place must not write to the caller's input.
        return activate(self.encoder_activation, u.clone() if u is x else u)

    def _refuse_state(self) -> None:
        if self._asked(self.encoder_activation):
            raise ValueError(
                "encoder_activation has a state, which must see one step after another: use "
                "LMU(hidden_to_memory=False, encoder_activation=...)"
            )

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
        self._follow(x)
        check_input(x, ("batch",), self.input_size, self._like())
        if is_hooked(self):
            return step_by_call(self, x, state)
        x = F.dropout(x, self.dropout, self.training) if self.dropout else x
        u = self._encode(x)
        _, m = self._checked_state(x.shape[0], state)
        dtype, system = compute_dtype(u.dtype), self._system()
        with no_autocast(x.device):
            if m is None:
                m = u.new_zeros(u.shape[0], self.memory_channels, self.memory_size, dtype=dtype)
            m_n = memory_step(u.to(dtype), m, system.increment(dtype), system.Bd.to(dtype))
        h = self._read_out(m_n, x)
        return h, (h, m_n.flatten(1))

    def _final(self, u: Tensor, m_0: Tensor | None) -> Tensor:
        """The last memory state (batch, channels, order)."""
        return final_state(u, self._system(), m_0, self.seq_len)

    def _all_outputs(self, u: Tensor, x: Tensor, m_0: Tensor | None) -> tuple[Tensor, Tensor]:
        """Hidden units of all steps and the last memory state (batch, channels, order)."""
        if self.causal:
            finite = u.isfinite()
            output, m_n = self._outputs(torch.where(finite, u, u.new_zeros(())), x, m_0)
            spoilt = finite.all(2, keepdim=True).logical_not().cumsum(1) > 0
            return output.masked_fill(spoilt, torch.nan), m_n.masked_fill(spoilt[:, -1:], torch.nan)
        return self._outputs(u, x, m_0)

    def _spoil(self, m_n: Tensor, u: Tensor) -> Tensor:
        """With ``causal`` the memory of a sequence is NaN after an input that is not finite."""
        if not self.causal:
            return m_n
        finite = u.isfinite().flatten(1).all(1).view(-1, 1, 1)
        return torch.where(finite, m_n, torch.nan)

    def _outputs(self, u: Tensor, x: Tensor, m_0: Tensor | None) -> tuple[Tensor, Tensor]:
        system, (batch, length, _) = self._system(), x.shape
        Ad, Bd = widen(system.Ad), widen(system.Bd)
        method = self._choose(length, batch, m_0 is not None)
        H = None
        if method not in {"chunked", "triton"}:
            H = system.response(length, compute_dtype(u.dtype), self.seq_len)
        if not is_simple(self.W_h):
            of_memory = "chunked" if self.causal else "auto"
            m, m_n = memory(u, Ad, Bd, m_0, method=of_memory, H=H)
            return self._read_out(m, x), m_n
        if not self.input_to_hidden:
            x = x[..., :0]
        W_m, W_x = self.W_h.weight.split((self._state_size, x.shape[2]), dim=1)
        output, m_n = readout(u, x, Ad, Bd, W_m, W_x, self.W_h.bias, m_0, method=method, H=H)
        return output.to(u.dtype), m_n

    @checked(length=whole(1), batch_size=whole(0), initial_state=flag)
    def explain(
        self, length: int, batch_size: int = 1, *, initial_state: bool = False
    ) -> MethodChoice:
        """Say how the outputs of so many steps would be computed, why, and at what cost.

        Args:
            length: Number of time steps.
            batch_size: Number of sequences.
            initial_state: Whether the call is given a state.
        """
        if not self.return_sequences:
            work = self._work(length, batch_size)
            return explain_memory(work, all_states=False, initial_state=initial_state)
        return self._choice(length, batch_size, initial_state)

    def _choice(self, length: int, batch_size: int, initial_state: bool) -> MethodChoice:
        """How the outputs of all steps are computed."""
        work = self._work(length, batch_size)
        if not is_simple(self.W_h):
            if self.method not in {"auto", "states"}:
                others = "'auto'" if self.causal else "'auto' or 'states'"
                raise ValueError(
                    f"method {self.method!r} reads the weight of W_h, which is a "
                    f"{name_of(self.W_h)} that must be called: choose {others}"
                )
            reason = f"W_h is a {name_of(self.W_h)}: it is called on all states"
            return MethodChoice("states", reason, READOUT_METHODS["states"].cost(work))
        if self.method != "auto":
            cost = READOUT_METHODS[self.method].cost(work)
            return MethodChoice(self.method, "asked for by name", cost)
        if self.causal:
            reason = "causal=True: no input touches an output before it"
            return MethodChoice("chunked", reason, READOUT_METHODS["chunked"].cost(work))
        return explain_readout(work, initial_state=initial_state, transformed=is_transformed())

    def _choose(self, length: int, batch: int, initial_state: bool) -> str:
        # Whatever the length where a compiler looks on, which had better not look at that.
        if not is_simple(self.W_h):
            if self.method in {"auto", "states"}:
                return "states"
        elif self.method != "auto":
            return self.method
        elif torch.compiler.is_compiling():
            return "chunked"
        return self._choice(length, batch, initial_state).method

    def _work(self, length: int, batch_size: int) -> Problem:
        return Problem(
            length=length,
            order=self.memory_size,
            rows=self.hidden_size,
            batch=batch_size,
            channels=self.memory_channels,
            device=self._like().device.type,
        )

    def _read_out(self, m: Tensor, x: Tensor) -> Tensor:
        """Hidden units, from the memory (..., channels, order) and the input (..., input)."""
        m = narrow(m.flatten(-2), x.dtype)
        return torch.relu(self.W_h(torch.cat([m, x], dim=-1) if self.input_to_hidden else m))

    def _checked_state(self, batch: int, state: State | None) -> Started:
        """``h`` and ``m`` (batch, channels, order), in the dtype that they are computed in."""
        if state is None:
            return None, None
        like = self._like()
        dtype = compute_dtype(like.dtype)
        h, m = check_pair(state, ": call the layer with return_state=True to get one")
        h = check_state("h", h, (batch, self.hidden_size), like)
        m = check_state("m", m, (batch, self._state_size), like)
        shape = self.memory_channels, self.memory_size
        return h.to(dtype), m.to(memory_dtype(m, dtype)).unflatten(1, shape)

    def _like(self) -> Tensor:
        # An adapter or a quantized module may have something else of this name.
        weight: Any = getattr(self.W_h, "weight", None)
        fits = isinstance(weight, Tensor) and weight.is_floating_point()
        # One that is loaded in a call only tells nothing before.
        away = fits and weight.is_meta and is_hooked(self.W_h)
        return weight if fits and not away else self._anchor
