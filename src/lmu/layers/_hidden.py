"""Hidden cells: what reads the memory, one step at a time or all steps at once."""

import inspect
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmu.layers.state import State
from lmu.ops._autograd import is_transformed
from lmu.ops.lmu_parallel import recurrence

TANH = "tanh"  # the name of the default cell, whose weights are the layer's own


class Tanh(NamedTuple):
    """``h_t = tanh(W_x x_t + W_h h_{t-1} + W_m m_t)``, a bias being a column of ``W_x``."""

    W_x: Tensor
    W_h: Tensor
    W_m: Tensor

    def step(self, m: Tensor, x: Tensor, h: State) -> tuple[Tensor, State]:
        """Output and state of one step, from the memory, the input and the state before."""
        h = torch.addmm(self._given(m, x), h, self.W_h.mT).tanh()
        return h, h

    def sequence(self, m: Tensor, x: Tensor, h: State) -> tuple[Tensor, State]:
        """Outputs of all steps and the last state, where the memory is known beforehand."""
        y = recurrence(self._given(m, x), h, self.W_h)
        return y, y[:, -1].clone()

    def _given(self, m: Tensor, x: Tensor) -> Tensor:
        return F.linear(m, self.W_m) + F.linear(x, self.W_x)


class Module(NamedTuple):
    """A module of the user's, or None, that reads ``[m_t; x_t]`` or ``m_t`` alone."""

    cell: nn.Module | None
    reads_input: bool
    dtype: torch.dtype

    @property
    def recurrent(self) -> bool:
        """Whether the cell has a state of its own."""
        return self.cell is not None and is_recurrent(self.cell)

    def step(self, m: Tensor, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Output and state of one step, from the memory, the input and the state before."""
        z = self._join(m, x)
        if self.cell is None:
            return z, z
        if not is_recurrent(self.cell):
            h = self.cell(z)
            return h, h
        state = self.cell(z, _start(self.cell, z, state))
        return output_of(state), state

    def sequence(self, m: Tensor, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Outputs of all steps and the last state, where the memory is known beforehand."""
        z = self._join(m, x)
        if self.cell is None:
            return z, z[:, -1].clone()
        if not is_recurrent(self.cell):
            # Flat, so that a normalization sees features last, as it does step by step.
            y = self.cell(z.flatten(0, 1)).unflatten(0, z.shape[:2])
            return y, y[:, -1].clone()
        if _has_kernel(self.cell):
            return _run_kernel(self.cell, z, state)
        outputs, state = [], _start(self.cell, z, state)
        for z_t in z.unbind(1):
            state = self.cell(z_t, state)
            outputs.append(output_of(state))
        return torch.stack(outputs, dim=1), state

    def _join(self, m: Tensor, x: Tensor) -> Tensor:
        m = m.to(self.dtype)
        return torch.cat([m, x.to(self.dtype)], dim=-1) if self.reads_input else m


def is_recurrent(cell: nn.Module) -> bool:
    """Whether a cell is called with a state, as ``nn.RNNCell`` is, and not only with its input."""
    if isinstance(cell, nn.RNNCellBase):
        return True
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    arguments = inspect.signature(cell.forward).parameters.values()
    return sum(argument.kind in kinds for argument in arguments) >= 2


def output_of(state: State) -> Tensor:
    """The hidden units in a cell's state: the state, or the first of several tensors."""
    return output_of(state[0]) if isinstance(state, tuple | list) else state


def size_of(cell: nn.Module | None, memory: int) -> int | None:
    """The number of a cell's outputs, if it says so; ``memory`` is that of its inputs."""
    if cell is None:
        return memory
    for name in ("hidden_size", "out_features"):
        if isinstance(size := getattr(cell, name, None), int):
            return size
    return None


def _start(cell: nn.Module, z: Tensor, state: State) -> State:
    """The given state, or zeros where they are what a cell starts from."""
    if state is not None or not isinstance(cell, nn.RNNCellBase):
        return state
    # Of z, so that torch.func.vmap sees a batch in them: PyTorch's cells work in place.
    state = z.new_zeros(z.shape[0], cell.hidden_size)
    return (state, state) if isinstance(cell, nn.LSTMCell) else state


def _has_kernel(cell: nn.Module) -> bool:
    """Whether PyTorch runs this very cell over a sequence in one call."""
    plain = type(cell) in {nn.RNNCell, nn.GRUCell, nn.LSTMCell}
    # A hook must be called at every step: pruning makes weights in one.
    return plain and not (cell._forward_hooks or cell._forward_pre_hooks or is_transformed())


def _run_kernel(cell: Any, z: Tensor, state: State) -> tuple[Tensor, State]:
    weights = [cell.weight_ih, cell.weight_hh]
    weights += [cell.bias_ih, cell.bias_hh] if cell.bias else []
    rest = (weights, cell.bias, 1, 0.0, cell.training, False, True)
    state = _start(cell, z, state)
    if isinstance(cell, nn.LSTMCell):
        y, h, c = torch.lstm(z, tuple(s[None] for s in state), *rest)
        return y, (h[0], c[0])
    if isinstance(cell, nn.GRUCell):
        y, h = torch.gru(z, state[None], *rest)
    else:
        run = {"tanh": torch.rnn_tanh, "relu": torch.rnn_relu}[cell.nonlinearity]
        y, h = run(z, state[None], *rest)
    return y, h[0]
