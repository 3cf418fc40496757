"""The nonlinear LMU with any encoder and hidden cell, one step after another."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lmu.layers._hidden import Module, Tanh, freeze, output_of
from lmu.layers.state import State
from lmu.ops._loops import Carry, Slices, Stepped, in_stretches
from lmu.ops._modes import no_autocast
from lmu.ops._sum import Sum
from lmu.theory.rounding import flush


class Memory(NamedTuple):
    """A memory that reads states of the step before; all of the dtype that it is computed in."""

    E: Tensor  # (order, order), Ad - I of all channels as one system
    Bd: Tensor  # (order, channels)
    e_h: Tensor | None  # (channels, hidden)
    e_m: Tensor | None  # (channels, order)
    activation: Callable[[Tensor], Tensor] | None
    dropout: float  # probability that a state is dropped where it is fed back

    def masks(self, h: Tensor, m: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """What multiplies ``h`` and ``m`` where they are fed back, the same at all steps."""
        if not self.dropout:
            return None, None
        ones = (torch.ones_like(s, dtype=self.E.dtype) for s in (h, m))
        keep_h, keep_m = (F.dropout(one, self.dropout) for one in ones)
        return keep_h, keep_m

    def step(
        self, u: Tensor, h: Tensor, m: Sum, keep: tuple[Tensor | None, Tensor | None]
    ) -> tuple[Tensor, Sum]:
        """The input (batch, channels), from the input's share of it, and the next state."""
        for state, encoder, mask in ((h, self.e_h, keep[0]), (m.m, self.e_m, keep[1])):
            if encoder is not None:
                fed = state.to(u.dtype)
                u = torch.addmm(u, fed if mask is None else fed * mask, encoder.mT)
        u = u if self.activation is None else self.activation(u)
        return u, m.advance(u, self.E, self.Bd)


def run_steps(
    u: Tensor,
    x: Tensor,
    h: State,
    m: Tensor,
    memory: Memory,
    cell: Tanh | Module,
    hidden: int,
    alive: Tensor | None = None,
    *,
    record: bool = False,
) -> tuple[Tensor, State, Tensor]:
    """Outputs of all steps (batch, time, hidden), and the last state of the cell and the memory.

    Only the memory, and the default cell, are kept from autocast: a cell of yours is yours.

    Shapes: ``u`` (batch, time, channels), the input's share of the memory's input; ``x`` (batch,
    time, input); ``h`` the cell's state or None; ``m`` (batch, order). Where ``alive`` (batch,
    time, 1) is False there is padding: outputs mean nothing there, and states stay as they are.
    With ``record`` an output is ``[y_t | m_t | u_t]``, in the dtype of the memory.
    """
    h = cell.start(u, h)
    before = u.new_zeros(u.shape[0], hidden) if h is None else output_of(h)
    keep = memory.masks(before, m)

    def step(carry: Carry, slices: Slices) -> Stepped:
        (before, h, m), (u_t, x_t, *alive_t) = carry, slices
        with no_autocast(u.device):
            u_t, after = memory.step(u_t, before, Sum.unpack(m, u.dtype), keep)
            read, m_n = after.m, freeze(after.pack(), m, *alive_t)
        with no_autocast(u.device) if isinstance(cell, Tanh) else nullcontext():
            y, h_n = cell.step(read, x_t, h)
        output = torch.cat([y.to(read), read, u_t], dim=1) if record else y
        return (y, freeze(h_n, h, *alive_t), m_n), output

    def mend(carry: Carry) -> Carry:
        before, h, m = carry
        # The state of a cell of yours is yours.
        return (
            before,
            flush(h) if isinstance(cell, Tanh) else h,
            Sum.unpack(m, u.dtype).fold().pack(),
        )

    xs = (u, x) if alive is None else (u, x, alive)
    start = before, h, Sum.start(m, u.dtype, u.shape[1]).pack()
    (_, h, after), y = in_stretches(step, start, xs, mend)
    return y, h, Sum.unpack(after, u.dtype).end(m.dtype)
