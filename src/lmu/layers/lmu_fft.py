"""The Legendre Memory Unit without feedback, evaluated for all time steps at once."""

from collections.abc import Callable, Mapping, Sequence
from types import BuiltinFunctionType
from typing import Any, ClassVar, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lmu._arguments import checked, flag, whole
from lmu.layers._base import MemoryLayer, initialize
from lmu.layers._call import step_by_call
from lmu.layers._checks import (
    check_encoder_activation,
    check_flag,
    check_input,
    check_pair,
    check_probability,
    check_sequence,
    check_sequences,
    check_size,
    check_state,
)
from lmu.layers._fused import fused_last, fused_outputs
from lmu.layers._modules import (
    is_hooked,
    is_simple,
    name_of,
    name_of_function,
    read,
    reset_modules,
)
from lmu.layers._native_step import step_fft
from lmu.layers._sequences import Ragged, in_pieces, last_step, unpack
from lmu.layers._stateful import StatefulCheck
from lmu.layers.memory import LegendreMemory, Lengths
from lmu.ops import READOUT_METHODS, MethodChoice, Problem, explain_memory, explain_readout
from lmu.ops._activations import apply_rows, check_activation
from lmu.ops._modes import compute_dtype, is_transformed
from lmu.theory.rounding import narrow

State = tuple[Tensor, Tensor]
Started = tuple[Tensor | None, Tensor | None]  # h and m before the first step; None is zero


