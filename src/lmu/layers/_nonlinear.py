"""The parameters of the nonlinear LMU, which its cell and its layer share."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmu.layers._checks import (
    check_activation,
    check_cell_state,
    check_device,
    check_dtype,
    check_flag,
    check_hidden_cell,
    check_input,
    check_pair,
    check_parts,
    check_probability,
    check_size,
    check_state,
)
from lmu.layers._hidden import TANH, CellAdapter, is_recurrent
from lmu.layers._legendre import LegendreModule, initialize
from lmu.layers._modules import reset_modules
from lmu.layers._stateful import Asked, activate
from lmu.layers.state import State
from lmu.ops import LMUWeights, lmu_step
from lmu.ops._modes import compute_dtype, memory_dtype, no_autocast
from lmu.ops.lmu.loop import DefaultCell, Memory, run_steps
from lmu.theory.rounding import flush

Activation = Callable[[Tensor], Tensor]
HiddenCell = nn.Module | Literal["tanh"] | None


class NonlinearLMU(LegendreModule):
    """Parameters, initial values and state of :class:`LMUCell` and :class:`LMU`."""

    hidden_cell: HiddenCell
    # e_x, W_x, W_h and W_m too are None where an argument leaves them out; not so in the types, for
    # the sake of the many that have them.
    e_x: nn.Parameter
    e_h: nn.Parameter | None  # None without hidden_to_memory
    e_m: nn.Parameter | None  # None without memory_to_memory
    b_u: nn.Parameter | None  # None without memory_bias
    W_x: nn.Parameter
    W_h: nn.Parameter
    W_m: nn.Parameter
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
        discretizer: str = "zoh",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            memory_size, theta, learn_a, learn_b, learn_theta, discretizer, memory_channels
        )
        self.input_size = check_size("input_size", input_size)
        self.hidden_to_memory = check_flag("hidden_to_memory", hidden_to_memory)
        self.memory_to_memory = check_flag("memory_to_memory", memory_to_memory)
        self.input_to_hidden = check_flag("input_to_hidden", input_to_hidden)
        self.encode_input = check_flag("encode_input", encode_input)
        self.memory_bias = check_flag("memory_bias", memory_bias)
        self.hidden_bias = check_flag("hidden_bias", hidden_bias)
        self.encoder_activation = check_activation(encoder_activation)
        self.dropout = check_probability("dropout", dropout)
        self.recurrent_dropout = check_probability("recurrent_dropout", recurrent_dropout)
        self._state_size = memory_channels * memory_size
        read = self._state_size + input_size * input_to_hidden
        self.hidden_size = check_hidden_cell(hidden_cell, hidden_size, read)
        self.hidden_cell = hidden_cell
        self._recurrent = isinstance(hidden_cell, nn.Module) and is_recurrent(hidden_cell)
        self._asked = Asked(memory_channels), Asked(read)
        self.initializers = initializers
        self._check_connections()
        self._add_parameters({"device": check_device(device), "dtype": check_dtype(dtype)})
        if isinstance(hidden_cell, nn.Module):
            check_parts(hidden_cell, self._like())
        self._reset_own_parameters()

    def _check_connections(self) -> None:
        if self.hidden_cell is None and self.hidden_to_memory:
            raise ValueError(
                "hidden_cell=None leaves no hidden state to feed back: pass hidden_to_memory=False"
            )
        if self.hidden_cell != TANH and self.hidden_bias:
            raise ValueError("hidden_bias is of the default cell: give your own module a bias")
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
        own = self.hidden_cell == TANH
        for name, shape, wanted in (
            ("e_x", (c, k), self.encode_input),
            ("e_h", (c, n), self.hidden_to_memory),
            ("e_m", (c, d), self.memory_to_memory),
            ("b_u", (c,), self.memory_bias),
            ("W_x", (n, k), own and self.input_to_hidden),
            ("W_h", (n, n), own),
            ("W_m", (n, d), own),
            ("b_h", (n,), self.hidden_bias),
        ):
            parameter = nn.Parameter(torch.empty(shape, **factory)) if wanted else None
            self.register_parameter(name, parameter)
        self._add_dynamics(factory)

    def reset_parameters(self) -> None:
        """Draw all parameters anew: LeCun-uniform encoders, ``e_m`` zero, Xavier-normal kernels.

        Biases start at zero. A hidden cell of yours draws its own anew; ``initializers`` come last.
        """
        reset_modules(self.hidden_cell, self.encoder_activation)
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
        self._reset_dynamics()
        initialize(self, self.initializers)

    def extra_repr(self) -> str:
        """The arguments that the layer was built with, without what has its default value."""
        text = f"input_size={self.input_size}, hidden_size={self.hidden_size}, {self._describe()}"
        for name in ("hidden_to_memory", "memory_to_memory", "input_to_hidden", "encode_input"):
            text += "" if getattr(self, name) else f", {name}=False"
        for name in ("memory_bias", "hidden_bias"):
            text += f", {name}=True" if getattr(self, name) else ""
        for name in ("dropout", "recurrent_dropout"):
            text += f", {name}={getattr(self, name)}" if getattr(self, name) else ""
        if self.encoder_activation is not None:
            name = getattr(self.encoder_activation, "__name__", repr(self.encoder_activation))
            text += f", encoder_activation={name}"
        return text + (", hidden_cell=None" if self.hidden_cell is None else "")

    def _like(self) -> Tensor:
        for parameter in (self.W_m, self.e_x, self.e_h, self.e_m):
            if parameter is not None:
                return parameter
        return self._anchor

    @property
    def _fast(self) -> bool:
        """Whether the recurrence is the published one, which blocks of time can run."""
        own = isinstance(self.hidden_cell, str)  # PyTorch 2.6 cannot trace "module == text"
        return own and self._linear_encoder and not self._drops

    @property
    def _linear_encoder(self) -> bool:
        return self.encoder_activation is None

    @property
    def _coupled(self) -> bool:
        """Whether the memory's input depends on states in a way that must go step by step."""
        if self._stateful:
            return True
        bent = self.memory_channels > 1 or not self._linear_encoder or self._drops
        return self.hidden_to_memory or (self.memory_to_memory and bent)

    @property
    def _stateful(self) -> bool:
        """Whether a module of the user's must see one step after another."""
        cell = None if self._recurrent or isinstance(self.hidden_cell, str) else self.hidden_cell
        return self._asked[0](self.encoder_activation) or self._asked[1](cell)

    @property
    def _drops(self) -> bool:
        """Whether states are dropped where they are fed back."""
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
        weights = LMUWeights(e_x, e_h, e_m, W_x, self.W_h, self.W_m, E, Bd)
        return LMUWeights(*(w if w.dtype == dtype else w.to(dtype) for w in weights))

    @property
    def _biased(self) -> bool:
        return self.memory_bias or self.hidden_bias

    def _cell(self) -> DefaultCell | CellAdapter:
        """The hidden cell of the general recurrence."""
        if isinstance(self.hidden_cell, str):
            weights = self._weights(ones=True)
            return DefaultCell(weights.W_x, weights.W_h, weights.W_m)
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
        return activate(self.encoder_activation, u.clone() if u is x else u)

    @property
    def _starts_itself(self) -> bool:
        """Whether the hidden cell is called without a state at first."""
        return self._recurrent and not isinstance(self.hidden_cell, nn.RNNCellBase)

    def _step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One time step: the output, and the state that holds it, and the memory."""
        self._follow(x)
        check_input(x, ("batch",), self.input_size, self._like())
        h, m = self._checked_state(x.shape[0], state)
        x = F.dropout(x, self.dropout, self.training) if self.dropout else x
        x = x.to(compute_dtype(self._like().dtype))
        if not self._fast:
            y, h, m = self._loop(x.unsqueeze(1), h, m)
            y = y.squeeze(1)
        else:
            weights = self._weights(ones=self._biased)
            with no_autocast(x.device):
                x = F.pad(x, (0, 1), value=1.0) if self._biased else x
                h, m = lmu_step(F.linear(x, weights.e_x), F.linear(x, weights.W_x), h, m, weights)
            m = flush(m)
            y = h = flush(h).to(self._like().dtype)
        return y.clone(), (h, m)  # writing to the output must not change the state

    def _loop(
        self,
        x: Tensor,
        h: State,
        m: Tensor,
        alive: Tensor | None = None,
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
            return run_steps(u, x, h, m, memory, cell, n, alive, record=record)
        x = F.pad(x, (0, 1), value=1.0)
        y, h, m = run_steps(u, x, h, m, memory, cell, n, alive, record=record)
        return y if record else y.to(like.dtype), h.to(like.dtype), m

    def _checked_state(self, batch: int, state: State) -> tuple[State, Tensor]:
        """The given state, checked, or zeros; in the dtype that the recurrence is computed in.

        A wider memory stays as it is: see :func:`lmu.ops.memory_step`.
        """
        like = self._like()
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
