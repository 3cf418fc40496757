r"""The nonlinear LMU over a sequence, with a hand-written backward pass.

The loop over time keeps only what must be sequential. With ``Ē = E + Bd e_m`` (the memory's own
feedback folded into its increment) a step is a few products, each written where the next reads:

    u'_t = e_x x_t + e_h h_{t-1}
    m_t = m_{t-1} + [Ē Bd] [m_{t-1}; u'_t]
    h_t = tanh([W_x W_m] [x_t; m_t] + W_h h_{t-1})

so that slot t of the forward buffer is ``[x_t | m_t | u'_{t+1}]``. Backward, with ``g_t`` the
gradient of the tanh's argument, slot t is ``[dm_{t-1} | du_t | g_t]``:

    dm_t += W_m^T g_t
    [dm_{t-1} | du_t] = [dm_t | 0] + [Ē Bd]^T dm_t
    dh_{t-1} = dy_{t-1} + [e_h; W_h]^T [du_t; g_t]

and the gradients of all weights are products over all steps of a block at once.
"""

from typing import Any

import torch
from torch import Tensor

from lmu.ops._autograd import differentiable_backward
from lmu.ops._precision import no_autocast
from lmu.ops.lmu_loop import LMUWeights, loop

BLOCK = 1 << 20  # floats of the backward buffer: what stays in the cache until it is used


def fused(x: Tensor, h: Tensor, m: Tensor, weights: LMUWeights) -> tuple[Tensor, Tensor, Tensor]:
    """All hidden states (batch, time, hidden) and the last ``h`` and ``m``.

    Shapes: ``x`` (batch, time, input), ``h`` (batch, hidden) and ``m`` (batch, order) before the
    first step.

    Cost: 2 b T (d^2 + n^2 + n d) FLOPs in T sequential steps, and b T (n + d) floats of memory;
    backward twice that arithmetic.
    """
    y, m_n, _ = FusedLMU.apply(x.transpose(0, 1), h, m, *weights)
    return y.transpose(0, 1), y[-1].clone(), m_n


def _forward(x: Tensor, h_0: Tensor, m_0: Tensor, w: LMUWeights) -> tuple[Tensor, Tensor]:
    """Hidden states (time, batch, hidden) and the slots (time + 1, batch, input + order + 1).

    Shapes: ``x`` (time, batch, input), ``h_0`` (batch, hidden), ``m_0`` (batch, order).
    """
    length, batch, k = x.shape
    n, d = w.W_m.shape
    to_u = w.e_h.mT
    to_m = torch.cat([(w.E + w.Bd[:, None] * w.e_m).mT, w.Bd[None]])
    to_h, h_to_h = torch.cat([w.W_x, w.W_m], dim=1).mT.contiguous(), w.W_h.mT.contiguous()
    slots = x.new_empty(length + 1, batch, k + d + 1)
    slots[1:, :, :k] = x
    slots[0, :, k:-1] = m_0
    xm, m = slots[..., :-1].unbind(), slots[..., k:-1].unbind()
    mu, u = slots[..., k:].unbind(), slots[..., -1:].unbind()
    u_x, y, h = (x @ w.e_x.mT).unbind(), x.new_empty(length, batch, n), h_0
    for t, y_t in enumerate(y.unbind()):
        torch.addmm(u_x[t], h, to_u, out=u[t])
        torch.addmm(m[t], mu[t], to_m, out=m[t + 1])
        h = torch.mm(xm[t + 1], to_h, out=y_t).addmm_(h, h_to_h).tanh_()
    return y, slots


