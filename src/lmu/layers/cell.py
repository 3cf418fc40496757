"""One step of the nonlinear Legendre Memory Unit."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmu.layers._base import MemoryLayer, initialize
from lmu.layers._checks import (
    check_cell_state,
    check_encoder_activation,
    check_flag,
    check_hidden_cell,
    check_input,
    check_pair,
    check_parts,
    check_probability,
    check_size,
    check_state,
)
from lmu.layers._hidden import RNN, CellAdapter, is_recurrent
from lmu.layers._modules import name_of_function, reset_modules
from lmu.layers._native_step import step_lmu
from lmu.layers._stateful import StatefulCheck
from lmu.layers.memory import LegendreMemory
from lmu.layers.state import State
from lmu.ops import LMUWeights
from lmu.ops._activations import apply_rows, check_activation
from lmu.ops._modes import compute_dtype, memory_dtype, no_autocast
from lmu.ops.lmu.loop import DefaultCell, Memory, run_lmu_step, run_steps
from lmu.theory.rounding import flush

Activation = Callable[[Tensor], Tensor]
HiddenCell = nn.Module | Literal["rnn"] | None


class LMUCell(MemoryLayer):
    r"""A single step of the Legendre Memory Unit, as ``nn.LSTMCell`` is of ``nn.LSTM``.

    .. math::
        u_t &= e_x x_t + e_h h_{t-1} + e_m m_{t-1} \\
        m_t &= \bar A m_{t-1} + \bar B u_t \\
        h_t &= \tanh(W_x x_t + W_h h_{t-1} + W_m m_t)

    ``memory`` is its :class:`LegendreMemory`.

    Args:
        input_size: Number of input features.
        hidden_size: Number of hidden units; None asks the hidden cell.
        memory_size: Order d of the Legendre memory.
        theta: Length of the memory's window in time steps; or a sequence, one length per channel.
        learn_a: Train the memory's ``Ad``.
        learn_b: Train the memory's ``Bd``.
        learn_theta: Train the length of the window.
        memory_channels: Number of memories, each with an input u of its own.
        hidden_cell: What reads the memory: ``"rnn"``, the equation above; None, which gives
            ``[m_t; x_t]`` itself as output; or a module, called with ``[m_t; x_t]`` alone
            (``nn.Linear``, ``nn.Sequential``) or, if its ``forward`` takes a state too, as
            ``nn.LSTMCell`` is. The output of one with a state is that state, or its first tensor.
        hidden_activation: In place of the equation's tanh: ``"tanh"``, ``"relu"``, ``"sigmoid"``,
            ``"identity"``, ``"gelu"``, or a function, which is called at each step. One without a
            bound, such as relu, may let the recurrence grow.
        hidden_to_memory: Feed the hidden state back into the memory. Without ``e_h`` the memory is
            linear in the input, and a sequence of it is evaluated at once.
        memory_to_memory: Feed the memory back into its input by ``e_m``.
        input_to_hidden: Let the hidden cell read the input too, and not only the memory.
        encode_input: False hands the input to the memory as it is, without ``e_x``; there must be
            as many memory channels as input features.
        encoder_activation: A function of u such as ``torch.tanh``, or a name as of
            ``hidden_activation``; linear if None.
        memory_bias: Add ``b_u`` to u.
        hidden_bias: Add ``b_h`` in the default hidden cell.
        dropout: Probability with which each number of the input is dropped in training, for the
            memory and the hidden units alike, independently at each step.
        recurrent_dropout: Probability with which a state is dropped where ``e_h`` and ``e_m`` feed
            it back, in training, the same states at all steps of a call.
        initializers: By names of parameters, functions that fill them in place, such as ``{"e_x":
            nn.init.ones_}``; what they do not name is drawn as usual.
        discretizer: Of the memory: ``"zoh"``, ``"euler"``, ``"bilinear"``, ``"euler-unchecked"`` or
            None.
        system: Another system than Legendre's, see :class:`LegendreMemory`.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Parameters are, with c memory channels, ``e_x`` (c, input_size), ``e_h`` (c, hidden_size),
    ``e_m`` (c, c * memory_size), ``W_x`` (hidden_size, input_size), ``W_h`` (hidden_size,
    hidden_size) and ``W_m`` (hidden_size, c * memory_size), channel after channel; ``b_u`` (c,) and
    ``b_h`` (hidden_size,) if asked for. A parameter that an argument leaves out is None.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A size is below 1, ``theta`` is not positive and finite, the discretizer is
            unknown, or it is Euler's and would amplify noise for this ``theta``.

    Source: Voelker et al., NeurIPS 2019, equations 4, 6 and 7.
    """

    hidden_cell: HiddenCell
    e_x: nn.Parameter | None  # None without encode_input
    e_h: nn.Parameter | None  # None without hidden_to_memory
    e_m: nn.Parameter | None  # None without memory_to_memory
    b_u: nn.Parameter | None  # None without memory_bias
    W_x: nn.Parameter | None  # None without input_to_hidden, and with another hidden cell
    W_h: nn.Parameter | None  # None with another hidden cell
    W_m: nn.Parameter | None  # None with another hidden cell
    b_h: nn.Parameter | None  # None without hidden_bias

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
        hidden_cell: HiddenCell = RNN,
        hidden_activation: Activation | str = "tanh",
        hidden_to_memory: bool = True,
        memory_to_memory: bool = True,
        input_to_hidden: bool = True,
        encode_input: bool = True,
        encoder_activation: Activation | str | None = None,
        memory_bias: bool = False,
        hidden_bias: bool = False,
        learn_theta: bool = False,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        initializers: Mapping[str, Callable[[Tensor], Any]] | None = None,
        discretizer: str | None = "zoh",
        system: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        memory_channels = check_size("memory_channels", memory_channels)
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
                device=device,
                dtype=dtype,
            )
        )
        self.input_size = check_size("input_size", input_size)
        self.hidden_to_memory = check_flag("hidden_to_memory", hidden_to_memory)
        self.memory_to_memory = check_flag("memory_to_memory", memory_to_memory)
        self.input_to_hidden = check_flag("input_to_hidden", input_to_hidden)
        self.encode_input = check_flag("encode_input", encode_input)
        self.memory_bias = check_flag("memory_bias", memory_bias)
        self.hidden_bias = check_flag("hidden_bias", hidden_bias)
        self.encoder_activation = check_encoder_activation(encoder_activation)
        self.dropout = check_probability("dropout", dropout)
        self.recurrent_dropout = check_probability("recurrent_dropout", recurrent_dropout)
        read = self._state_size + input_size * input_to_hidden
        self.hidden_size = check_hidden_cell(hidden_cell, hidden_size, read)
        self.hidden_cell = hidden_cell
        self.hidden_activation = check_activation(hidden_activation, "hidden_activation")
        self._recurrent = isinstance(hidden_cell, nn.Module) and is_recurrent(hidden_cell)
        self._stateful_checks = StatefulCheck(memory_channels), StatefulCheck(read)
        self.initializers = initializers
        self._check_connections()
        self._add_parameters({"device": device, "dtype": dtype})
        if isinstance(hidden_cell, nn.Module):
            check_parts(hidden_cell, self._like())
        self._reset_own_parameters()

    def _check_connections(self) -> None:
        if self.hidden_cell is None and self.hidden_to_memory:
            raise ValueError(
                "hidden_cell=None leaves no hidden state to feed back: pass hidden_to_memory=False"
            )
        if self.hidden_cell != RNN:
            if self.hidden_bias:
                raise ValueError("hidden_bias is of the default cell: give your own module a bias")
            if self.hidden_activation != "tanh":
                raise ValueError(
                    "hidden_activation is of the default cell: leave it out, and apply one in "
                    "your own module"
                )
        if not self.encode_input and self.memory_channels != self.input_size:
            raise ValueError(
                "encode_input=False hands the input to the memory as it is, so that there must be "
                f"input_size={self.input_size} memory_channels, got {self.memory_channels}"
            )
        if self.recurrent_dropout and not (self.hidden_to_memory or self.memory_to_memory):
            raise ValueError(
                "recurrent_dropout drops what is fed back into the memory, and nothing is: "
                "leave it out, or pass hidden_to_memory=True"
            )

    def _add_parameters(self, factory: dict[str, Any]) -> None:
        c, d, k, n = self.memory_channels, self._state_size, self.input_size, self.hidden_size
        own = self.hidden_cell == RNN
        for name, shape, needed in (
            ("e_x", (c, k), self.encode_input),
            ("e_h", (c, n), self.hidden_to_memory),
            ("e_m", (c, d), self.memory_to_memory),
            ("b_u", (c,), self.memory_bias),
            ("W_x", (n, k), own and self.input_to_hidden),
            ("W_h", (n, n), own),
            ("W_m", (n, d), own),
            ("b_h", (n,), self.hidden_bias),
        ):
            parameter = nn.Parameter(torch.empty(shape, **factory)) if needed else None
            self.register_parameter(name, parameter)
        self._set_kind()

    def reset_parameters(self) -> None:
        """Draw all parameters again: LeCun-uniform encoders, ``e_m`` zero, Xavier-normal kernels.

        Biases start at zero. A module as hidden cell draws its own; ``initializers`` come last.
        """
        reset_modules(self.hidden_cell, self.encoder_activation, self.hidden_activation)
        self._reset_own_parameters()

    def _reset_own_parameters(self) -> None:
        for encoder in (self.e_x, self.e_h):
            if encoder is not None:
                bound = math.sqrt(3 / encoder.shape[1])
                nn.init.uniform_(encoder, -bound, bound)
        for zero in (self.e_m, self.b_u, self.b_h):
            if zero is not None:
                nn.init.zeros_(zero)
        for kernel in (self.W_x, self.W_h, self.W_m):
            if kernel is not None:
                nn.init.xavier_normal_(kernel)
        self.memory.reset_parameters()
        initialize(self, self.initializers)

    def extra_repr(self) -> str:
        """The arguments that differ from their defaults, but for those of the memory."""
        text = f"input_size={self.input_size}, hidden_size={self.hidden_size}"
        for name in ("hidden_to_memory", "memory_to_memory", "input_to_hidden", "encode_input"):
            text += "" if getattr(self, name) else f", {name}=False"
        for name in ("memory_bias", "hidden_bias"):
            text += f", {name}=True" if getattr(self, name) else ""
        for name in ("dropout", "recurrent_dropout"):
            text += f", {name}={getattr(self, name)}" if getattr(self, name) else ""
        if self.encoder_activation is not None:
            text += f", encoder_activation={name_of_function(self.encoder_activation)}"
        if self.hidden_activation != "tanh":
            text += f", hidden_activation={name_of_function(self.hidden_activation)}"
        return text + (", hidden_cell=None" if self.hidden_cell is None else "")

    def forward(self, x: Tensor, state: State = None) -> tuple[Any, Tensor]:
        """Advance one time step.

        Args:
            x: Input (batch, input_size).
            state: ``(h, m)`` of the step before, (batch, hidden_size) and (batch, memory_channels *
                memory_size); zeros if None. With a recurrent ``hidden_cell``, ``h`` is its state.
                ``m`` may be float64, recommended for theta above a few thousand: the new one is
                then too.

        Returns:
            ``h`` (batch, hidden_size) in the layer's dtype, and ``m`` in that dtype but at
            least float32.

        Raises:
            TypeError: A dtype is not the layer's (unless under autocast).
            ValueError: A shape or device does not fit.
        """
        return self._step(x, state)[1]

    def _prepare(self, x: Any) -> Tensor:
        if self.memory._own_hooks and not self.memory._prune():
            raise ValueError(
                "a hook of the memory is never called: this layer advances the memory together "
                "with its hidden units. Register it with the layer"
            )
        return super()._prepare(x)

    def _like(self) -> Tensor:
        for parameter in (self.W_m, self.e_x, self.e_h, self.e_m):
            if parameter is not None:
                return parameter
        return self.memory._anchor

    @property
    def _is_published(self) -> bool:
        """True if the recurrence is the published one, up to its activation."""
        own = isinstance(self.hidden_cell, str)  # PyTorch 2.6 cannot trace "module == text"
        return own and self._linear_encoder and not self._drops

    @property
    def _linear_encoder(self) -> bool:
        return self.encoder_activation is None

    @property
    def _is_coupled(self) -> bool:
        """True if the memory's input depends on states so that it must go step by step."""
        if self._stateful:
            return True
        bent = self.memory_channels > 1 or not self._linear_encoder or self._drops
        return self.hidden_to_memory or (self.memory_to_memory and bent)

    @property
    def _stateful(self) -> bool:
        """True if an activation or a hidden cell has a state of its own."""
        cell = None if self._recurrent or isinstance(self.hidden_cell, str) else self.hidden_cell
        return self._stateful_checks[0](self.encoder_activation) or self._stateful_checks[1](cell)

    @property
    def _drops(self) -> bool:
        """True if states are dropped where they are fed back."""
        return self.recurrent_dropout > 0 and self.training

    def _weights(self, ones: bool = False) -> LMUWeights:
        """The weights in the dtype that the recurrence is computed in, None being zeros.

        With ``ones`` the biases are one more column of ``e_x`` and ``W_x``.
        """
        like, (c, k, n) = self._like(), (self.memory_channels, self.input_size, self.hidden_size)

        def given(weight, *shape):  # PyTorch 2.6 cannot trace a function annotated with "|"
            return like.new_zeros(shape) if weight is None else weight

        e_x = given(self.e_x, c, k) if self.encode_input else torch.eye(c).to(like)
        e_h, e_m = given(self.e_h, c, n), given(self.e_m, c, self._state_size)
        W_x = given(self.W_x, n, k)
        if ones:
            e_x = torch.cat([e_x, given(self.b_u, c)[:, None]], dim=1)
            W_x = torch.cat([W_x, given(self.b_h, n)[:, None]], dim=1)
        dtype = compute_dtype(like.dtype)
        E, Bd = self._system().joined(self.memory_channels, dtype)
        assert self.W_h is not None  # as the default cell, the only one that asks, has them
        assert self.W_m is not None
        weights = LMUWeights(e_x, e_h, e_m, W_x, self.W_h, self.W_m, E, Bd)
        return LMUWeights(*(w if w.dtype == dtype else w.to(dtype) for w in weights))

    @property
    def _biased(self) -> bool:
        return self.memory_bias or self.hidden_bias

    def _cell(self) -> DefaultCell | CellAdapter:
        """The hidden cell of the general recurrence."""
        if isinstance(self.hidden_cell, str):
            weights = self._weights(ones=True)
            return DefaultCell(weights.W_x, weights.W_h, weights.W_m, self.hidden_activation)
        return CellAdapter(
            self.hidden_cell,
            self._recurrent,
            self.input_to_hidden,
            self.hidden_size,
            self._like().dtype,
        )

    def _encode(self, x: Tensor) -> Tensor:
        """``e_x x + b_u``, the input's share of u, (..., channels), in the dtype of ``x``."""
        u = x if self.e_x is None else F.linear(x, self.e_x.to(x.dtype))
        return u if self.b_u is None else u + self.b_u.to(x.dtype)

    def _activate(self, u: Tensor, x: Tensor) -> Tensor:
        """The encoder's activation; one in place must not write to the caller's input."""
        if self.encoder_activation is None:
            return u
        return apply_rows(self.encoder_activation, u.clone() if u is x else u)

    @property
    def _starts_itself(self) -> bool:
        """True if the hidden cell makes its first state itself."""
        return self._recurrent and not isinstance(self.hidden_cell, nn.RNNCellBase)

    def _step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One time step: the output, and the state that holds it, and the memory."""
        like = self._prepare(x)
        check_input(x, ("batch",), self.input_size, like)
        h, m = self._checked_state(x.shape[0], state, like)
        x = F.dropout(x, self.dropout, self.training) if self.dropout else x
        x = x.to(compute_dtype(like.dtype))
        if not self._is_published:
            y, h, m = self._loop(x.unsqueeze(1), h, m)
            y = y.squeeze(1)
        elif (after := step_lmu(self, x, h, m)) is not None:
            h, m = after
            y = h
        else:
            weights = self._weights(ones=self._biased)
            with no_autocast(x.device):
                x = F.pad(x, (0, 1), value=1.0) if self._biased else x
                h, m = run_lmu_step(
                    F.linear(x, weights.e_x),
                    F.linear(x, weights.W_x),
                    h,
                    m,
                    weights,
                    self.hidden_activation,
                )
            m = flush(m)
            y = h = flush(h).to(like.dtype)
        return y.clone(), (h, m)  # writing to the output must not change the state

    def _loop(
        self,
        x: Tensor,
        h: State,
        m: Tensor,
        mask: Tensor | None = None,
        *,
        record: bool = False,
    ) -> tuple[Tensor, State, Tensor]:
        """Any recurrence, one step after another: outputs (batch, time, hidden), and the state."""
        like, cell = self._like(), self._cell()
        dtype = compute_dtype(like.dtype)
        e_h, e_m = (None if e is None else e.to(dtype) for e in (self.e_h, self.e_m))
        drop = self.recurrent_dropout if self._drops else 0.0
        E, Bd = self._system().joined(self.memory_channels, dtype)
        memory = Memory(E, Bd, e_h, e_m, self.encoder_activation, drop)
        with no_autocast(x.device):
            u = self._encode(x)
        # An activation that works in place must not write to the caller's input.
        u = u.clone() if u is x and self.encoder_activation is not None else u
        n = self.hidden_size
        if isinstance(cell, CellAdapter):
            return run_steps(u, x, h, m, memory, cell, n, mask, record=record)
        x = F.pad(x, (0, 1), value=1.0)
        y, h, m = run_steps(u, x, h, m, memory, cell, n, mask, record=record)
        return y if record else y.to(like.dtype), h.to(like.dtype), m

    def _checked_state(
        self, batch: int, state: State, like: Tensor | None = None
    ) -> tuple[State, Tensor]:
        """The given state, checked, or zeros; in the dtype that the recurrence is computed in.

        A wider memory stays as it is: see :func:`lmu.ops.memory_step`.
        """
        like = self._like() if like is None else like
        dtype = compute_dtype(like.dtype)
        module = isinstance(self.hidden_cell, nn.Module)
        if state is None:
            m = torch.zeros(batch, self._state_size, device=like.device, dtype=dtype)
            h = None if module else m.new_zeros(batch, self.hidden_size)
            return h, m
        h, m = check_pair(state)
        m = check_state("m", m, (batch, self._state_size), like)
        m = m.to(memory_dtype(m, dtype))
        if module or self.hidden_cell is None:
            shape = batch, self.hidden_size
            return check_cell_state(h, self.hidden_cell, self._recurrent, shape, like), m
        return check_state("h", h, (batch, self.hidden_size), like).to(dtype), m