class LMUFFT(MemoryLayer):
    r"""The parallel Legendre Memory Unit: its memory is a linear filter of the whole sequence.

    .. math::
        u_t &= \mathrm{relu}(W_u x_t + b_u) \\
        m_t &= \bar A m_{t-1} + \bar B u_t \\
        h_t &= \mathrm{relu}(W_h [m_t; x_t] + b_h)

    ``memory`` is its :class:`LegendreMemory`.

    Args:
        input_size: Number of input features.
        hidden_size: Number of hidden units.
        memory_size: Order d of the Legendre memory.
        seq_len: Expected length of sequences, of which the impulse response is computed once. A
            hint: any length runs and gives the right answer.
        theta: Length of the memory's window in time steps; or a sequence, one length per channel.
        memory_channels: Number of memories, each with an input ``u`` of its own.
        learn_a: Train the memory's ``Ad``.
        learn_b: Train the memory's ``Bd``.
        learn_theta: Train the length of the window.
        input_to_hidden: Let the hidden units read the input too, and not only the memory.
        encode_input: False hands the input to the memory as it is, without ``W_u``; there must be
            as many memory channels as input features.
        encoder_activation: What is applied to u: a name as of ``hidden_activation``, a function, or
            None; ``"auto"`` is the relu of an encoded input, and nothing with
            ``encode_input=False``.
        hidden_activation: What is applied to the hidden units: ``"relu"``, ``"tanh"``,
            ``"sigmoid"``, ``"identity"``, ``"gelu"``, or a function.
        dropout: Probability with which each number of the input is dropped in training, for the
            memory and the hidden units alike, independently at each step.
        initializers: By names of parameters, functions that fill them in place, such as
            ``{"W_u.weight": nn.init.ones_}``.
        return_sequences: Give the hidden states of all steps. False gives the last one, by a single
            matrix product, as sequence classification needs it.
        method: How all steps are computed, ``"fft"``, ``"chunked"`` or ``"states"``, or by kernels
            for CUDA, ``"triton"``; ``"auto"`` chooses one of the first three, see
            :func:`lmu.ops.choose_readout`.
        causal: Let no input touch an output before it. By FFT one that is NaN or huge spoils all
            earlier outputs of its sequence, and NaN those of its chunk by chunks: True computes in
            chunks, and gives NaN from the first input on that is not finite.
        discretizer: Of the memory: ``"zoh"``, ``"euler"``, ``"bilinear"``, ``"euler-unchecked"`` or
            None.
        system: Another system than Legendre's, see :class:`LegendreMemory`.
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

    with_state: ClassVar[dict[str, Any]] = {"return_state": True}

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
        encoder_activation: Callable[[Tensor], Tensor] | str | None = "auto",
        hidden_activation: Callable[[Tensor], Tensor] | str = "relu",
        dropout: float = 0.0,
        initializers: Mapping[str, Callable[[Tensor], Any]] | None = None,
        return_sequences: bool = True,
        method: str = "auto",
        causal: bool = False,
        discretizer: str | None = "zoh",
        system: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if theta is None:
            raise TypeError(
                "theta must be a number of time steps, got None: "
                "LMUFFT(input_size, hidden_size, memory_size, theta=...)"
            )
        super().__init__()
        memory_channels = check_size("memory_channels", memory_channels)
        self.method, self.causal = self._checked_method(method, causal), causal
        self._hold(
            LegendreMemory(
                memory_size,
                theta,
                memory_channels,
                learn_a=learn_a,
                learn_b=learn_b,
                learn_theta=learn_theta,
                discretizer=discretizer,
                system=system,
                method="chunked" if causal else "auto",
                device=device,
                dtype=dtype,
            )
        )
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.seq_len = None if seq_len is None else check_size("seq_len", seq_len)
        self.memory.seq_len = self.seq_len
        self.return_sequences = check_flag("return_sequences", return_sequences)
        self.input_to_hidden = check_flag("input_to_hidden", input_to_hidden)
        self.encode_input = check_flag("encode_input", encode_input)
        if not encode_input and memory_channels != input_size:
            raise ValueError(
                "encode_input=False hands the input to the memory as it is, so that there must be "
                f"input_size={input_size} memory_channels, got {memory_channels}"
            )
        if encoder_activation == "auto":
            encoder_activation = torch.relu if encode_input else None
        self.encoder_activation = check_encoder_activation(encoder_activation)
        self.hidden_activation = check_activation(hidden_activation, "hidden_activation")
        self._stateful_checks = StatefulCheck(memory_channels), StatefulCheck(hidden_size)
        self._refuse_stateful()
        self.dropout = check_probability("dropout", dropout)
        self.initializers = initializers
        factory = {"device": device, "dtype": dtype}
        self.W_u: nn.Linear | None
        self.register_module("W_u", None)
        if encode_input:
            self.W_u = nn.Linear(input_size, memory_channels, **factory)
        read = self._state_size + input_size * input_to_hidden
        self.W_h = nn.Linear(read, hidden_size, **factory)
        self._set_kind()
        self.reset_parameters()

    @staticmethod
    def _checked_method(method: str, causal: bool) -> str:
        if not isinstance(method, str) or method not in {"auto", *READOUT_METHODS}:
            raise ValueError(
                f"method must be 'auto' or one of {list(READOUT_METHODS)}, got {method!r}"
            )
        if check_flag("causal", causal) and method not in {"auto", "chunked"}:
            raise ValueError(
                f"method {method!r} lets inputs touch earlier outputs: with causal=True choose "
                "'auto' or 'chunked'"
            )
        return method

    def reset_parameters(self) -> None:
        """Draw all parameters again, as ``nn.Linear`` does, but with an encoder that is not dead.

        A relu that is never positive learns nothing, and a quarter of all draws would give one for
        inputs such as pixels, which are not negative. So each row of ``W_u`` is given the sign with
        which its weights sum to a positive number, and ``b_u`` is made positive.
        """
        reset_modules(self.encoder_activation, self.hidden_activation)
        if self.W_u is not None:
            self.W_u.reset_parameters()
            with torch.no_grad():
                total = self.W_u.weight.sum(dim=1, keepdim=True)
                self.W_u.weight.mul_(torch.where(total < 0, -1.0, 1.0))
                self.W_u.bias.abs_()
        self.W_h.reset_parameters()
        self.memory.reset_parameters()
        initialize(self, self.initializers)

    def extra_repr(self) -> str:
        """The arguments that differ from their defaults, but for those of the memory."""
        text = f"input_size={self.input_size}, hidden_size={self.hidden_size}"
        text += "" if self.seq_len is None else f", seq_len={self.seq_len}"
        for name in ("input_to_hidden", "encode_input", "return_sequences"):
            text += "" if getattr(self, name) else f", {name}=False"
        text += f", method={self.method!r}" if self.method != "auto" else ""
        text += ", causal=True" if self.causal else ""
        if self.encoder_activation is not torch.relu:
            text += f", encoder_activation={name_of_function(self.encoder_activation)}"
        if self.hidden_activation != "relu":
            text += f", hidden_activation={name_of_function(self.hidden_activation)}"
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
            resets: True (batch, time) at steps before which the state is set to zero, such as the
                first of an episode.
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
        every = check_sequences(self.return_sequences, return_sequences)
        output, after = in_pieces(
            lambda x, state, lengths: self._run(x, state, lengths, every),
            x,
            state,
            lengths,
            resets,
        )
        return output, after if return_state else after[0]

    def _run(
        self, x: Tensor | PackedSequence, state: State | None, lengths: Lengths, every: bool
    ) -> tuple[Any, State]:
        signal, ragged = unpack(x, lengths)
        like = self._prepare(signal)
        check_sequence(signal, self.input_size, like)
        self._refuse_stateful()
        h_0, m_0 = self._checked_state(signal.shape[0], state, like)
        if self.dropout:
            signal = F.dropout(signal, self.dropout, self.training)
        last, fused = self.memory._of_last_step, None
        if ragged is None:
            fused = (fused_outputs if every else fused_last)(self, signal, m_0)
        if fused is not None:
            output, m_n = fused
            h_n = output[:, -1].clone() if every else output
            return output, (h_n, m_n.flatten(1))
        u = self._encode(signal)
        if every:
            output, m_n = self._all_outputs(u, signal, m_0)
            if ragged is None:
                # A copy: a kept state must not keep the whole sequence.
                h_n, m_n = last(output[:, -1].clone(), m_n)
            else:
                output = torch.where(ragged.inside, output, output.new_zeros(()))
                h_n = ragged.ended(last_step(output, ragged.lengths), h_0)
                output, m_n = ragged.pack(output), self._last_memory(u, m_0, ragged)
        else:
            m_n = self._last_memory(u, m_0, ragged)
            if ragged is None:
                m_n, x_n = last(m_n, signal[:, -1])
                h_n = self._read_out(m_n, x_n)
            else:
                h_n = self._read_out(m_n, last_step(signal, ragged.lengths))
                h_n = ragged.ended(h_n, h_0)
            output = h_n
        return output, (h_n, m_n.flatten(1))

    def _encode(self, x: Tensor) -> Tensor:
        u = x if self.W_u is None else self.W_u(x)
        activation = self.encoder_activation
        if activation is None:
            return u
        u = u.clone() if u is x else u  # one in place must not write to the caller's input
        return activation(u) if activation is torch.relu else apply_rows(activation, u)

    def _refuse_stateful(self) -> None:
        for i, name in enumerate(("encoder_activation", "hidden_activation")):
            function = getattr(self, name)
            if isinstance(function, (str, BuiltinFunctionType)):
                continue
            if self._stateful_checks[i](function):
                raise ValueError(
                    f"{name} has a state, which must see one step after another: use "
                    f"LMU(hidden_to_memory=False, {name}=...)"
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
        like = self._prepare(x)
        check_input(x, ("batch",), self.input_size, like)
        if is_hooked(self) or self.memory._own_hooks:
            return step_by_call(self, x, state)
        x = F.dropout(x, self.dropout, self.training) if self.dropout else x
        _, m = self._checked_state(x.shape[0], state, like)
        m = self.memory._zeros(x) if m is None else m
        if is_simple(self.W_h) and (self.W_u is None or is_simple(self.W_u)):
            after = step_fft(self, x, m)
            if after is not None:
                h, m_n, done = after
                h = h if done else apply_rows(self.hidden_activation, h)
                return h, (h, m_n.flatten(1))
        m_n = self.memory._step(self._encode(x), m)
        h = self._read_out(m_n, x)
        return h, (h, m_n.flatten(1))

    def _last_memory(self, u: Tensor, m_0: Tensor | None, ragged: Ragged | None) -> Tensor:
        """The last memory state (batch, channels, order); with ``causal`` NaN after a bad input."""
        if self.memory._own_hooks:
            lengths = None if ragged is None else ragged.lengths
            m_n = self._call_memory(u, m_0, lengths)[1]
        else:
            m_n = self.memory._last(u, m_0, ragged)
        if not self.causal:
            return m_n
        finite = u.isfinite().flatten(1).all(1).view(-1, 1, 1)
        return torch.where(finite, m_n, torch.nan)

    def _call_memory(
        self, u: Tensor, m_0: Tensor | None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The states by a call of the memory, for its hooks; shapes are those of ``_states``."""
        shape = self.memory.channels, self.memory.memory_size
        m, m_n = self.memory(u, None if m_0 is None else m_0.flatten(1), lengths)
        return m.unflatten(2, shape), m_n.unflatten(1, shape)

    def _all_outputs(self, u: Tensor, x: Tensor, m_0: Tensor | None) -> tuple[Tensor, Tensor]:
        """Hidden units of all steps and the last memory state (batch, channels, order)."""
        if self.causal:
            finite = u.isfinite()
            output, m_n = self._outputs(torch.where(finite, u, u.new_zeros(())), x, m_0)
            spoilt = finite.all(2, keepdim=True).logical_not().cumsum(1) > 0
            return output.masked_fill(spoilt, torch.nan), m_n.masked_fill(spoilt[:, -1:], torch.nan)
        return self._outputs(u, x, m_0)

    def _outputs(self, u: Tensor, x: Tensor, m_0: Tensor | None) -> tuple[Tensor, Tensor]:
        if called := self._part_that_is_called():
            self._check_method_of_part_that_is_called(called)
            hooked = self.memory._own_hooks
            m, m_n = self._call_memory(u, m_0) if hooked else self.memory._states(u, m_0)
            return self._read_out(m, x), m_n
        if not self.input_to_hidden:
            x = x[..., :0]
        if self.method != "auto":  # which may have been set since
            self._checked_method(self.method, self.causal)
        W_m, W_x = self.W_h.weight.split((self._state_size, x.shape[2]), dim=1)
        y, m_n = self.memory._readout(
            u, x, W_m, W_x, self.W_h.bias, m_0, self._method, self.hidden_activation
        )
        return y.to(u.dtype), m_n

    @property
    def _method(self) -> str:
        return "chunked" if self.causal else self.method

    @checked(length=whole(1), batch_size=whole(0), initial_state=flag)
    def explain(
        self, length: int, batch_size: int = 1, *, initial_state: bool = False
    ) -> MethodChoice:
        """Say how the outputs of ``length`` steps would be computed, why, and at what cost.

        Args:
            length: Number of time steps.
            batch_size: Number of sequences.
            initial_state: Whether the call is given a state.
        """
        if not self.return_sequences:
            problem = self._problem(length, batch_size)
            return explain_memory(problem, all_states=False, initial_state=initial_state)
        return self._choice(length, batch_size, initial_state)

    def _choice(self, length: int, batch_size: int, initial_state: bool) -> MethodChoice:
        """The method for the outputs of all steps, with its reason."""
        problem = self._problem(length, batch_size)
        method, reason = self.method, "asked for by name"
        if called := self._part_that_is_called():
            self._check_method_of_part_that_is_called(called)
            method, reason = "states", f"{called}: it is called, which takes all states"
        elif method == "auto" and self.causal:
            method, reason = "chunked", "causal=True: no input touches an output before it"
        elif method == "auto":
            transformed = is_transformed()
            return explain_readout(problem, initial_state=initial_state, transformed=transformed)
        return MethodChoice(method, reason, READOUT_METHODS[method].cost(problem))

    def _part_that_is_called(self) -> str | None:
        """A part that must be called, so that all states are formed; None if there is none."""
        if self.memory._own_hooks:
            return f"memory is a {name_of(self.memory)}"
        return None if is_simple(self.W_h) else f"W_h is a {name_of(self.W_h)}"

    def _check_method_of_part_that_is_called(self, called: str) -> None:
        if self.method not in {"auto", "states"}:
            others = "'auto'" if self.causal else "'auto' or 'states'"
            raise ValueError(
                f"method {self.method!r} reads weights, and {called} that must be called: "
                f"choose {others}"
            )

    def _problem(self, length: int, batch_size: int) -> Problem:
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
        z = self.W_h(torch.cat([m, x], dim=-1) if self.input_to_hidden else m)
        return apply_rows(self.hidden_activation, z)

    def _checked_state(
        self, batch: int, state: State | None, like: Tensor | None = None
    ) -> Started:
        """``h`` and ``m`` (batch, channels, order), in the dtype that they are computed in."""
        if state is None:
            return None, None
        like = self._like() if like is None else like
        dtype = compute_dtype(like.dtype)
        h, m = check_pair(state, ": call the layer with return_state=True to get one")
        h = check_state("h", h, (batch, self.hidden_size), like)
        return h.to(dtype), self.memory._checked_memory(m, batch, like)

    def _like(self) -> Tensor:
        # An adapter or a quantized module may have something else of this name.
        weight: Any = read(self._modules["W_h"], "weight")
        fits = isinstance(weight, Tensor) and weight.is_floating_point()
        # A weight that hooks load during a call is on meta before it.
        away = fits and weight.is_meta and is_hooked(self.W_h)
        return weight if fits and not away else self.memory._anchor
