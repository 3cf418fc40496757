"""Forward of the nonlinear LMU in blocks of time; see :mod:`lmu.ops.lmu.blocks`."""

from typing import NamedTuple

import torch
from torch import Tensor

from lmu.ops._activations import ACTIVATIONS
from lmu.ops._modes import widen
from lmu.ops._sum import FOLD
from lmu.ops.lmu.block_matrices import BlockMatrices
from lmu.theory.rounding import flush, narrow


class BlockStates:
    """Buffer of one block's states and its views, made once: a view costs as much as a small op."""

    def __init__(
        self, like: Tensor, batch: int, steps: int, width: int, hidden: int, channels: int
    ) -> None:
        self.all = like.new_empty(batch, steps, width)
        self.rows = self.all.view(batch * steps, width)  # a row for each step of each sequence
        self.long = self.all.view(batch, steps * width)  # a row for each sequence
        self.outputs = self.all[..., :hidden]
        self.history = self.all[:, -1, hidden : hidden + steps * channels]
        self.steps = self.all.unbind(1)
        self.hidden = self.outputs.unbind(1)


class Saved(NamedTuple):
    """Tensors that backward needs of forward, besides the arguments."""

    y: Tensor  # (batch, time, hidden)
    history: Tensor  # (blocks + 1, batch, steps * channels): u, that of a block newest first
    memories: Tensor  # (blocks + 1, batch, order): the memory before and after each block
    R: Tensor  # (steps, width, order), W Ad^s: from the memory before a block to its states


class ForwardResult(NamedTuple):
    """Result of :func:`forward`."""

    saved: Saved
    m: Tensor  # (batch, order), the last memory, of the dtype of the first


def forward(
    x: Tensor, h_0: Tensor, m_0: Tensor, o: BlockMatrices, activation: str, kernels: bool
) -> ForwardResult:
    """Compute all hidden states, and save what backward needs.

    Shapes as in :mod:`lmu.ops.lmu.blocks`.

    The memory's increments are added up in float64: see :func:`lmu.ops.memory_step`.
    """
    activate = ACTIVATIONS[activation].in_place
    (batch, length, k), n = x.shape, h_0.shape[1]
    steps, width = len(o.D) - 1, len(o.M)
    c = len(o.H) // steps
    number = -(-length // steps)
    y = x.new_empty(batch, length, n)
    # One block more than there are: a compiler would specialize on a single one.
    history = x.new_zeros(number + 1, batch, steps * c)
    memories = x.new_empty(number + 1, batch, m_0.shape[1])
    memories[0] = narrow(m_0, x.dtype)
    W = o.W.expand(steps, -1, -1)
    R = torch.baddbmm(W, W, o.D[:-1])
    with torch.inference_mode():  # the same kernels, with less overhead per call
        to_states = R.flatten(0, 1).mT
        if batch > 1:  # one row reads it either way
            to_states = to_states.contiguous()
        M, first, E = o.M, o.M[:n], o.D[-1].mT
        buffers = [
            BlockStates(x, batch, steps, width, n, c) for _ in range(min(2, length // steps))
        ]
        h, m = h_0.contiguous(), memories[0]
        total = m_0 if m_0.dtype != x.dtype else None
        base, delta = m, torch.zeros_like(m)  # as in lmu.ops._sum
        for i, (x_b, y_b, m_b, past) in enumerate(
            zip(x.split(steps, 1), y.split(steps, 1), memories[1:], history[:-1], strict=True)
        ):
            size = x_b.shape[1]
            whole = size == steps
            s = buffers[i % 2] if whole else BlockStates(x, batch, size, width, n, c)
            torch.mm(x_b.reshape(batch * size, k), o.X, out=s.rows)
            s.long.addmm_(m, to_states if whole else to_states[:, : size * width])
            if kernels:
                from lmu.ops.triton import advance

                advance(s.all, h, M, n)
            else:
                state = s.steps[0].addmm_(h, first)
                activate(s.hidden[0])
                for following, h_t in zip(s.steps[1:], s.hidden[1:], strict=True):
                    state = following.addmm_(state, M)
                    activate(h_t)
            h = s.hidden[-1]
            y_b.copy_(s.outputs)
            past[:, : size * c].copy_(s.history)
            delta.addmm_(m, E if whole else o.D[size].mT)
            delta.addmm_(s.history, o.H[: size * c])
            m = torch.add(base, delta, out=m_b)
            if (i + 1) % FOLD == 0:
                total = (widen(base) if total is None else total) + delta
                base = narrow(total, x.dtype) if total.dtype != x.dtype else flush(total)
                delta.zero_()
                h, m = flush(h), m_b.copy_(base)
        m_n = flush(m) if total is None else (total + delta).to(m_0.dtype)
    return ForwardResult(Saved(y, history, memories, R), m_n.clone())