class FusedLMU(torch.autograd.Function):
    """``(x, h_0, m_0, *weights) -> (y, m_n, slots)``, time first."""

    @staticmethod
    def forward(x: Tensor, h_0: Tensor, m_0: Tensor, *weights: Tensor):
        """Shapes: ``x`` (time, batch, input), ``y`` (time, batch, hidden), ``m_n`` as ``m_0``."""
        y, slots = _forward(x, h_0, m_0, LMUWeights(*weights))
        return y, slots[-1, :, x.shape[2] : -1].clone(), slots

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        """Keep the states of all steps, and the arguments."""
        y, _, slots = output
        ctx.mark_non_differentiable(slots)
        ctx.save_for_backward(y, slots, *inputs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        """Gradients of all arguments; those of ``E`` and ``Bd`` only where they are wanted."""
        y, slots, *inputs = ctx.saved_tensors
        dy, dm, _ = grad_outputs
        if torch.is_grad_enabled():  # a derivative of the gradients is wanted
            return differentiable_backward(_plain, inputs, (dy, dm), ctx.needs_input_grad)
        with no_autocast(dy.device):
            _, h_0, _, *weights = inputs
            return _backward(h_0, y, slots, LMUWeights(*weights), dy, dm, ctx.needs_input_grad)


def _plain(x: Tensor, h_0: Tensor, m_0: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
    """What :class:`FusedLMU` computes, by autograd."""
    y, _, m_n = loop(x.transpose(0, 1), h_0, m_0, LMUWeights(*weights))
    return y.transpose(0, 1), m_n


def _backward(
    h_0: Tensor,
    y: Tensor,
    slots: Tensor,
    w: LMUWeights,
    dy: Tensor,
    dm: Tensor,
    needed: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Gradients of ``x``, ``h_0``, ``m_0`` and the weights, block after block from the end."""
    length, batch, (n, d) = y.shape[0], y.shape[1], w.W_m.shape
    k = w.W_x.shape[1]
    back_m = torch.cat([w.E + w.Bd[:, None] * w.e_m, w.Bd[:, None]], dim=1)
    back_h, back_x = torch.cat([w.e_h, w.W_h]), torch.cat([w.e_x, w.W_x])
    dx = y.new_empty(length, batch, k) if needed[0] else None
    d_h, d_xm, de_m = y.new_zeros(1 + n, n), y.new_zeros(1 + n, k + d), y.new_zeros(1, d)
    dE, dBd = torch.zeros_like(w.E), torch.zeros_like(w.Bd)[None]
    steps = max(1, min(length, BLOCK // (batch * (n + d + 1))))
    grads = y.new_empty(steps + 1, batch, d + 1 + n)
    grads[-1, :, :d] = dm
    dh = torch.zeros_like(h_0)
    for stop in range(length, 0, -steps):
        start = max(0, stop - steps)
        block = grads[steps - (stop - start) :]  # fills the end of the buffer
        _steps_back(block, y[start:stop], dy[start:stop], dh, w.W_m, back_m, back_h)
        dug = block[:-1, :, d:].flatten(0, 1)
        before = slots[start:stop, :, k:].flatten(0, 1)  # [m_{t-1} | u'_t]
        d_xm.addmm_(dug.mT, slots[start + 1 : stop + 1, :, :-1].flatten(0, 1))
        de_m.addmm_(dug[:, :1].mT, before[:, :d])
        if start == 0:  # the first step of all follows h_0, the others one in y
            d_h.addmm_(dug[:batch].mT, h_0)
            d_h.addmm_(dug[batch:].mT, y[: stop - 1].flatten(0, 1))
        else:
            d_h.addmm_(dug.mT, y[start - 1 : stop - 1].flatten(0, 1))
        if needed[-2] or needed[-1]:
            total = block[1:, :, :d].flatten(0, 1)
            dE.addmm_(total.mT, before[:, :d])
            dBd.addmm_((before[:, d:] + before[:, :d] @ w.e_m.mT).mT, total)
        if dx is not None:
            torch.mm(dug, back_x, out=dx[start:stop].flatten(0, 1))
        grads[-1, :, :d] = block[0, :, :d]
    weights = (d_xm[:1, :k], d_h[:1], de_m, d_xm[1:, :k], d_h[1:], d_xm[1:, k:], dE, dBd[0])
    return dx, dh, grads[-1, :, :d].clone(), *weights


def _steps_back(
    block: Tensor, y: Tensor, dy: Tensor, dh: Tensor, W_m: Tensor, back_m: Tensor, back_h: Tensor
) -> None:
    """The sequential part: fill ``block`` (steps + 1, ...) with gradients, and advance ``dh``."""
    d = W_m.shape[1]
    dm, dmu = block[..., :d].unbind(), block[..., : d + 1].unbind()
    dug, g = block[..., d:].unbind(), block[..., d + 1 :].unbind()
    block[:-1, :, d] = 0
    for t in range(len(y) - 1, -1, -1):
        dh += dy[t]
        torch.ops.aten.tanh_backward.grad_input(dh, y[t], grad_input=g[t])
        dm[t + 1].addmm_(g[t], W_m)
        dm[t].copy_(dm[t + 1])
        dmu[t].addmm_(dm[t + 1], back_m)
        torch.mm(dug[t], back_h, out=dh)
