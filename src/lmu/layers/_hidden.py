"""Modules as hidden cells, which read the memory step by step or at all steps at once."""

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lmu.layers._modules import is_hooked
from lmu.ops._loops import Carry, Slices, Stepped, over_time
from lmu.ops._modes import is_autocast, is_transformed
from lmu.ops._states import State, freeze, last_valid, map_state, output_of

RNN = "rnn"  # the name of the default cell, whose weights are the layer's own


class CellAdapter(NamedTuple):
    """A module, or None, that reads ``[m_t; x_t]`` or ``m_t`` alone."""

    cell: nn.Module | None
    recurrent: bool  # whether it has a state of its own
    reads_input: bool
    hidden_size: int
    dtype: torch.dtype

    def inputs(self, x: Tensor) -> Tensor:
        """The input itself."""
        return x

    def start(self, u: Tensor, h: State) -> State:
        """The state before the first step; None if only the cell knows it."""
        if h is not None or (self.recurrent and not isinstance(self.cell, nn.RNNCellBase)):
            return h
        # Of u, so that torch.func.vmap sees a batch in them.
        zeros = u.new_zeros(u.shape[0], self.hidden_size, dtype=self.dtype)
        return (zeros, zeros) if isinstance(self.cell, nn.LSTMCell) else zeros

    def step(self, m: Tensor, x: Tensor, h: State) -> tuple[Tensor, State]:
        """Output and state of one step, from the memory, the input and the state before."""
        z = self._join(m, x)
        if self.recurrent:
            h = self._kept(self._call(z, _start(self.cell, z, h)))
            return self._checked(output_of(h)), h
        y = self._checked(z if self.cell is None else self._call(z))
        return y, y

    def sequence(
        self, m: Tensor, x: Tensor, h: State, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Outputs of all steps and the last state, where the memory is known beforehand.

        Where ``mask`` (batch, time, 1) is False there is padding: outputs mean nothing there, and
        the state is that before it.
        """
        z = self._join(m, x)
        if self.recurrent:
            return self._recurrence(z, h, mask)
        y = self._checked(z if self.cell is None else self._all_steps(z, mask))
        return y, last_valid(y, mask, h)

    def _all_steps(self, z: Tensor, mask: Tensor | None) -> Tensor:
        # Flat, so that a normalization sees features last, as it does step by step; and one over
        # the batch must not see padding.
        if mask is None or not _mixes_rows(self.cell):
            return self._call(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        outputs = self._call(z[mask.squeeze(2)])
        return outputs.new_zeros(*z.shape[:2], outputs.shape[-1]).masked_scatter(mask, outputs)

    def _recurrence(self, z: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        state = _start(self.cell, z, state)
        if mask is None and _has_kernel(self.cell, z):
            return _run_kernel(self.cell, z, state)
        xs = (z,) if mask is None else (z, mask)

        def step(carry: Carry, slices: Slices) -> Stepped:
            z_t, *mask_t = slices
            after = freeze(self._kept(self._call(z_t, carry[0])), carry[0], *mask_t)
            return (after,), self._checked(output_of(after))

        (state,), y = over_time(step, (state,), xs)
        return y, state

    def _call(self, *arguments: Any) -> Any:
        assert self.cell is not None
        return self.cell(*arguments)

    def _join(self, m: Tensor, x: Tensor) -> Tensor:
        m = m.to(self.dtype)
        return torch.cat([m, x.to(self.dtype)], dim=-1) if self.reads_input else m

    def _checked(self, y: Tensor) -> Tensor:
        if y.shape[-1] != self.hidden_size:
            raise ValueError(
                f"the hidden cell gives {y.shape[-1]} features, and hidden_size is "
                f"{self.hidden_size}: make them equal"
            )
        return y.to(self.dtype)  # under autocast a cell may give a narrower one

    def _kept(self, state: State) -> State:
        return map_state(lambda s: s.to(self.dtype) if s.is_floating_point() else s, state)


def is_recurrent(cell: nn.Module | None) -> bool:
    """True if a cell is called with a state, as ``nn.RNNCell`` is, and not only with its input.

    Its attribute ``recurrent`` says so, where it has one that is True or False; else the arguments
    of its ``forward``.

    Raises:
        TypeError: They do not tell, or the module runs over sequences.
    """
    cell = getattr(cell, "_orig_mod", cell)  # of torch.compile
    if cell is None or isinstance(cell, nn.RNNCellBase):
        return cell is not None
    if isinstance(cell, nn.RNNBase):
        name = type(cell).__name__
        raise TypeError(f"hidden_cell must go step by step: pass nn.{name}Cell, not nn.{name}")
    if isinstance(told := getattr(cell, "recurrent", None), bool):
        return told
    arguments = list(inspect.signature(cell.forward).parameters.values())
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if not arguments or any(argument.kind not in kinds for argument in arguments):
        raise TypeError(
            f"the arguments of {type(cell).__name__}.forward do not tell whether it takes a state: "
            "set its attribute recurrent to True or False"
        )
    second = arguments[1].default if len(arguments) > 1 else 0
    return second is None or second is inspect.Parameter.empty


def size_of(cell: nn.Module | None, memory: int) -> int | None:
    """The number of a cell's outputs, if it says so; ``memory`` is that of its inputs."""
    if cell is None:
        return memory
    for name in ("hidden_size", "out_features"):
        if isinstance(size := getattr(cell, name, None), int):
            return size
    return None


def _mixes_rows(cell: nn.Module | None) -> bool:
    """True if a row of the output depends on other rows."""
    kind = nn.modules.batchnorm._BatchNorm
    return cell is not None and any(isinstance(module, kind) for module in cell.modules())


def _start(cell: nn.Module | None, z: Tensor, state: State) -> State:
    """The state, or zeros where a cell starts from them."""
    if state is not None or not isinstance(cell, nn.RNNCellBase):
        return state
    # Of z, so that torch.func.vmap sees a batch in them: PyTorch's cells work in place.
    state = z.new_zeros(z.shape[0], cell.hidden_size)
    return (state, state) if isinstance(cell, nn.LSTMCell) else state


def _has_kernel(cell: Any, z: Tensor) -> bool:
    """True if PyTorch runs this very cell over a sequence in one call."""
    if type(cell) not in {nn.RNNCell, nn.GRUCell, nn.LSTMCell} or "forward" in cell.__dict__:
        return False
    # A hook must be called at every step: pruning makes weights in one.
    return not (is_hooked(cell) or is_transformed() or is_autocast(z.device))


def _run_kernel(cell: Any, z: Tensor, state: State) -> tuple[Tensor, State]:
    weights = [cell.weight_ih, cell.weight_hh]
    weights += [cell.bias_ih, cell.bias_hh] if cell.bias else []
    rest = (weights, cell.bias, 1, 0.0, cell.training, False, True)
    if isinstance(cell, nn.LSTMCell):
        y, h, c = torch.lstm(z, tuple(s[None] for s in state), *rest)
        return y, (h[0], c[0])
    if isinstance(cell, nn.GRUCell):
        y, h = torch.gru(z, state[None], *rest)
    else:
        run = {"tanh": torch.rnn_tanh, "relu": torch.rnn_relu}[cell.nonlinearity]
        y, h = run(z, state[None], *rest)
    return y, h[0]
