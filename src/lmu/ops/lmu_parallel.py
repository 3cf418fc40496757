"""The LMU whose hidden state is not fed back into the memory: only h is sequential."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lmu.ops._autograd import differentiable_backward, is_transformed
from lmu.ops._precision import no_autocast, widen
from lmu.ops.chunked import chunked_readout
from lmu.ops.lmu_loop import LMUWeights


def parallel(
    x: Tensor, h: Tensor, m: Tensor, weights: LMUWeights, powers: object = None
) -> tuple[Tensor, Tensor, Tensor]:
    """All hidden states (batch, time, hidden) and the last ``h`` and ``m``, for ``e_h = 0``.

    The memory is then linear in the input, ``m_t = (Ad + Bd e_m) m_{t-1} + Bd e_x x_t``, and its
    share of the tanh's argument is evaluated for all steps at once, in chunks. Several channels
    must not feed each other: for them ``e_m`` is not read.

    Shapes: ``x`` (batch, time, input), ``h`` (batch, hidden) and ``m`` (batch, order) before the
    first step. ``powers`` are not used.

    Cost: 2 b T (n^2 + n (d + L)) FLOPs with chunks of L steps, of which n^2 in T sequential steps.
    """
    del powers
    w = weights
    a, m_n = _memory(F.linear(x, w.e_x), m, w)
    a = a[:, : x.shape[1]] + F.linear(x, w.W_x)
    y = recurrence(a, h, w.W_h)
    return y, y[:, -1].clone(), m_n


def _memory(u: Tensor, m: Tensor, w: LMUWeights) -> tuple[Tensor, Tensor]:
    """``W_m m_t`` at all steps, (batch, whole chunks, hidden), and the last memory."""
    Ad = widen(w.E) + torch.eye(len(w.E), dtype=widen(w.E).dtype, device=w.E.device)
    Bd, number = widen(w.Bd), u.shape[2]
    if number == 1:
        return chunked_readout(u[..., 0], Ad + Bd * w.e_m, Bd[:, 0], w.W_m, m)
    a, last, size = None, [], len(Ad) // number
    for c in range(number):
        own = slice(c * size, (c + 1) * size)
        part, m_n = chunked_readout(
            u[..., c], Ad[own, own], Bd[own, c], w.W_m[:, own], m[:, own].contiguous()
        )
        a = part if a is None else a + part
        last.append(m_n)
    assert a is not None
    return a, torch.cat(last, dim=1)


def recurrence(a: Tensor, h: Tensor, W_h: Tensor) -> Tensor:
    """``y_t = tanh(a_t + W_h y_{t-1})`` from ``y_{-1} = h``, shapes (batch, time, hidden)."""
    return plain(a, h, W_h)[0] if is_transformed() else Recurrence.apply(a, h, W_h)


def plain(a: Tensor, h: Tensor, W_h: Tensor) -> tuple[Tensor]:
    """What :class:`Recurrence` computes, by autograd."""
    outputs = []
    for a_t in a.unbind(1):
        h = torch.tanh(torch.addmm(a_t, h, W_h.mT))
        outputs.append(h)
    return (torch.stack(outputs, dim=1),)


class Recurrence(torch.autograd.Function):
    """``(a, h_0, W_h) -> y``: ``y_t = tanh(a_t + W_h y_{t-1})``, shapes (batch, time, hidden)."""

    @staticmethod
    def forward(a: Tensor, h_0: Tensor, W_h: Tensor) -> Tensor:
        """One product and one tanh a step, in place."""
        y = a.clone(memory_format=torch.contiguous_format)
        with torch.inference_mode():
            h, to_h = h_0, W_h.mT.contiguous()
            for y_t in y.unbind(1):
                h = y_t.addmm_(h, to_h).tanh_()
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Keep the output and what the gradients of the weights need."""
        ctx.save_for_backward(output, *inputs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        """Gradients of all arguments; that of ``W_h`` is one product over all steps."""
        dy = grad_outputs[0]
        y, *inputs = ctx.saved_tensors
        if torch.is_grad_enabled():  # a derivative of the gradients is wanted
            return differentiable_backward(plain, inputs, (dy,), ctx.needs_input_grad)
        _, h_0, W_h = inputs
        da = dy.clone(memory_format=torch.contiguous_format)
        with no_autocast(dy.device), torch.inference_mode():
            g = None
            for g_t, y_t in zip(da.unbind(1)[::-1], y.unbind(1)[::-1], strict=True):
                if g is not None:
                    g_t.addmm_(g, W_h)
                g = torch.ops.aten.tanh_backward.grad_input(g_t, y_t, grad_input=g_t)
        before = torch.cat([h_0[:, None], y[:, :-1]], dim=1)
        return da, da[:, 0] @ W_h, da.flatten(0, 1).mT @ before.flatten(0, 1)
