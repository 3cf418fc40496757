"""The nonlinear Legendre Memory Unit over a sequence."""

from typing import Any

import torch
from torch import Tensor

from lmu.layers._checks import check_input
from lmu.layers._nonlinear import NonlinearLMU
from lmu.ops import (
    LMU_METHODS,
    Choice,
    Powers,
    Work,
    block_length,
    block_powers,
    choose_lmu,
    lmu_sequence,
)
from lmu.ops._autograd import is_transformed
from lmu.ops._precision import compute_dtype, no_autocast, widen


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
        hidden_size: Number of hidden units.
        memory_size: Order d of the Legendre memory.
        theta: Length of the memory's window in time steps.
        learn_a: Train ``Ad``, the discrete state matrix.
        learn_b: Train ``Bd``, the discrete input vector.
        learn_theta: Train the length of the window, as the parameter ``log_theta``.
        hidden_to_memory: Feed the hidden state back into the memory. Without ``e_h`` the memory is
            linear in the input, and a sequence of it is evaluated at once.
        memory_to_memory: Feed the memory back into its input by ``e_m``.
        method: How sequences are run, a key of :data:`lmu.ops.LMU_METHODS`; ``"auto"`` chooses, see
            :func:`lmu.ops.choose_lmu`.
        discretizer: ``"zoh"``, ``"euler"`` or ``"bilinear"``.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Parameters and errors are those of :class:`lmu.LMUCell`.

    Source: Voelker et al., NeurIPS 2019, equations 4, 6 and 7.
    """

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
            learn_theta=learn_theta,
            hidden_to_memory=hidden_to_memory,
            memory_to_memory=memory_to_memory,
            discretizer=discretizer,
            device=device,
            dtype=dtype,
        )
        if method not in {"auto", *LMU_METHODS}:
            raise ValueError(f"method must be 'auto' or one of {list(LMU_METHODS)}, got {method!r}")
        if method == "parallel" and hidden_to_memory:
            raise ValueError(
                "method 'parallel' needs hidden_to_memory=False: with feedback nothing is parallel"
            )
        self.method = method

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run over a sequence.

        Args:
            x: Input (batch, time, input_size), of any length.
            state: ``(h_0, m_0)`` before the first step, (batch, hidden_size) and (batch,
                memory_size); zeros if None. Feed back what a call returned to go on with the
                sequence: the split gives the same numbers as the whole.

        Returns:
            All hidden states (batch, time, hidden_size), and the last state ``(h_n, m_n)``. Hidden
            states have the layer's dtype, ``m_n`` has that dtype but at least float32.

        Raises:
            TypeError: A dtype is not the layer's (unless under autocast).
            ValueError: A shape or device does not fit.
        """
        check_input(x, ("batch", "time"), self.input_size, self.W_h)
        h, m = self._checked_state(x.shape[0], state)
        weights = self._weights()
        with no_autocast(x.device):
            output, (h, m) = lmu_sequence(
                x.to(weights.W_x.dtype),
                h,
                m,
                weights,
                method=self.method,
                feedback=self.hidden_to_memory,
                powers=self._block_powers() if self.hidden_to_memory else None,
            )
        dtype = self.W_h.dtype
        return output.to(dtype), (h.to(dtype), m)

    def step(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
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
        return self._step(x, state)

    def explain(self, length: int, batch_size: int = 1) -> Choice:
        """Say how sequences of so many steps would be run, why, and at what cost."""
        device = self.W_h.device.type
        work = Work(length, self.memory_size, self.hidden_size, batch_size, device=device)
        transformed = is_transformed() and not torch.compiler.is_compiling()
        return choose_lmu(work, feedback=self.hidden_to_memory, transformed=transformed)

    def _block_powers(self) -> Powers | None:
        """The kept powers of constant dynamics, computed at the first call; None if learned."""
        if not self._constant:
            return None
        if self._powers is None:
            # Kept beyond this call, so they must serve training even if this is inference.
            with torch.inference_mode(False), torch.no_grad():
                powers = block_powers(*self._exact_increment(), block_length(self.hidden_size))
                self._powers = Powers(*(t.to(compute_dtype(self.W_h.dtype)) for t in powers))
        return self._powers

    def _exact_increment(self) -> tuple[Tensor, Tensor]:
        """``Ad - I`` and ``Bd`` in the precision that powers are formed in."""
        Ad, Bd = (widen(t) for t in self._dynamics())
        return Ad - torch.eye(len(Ad), device=Ad.device, dtype=Ad.dtype), Bd

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_powers": None}

    def _make_buffers(self, device: torch.device) -> None:
        super()._make_buffers(device)
        self._powers: Powers | None = None

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Other ports keep the parameters in a submodule named cell.
        inner = prefix + "cell."
        for key in [key for key in state_dict if key.startswith(inner)]:
            state_dict[prefix + key.removeprefix(inner)] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
