"""The parameters of the nonlinear LMU, which its cell and its layer share."""

import math

import torch
import torch.nn.functional as F
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
from lmu.ops import LMUWeights, lmu_step
from lmu.ops._precision import compute_dtype, no_autocast


class NonlinearLMU(LegendreModule):
    """Parameters, initial values and state of :class:`LMUCell` and :class:`LMU`."""

    e_h: nn.Parameter | None  # None without hidden_to_memory
    e_m: nn.Parameter | None  # None without memory_to_memory

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        memory_size: int,
        theta: float,
        learn_a: bool = False,
        learn_b: bool = False,
        *,
        learn_theta: bool = False,
        hidden_to_memory: bool = True,
        memory_to_memory: bool = True,
        discretizer: str = "zoh",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(memory_size, theta, learn_a, learn_b, learn_theta, discretizer)
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        factory = {"device": device, "dtype": check_dtype(dtype)}
        self.e_x = nn.Parameter(torch.empty(1, input_size, **factory))
        self.hidden_to_memory = check_flag("hidden_to_memory", hidden_to_memory)
        self.memory_to_memory = check_flag("memory_to_memory", memory_to_memory)
        for name, size, wanted in (
            ("e_h", hidden_size, hidden_to_memory),
            ("e_m", memory_size, memory_to_memory),
        ):
            encoder = nn.Parameter(torch.empty(1, size, **factory)) if wanted else None
            self.register_parameter(name, encoder)
        self.W_x = nn.Parameter(torch.empty(hidden_size, input_size, **factory))
        self.W_h = nn.Parameter(torch.empty(hidden_size, hidden_size, **factory))
        self.W_m = nn.Parameter(torch.empty(hidden_size, memory_size, **factory))
        self._add_dynamics(factory)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew: LeCun-uniform encoders, ``e_m`` zero, Xavier-normal kernels."""
        for encoder in (self.e_x, self.e_h):
            if encoder is None:
                continue
            bound = math.sqrt(3 / encoder.shape[1])
            nn.init.uniform_(encoder, -bound, bound)
        if self.e_m is not None:
            nn.init.zeros_(self.e_m)
        for kernel in (self.W_x, self.W_h, self.W_m):
            nn.init.xavier_normal_(kernel)
        super().reset_parameters()

    def extra_repr(self) -> str:
        """The arguments that the layer was built with."""
        text = f"input_size={self.input_size}, hidden_size={self.hidden_size}, {self._describe()}"
        for name in ("hidden_to_memory", "memory_to_memory"):
            text += "" if getattr(self, name) else f", {name}=False"
        return text

    def _like(self) -> Tensor:
        return self.W_h

    def _weights(self) -> LMUWeights:
        """The weights in the dtype that the recurrence is computed in."""
        E, Bd = self._increment(), self._dynamics()[1]
        W_x, W_h, W_m = self.W_x, self.W_h, self.W_m
        e_h = W_h.new_zeros(1, len(W_h)) if self.e_h is None else self.e_h
        e_m = W_m.new_zeros(1, W_m.shape[1]) if self.e_m is None else self.e_m
        weights = (self.e_x, e_h, e_m, W_x, W_h, W_m, E, Bd)
        dtype = compute_dtype(W_h.dtype)
        return LMUWeights(*(w if w.dtype == dtype else w.to(dtype) for w in weights))

    def _step(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One time step: the hidden state twice, as output and with the memory."""
        check_input(x, ("batch",), self.input_size, self.W_h)
        h, m = self._checked_state(x.shape[0], state)
        weights = self._weights()
        x = x.to(weights.W_x.dtype)
        with no_autocast(x.device):
            h, m = lmu_step(F.linear(x, weights.e_x), F.linear(x, weights.W_x), h, m, weights)
        h = h.to(self.W_h.dtype)
        return h.clone(), (h, m)  # writing to the output must not change the state

    def _checked_state(
        self, batch: int, state: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """The given state, checked, or zeros; in the dtype that the recurrence is computed in."""
        like = self.W_h
        dtype = compute_dtype(like.dtype)
        if state is None:
            zeros = torch.zeros(batch, self.hidden_size, device=like.device, dtype=dtype)
            return zeros, zeros.new_zeros(batch, self.memory_size)
        check_pair(state)
        h, m = state
        check_state("h", h, (batch, self.hidden_size), like)
        check_state("m", m, (batch, self.memory_size), like)
        return h.to(dtype), m.to(dtype)
