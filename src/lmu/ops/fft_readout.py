"""The read-out of the parallel layer by FFT, without ever forming the memory's states."""

from typing import Any

import torch
from torch import Tensor

from lmu.ops._autograd import differentiable_backward
from lmu.ops._precision import no_autocast
from lmu.ops.fft import fast_length

BLOCK = 1 << 19  # floats of the spectra of a block of sequences: they stay in a CPU's cache


def convolve(u: Tensor, K: Tensor) -> Tensor:
    """``z_t = sum_{k, c} K[c, :, k] u_{t-k, c}`` for all sequences at once, by autograd.

    Shapes: ``u`` (batch, channels, time), ``K`` (channels, rows, time); returns (batch, time,
    rows).
    """
    n = fast_length(2 * u.shape[2] - 1)
    spectrum = torch.einsum("bcf,crf->brf", torch.fft.rfft(u, n), torch.fft.rfft(K, n))
    return torch.fft.irfft(spectrum, n)[..., : u.shape[2]].mT


def plain(u: Tensor, K: Tensor, x: Tensor, W_x: Tensor, bias: Tensor) -> tuple[Tensor]:
    """What :class:`FFTReadout` computes, by autograd."""
    return (torch.relu(convolve(u, K) + x @ W_x.mT + bias),)


class FFTReadout(torch.autograd.Function):
    """``(u, K, x, W_x, bias) -> y``: ``y_t = relu(sum_k K[:, k] u_{t-k} + W_x x_t + bias)``.

    A few sequences at a time, in buffers that are used again: for large batches fresh memory costs
    more than the arithmetic.
    """

    @staticmethod
    def forward(u: Tensor, K: Tensor, x: Tensor, W_x: Tensor, bias: Tensor):
        """Give ``y`` (batch, time, rows) and the spectra of ``u`` and ``K``.

        Shapes: ``u`` (batch, channels, time), ``K`` (channels, rows, time), ``x`` (batch, time,
        input), ``W_x`` (rows, input), ``bias`` (rows,).
        """
        batch, _, length = u.shape
        rows = K.shape[1]
        n = fast_length(2 * length - 1)
        U, KF = torch.fft.rfft(u, n), torch.fft.rfft(K, n)
        x1, W1 = _with_ones(x), torch.cat([W_x, bias[:, None]], dim=1).mT
        y = u.new_empty(batch, length, rows)
        size = _block_size(batch, rows * n, u.device)
        spectrum = U.new_empty(size, rows, n // 2 + 1)
        signal = u.new_empty(size, rows, n)
        for i in range(0, batch, size):
            part = slice(i, min(i + size, batch))
            S, z = spectrum[: part.stop - i], signal[: part.stop - i]
            torch.mul(U[part, 0, None], KF[0], out=S)
            for c in range(1, len(KF)):
                S.addcmul_(U[part, c, None], KF[c])
            torch.fft.irfft(S, n, out=z)
            y[part].copy_(z[..., :length].mT)
            y[part].flatten(0, 1).addmm_(x1[part].flatten(0, 1), W1).relu_()
        return y, U, KF

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        """Keep the output, the spectra and the arguments."""
        y, U, KF = output
        ctx.mark_non_differentiable(U, KF)
        ctx.save_for_backward(y, U, KF, *inputs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        """Gradients of all arguments."""
        dy = grad_outputs[0]
        y, U, KF, *inputs = ctx.saved_tensors
        if torch.is_grad_enabled():  # a derivative of the gradients is wanted
            return differentiable_backward(plain, inputs, (dy,), ctx.needs_input_grad)
        with no_autocast(dy.device):
            return _backward(dy, y, U, KF, inputs[2], inputs[3], ctx.needs_input_grad[2])


def _block_size(batch: int, floats: int, device: torch.device) -> int:
    """Sequences per block, each of so many floats; other devices want more work at once."""
    block = BLOCK if device.type == "cpu" else 128 * BLOCK
    return max(1, min(batch, block // floats))


def _with_ones(x: Tensor) -> Tensor:
    """The input with a one beside it, so that one product adds input and bias."""
    return torch.nn.functional.pad(x, (0, 1), value=1.0)


def _backward(
    dy: Tensor, y: Tensor, U: Tensor, KF: Tensor, x: Tensor, W_x: Tensor, needs_x: bool
) -> tuple[Tensor | None, ...]:
    batch, length, rows = y.shape
    n = fast_length(2 * length - 1)
    dU, dK = torch.empty_like(U), torch.zeros_like(KF)
    dx = torch.empty_like(x) if needs_x else None
    x1, dW1 = _with_ones(x), W_x.new_zeros(rows, x.shape[2] + 1)
    U, KF = U.conj().resolve_conj(), KF.conj().resolve_conj()
    size = _block_size(batch, rows * n, y.device)
    before_relu = y.new_empty(size, length, rows)
    signal = y.new_zeros(size, rows, n)  # what lies beyond the sequence stays zero
    spectrum, product = (U.new_empty(size, rows, n // 2 + 1) for _ in range(2))
    for i in range(0, batch, size):
        part = slice(i, min(i + size, batch))
        g, z, S, P = (b[: part.stop - i] for b in (before_relu, signal, spectrum, product))
        torch.ops.aten.threshold_backward.grad_input(dy[part], y[part], 0, grad_input=g)
        flat = g.flatten(0, 1)
        dW1.addmm_(flat.mT, x1[part].flatten(0, 1))
        if dx is not None:
            torch.matmul(g, W_x, out=dx[part])
        z[..., :length].copy_(g.mT)
        torch.fft.rfft(z, out=S)
        for c in range(len(KF)):
            torch.sum(torch.mul(S, KF[c], out=P), dim=1, out=dU[part, c])
            torch.mul(S, U[part, c, None], out=P)
            dK[c] += P.sum(0) if len(P) > 1 else P[0]
    du = torch.fft.irfft(dU, n)[..., :length]
    dK = torch.fft.irfft(dK, n)[..., :length]
    return du, dK, dx, dW1[:, :-1], dW1[:, -1]
