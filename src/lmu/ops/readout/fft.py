"""The read-out of the parallel layer by FFT, without forming the memory's states.

The input is cut into a few pieces. With kernels delayed and cut accordingly their responses add up
in the frequency domain, where one transform, as long as the sequence and a piece, serves all of
them; a single piece would need twice the length of the sequence. The sums over pieces and channels
are matrix products, one for each frequency.
"""

from functools import lru_cache, partial
from math import log2
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from lmu.ops._activations import ACTIVATIONS
from lmu.ops._modes import (
    differentiable_backward,
    is_batched,
    is_transformed,
    no_autocast,
    widen,
)
from lmu.ops.cost import Cost, Machine, Problem, beyond, doublings
from lmu.ops.memory.fft import fast_length
from lmu.ops.memory.final import final
from lmu.ops.readout.chunked import channels_readout
from lmu.theory import impulse_response
from lmu.theory.rounding import narrow

GROUP = 1 << 21  # floats of spectra multiplied at once on a CPU: about its cache
TILE = 192  # rows of a signal transposed at once: more pages overflow a CPU's translation buffer


def fft_readout(
    u: Tensor, x: Tensor, Ad: Tensor, Bd: Tensor, W_m: Tensor, W_x: Tensor, bias: Tensor,
    m_0: Tensor | None, H: Tensor | None, activation: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Convolve the input with ``W_m H``, which has a row for each hidden unit, by FFT.

    Cost: O(b r T log T) FLOPs for each channel and 2 r d T once; memory b T r floats. With ``m_0``
    also 2 b T c d r FLOPs.
    """
    length, order = u.shape[1], Bd.shape[-1]
    if H is None:
        H = narrow(impulse_response(widen(Ad), widen(Bd), length), u.dtype)
    K = W_m.unflatten(1, (-1, order)).transpose(0, 1) @ H[..., :length]  # (channels, rows, time)
    m_n = final(u, Ad, Bd, m_0, H)
    if m_0 is None and not is_transformed():
        return FFTReadout.apply(u.mT, K, x, W_x, bias, activation)[0], m_n
    z = convolve(u.mT, K) + x @ W_x.mT + bias
    if m_0 is not None:
        z = z + channels_readout(torch.zeros_like(u), Ad, Bd, W_m, m_0)[0][:, :length]
    return ACTIVATIONS[activation].function(z), m_n


class Plan(NamedTuple):
    """Pieces that a sequence is cut into, and their transforms."""

    pieces: int
    steps: int  # of a piece
    n: int  # length of the transforms


@lru_cache(maxsize=4096)
def plan(length: int) -> Plan:
    """Choose the pieces: shorter transforms against more products, by measured weights."""

    def cut(pieces: int) -> Plan:
        steps = -(-length // pieces)
        return Plan(pieces, steps, fast_length(length + steps - 1))

    return min((cut(p) for p in range(1, 9)), key=lambda p: p.n * (13 + p.pieces))


def convolve(u: Tensor, K: Tensor) -> Tensor:
    """``z_t = sum_{k, c} K[c, :, k] u_{t-k, c}`` for all sequences at once, by autograd.

    Shapes: ``u`` (batch, channels, time), ``K`` (channels, rows, time); returns (batch, time,
    rows).
    """
    n = fast_length(2 * u.shape[2] - 1)
    spectrum = torch.einsum("bcf,crf->brf", torch.fft.rfft(u, n), torch.fft.rfft(K, n))
    return torch.fft.irfft(spectrum, n)[..., : u.shape[2]].mT


def plain(
    u: Tensor, K: Tensor, x: Tensor, W_x: Tensor, bias: Tensor, activation: str
) -> tuple[Tensor]:
    """Result of :class:`FFTReadout` by autograd."""
    return (ACTIVATIONS[activation].function(convolve(u, K) + x @ W_x.mT + bias),)


class FFTReadout(torch.autograd.Function):
    """``(u, K, x, W_x, bias, f) -> y``, ``y_t = f(sum_k K[:, k] u_{t-k} + W_x x_t + bias)``."""

    @staticmethod
    def forward(u: Tensor, K: Tensor, x: Tensor, W_x: Tensor, bias: Tensor, activation: str):
        """Return ``y`` (batch, time, rows) and the spectra of ``u`` and ``K``.

        Shapes: ``u`` (batch, channels, time), ``K`` (channels, rows, time), ``x`` (batch, time,
        input), ``W_x`` (rows, input), ``bias`` (rows,).
        """
        p = plan(u.shape[2])
        U, KF = _spectra(u, K, p)
        return _forward(U, KF, x, W_x, bias, p, activation), U, KF

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep the output, the spectra and the arguments."""
        y, U, KF = output
        ctx.mark_non_differentiable(U, KF)
        *tensors, ctx.activation = inputs
        ctx.save_for_backward(y, U, KF, *tensors)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        """Gradients of all arguments."""
        dy = grad_outputs[0]
        y, U, KF, *inputs = ctx.saved_tensors
        needed, activation = ctx.needs_input_grad[:5], ctx.activation
        # A derivative of the gradients is needed, or many gradients at once.
        if torch.is_grad_enabled() or is_batched(dy):
            run = partial(plain, activation=activation)
            return *differentiable_backward(run, inputs, (dy,), needed), None
        with no_autocast(dy.device):
            return *_backward(dy, y, U, KF, inputs[2], inputs[3], needed[2], activation), None


def _spectra(u: Tensor, K: Tensor, p: Plan) -> tuple[Tensor, Tensor]:
    """Spectra of the pieces (frequencies, batch, channels * pieces) and of their kernels.

    The kernel of piece i is delayed by its start and ends with the sequence. Its spectra are
    (frequencies, channels * pieces, rows).
    """
    length = u.shape[2]
    cut = pad(u, (0, p.pieces * p.steps - length)).unflatten(2, (p.pieces, p.steps)).flatten(1, 2)
    U = torch.fft.rfft(cut, p.n).permute(2, 0, 1).contiguous()
    delayed = [pad(K, (i * p.steps, 0))[..., :length] for i in range(p.pieces)]
    KF = torch.fft.rfft(torch.stack(delayed, dim=1).flatten(0, 1), p.n)
    return U, KF.permute(2, 0, 1).contiguous()


def _groups(batch: int, spectrum: int, device: torch.device) -> tuple[int, int]:
    """Sequences multiplied, and sequences transformed, at once; ``spectrum`` floats each.

    On a CPU transforms stay in the cache; other devices need more work at once.
    """
    if device.type == "cpu":
        return max(1, min(batch, GROUP // spectrum)), 1
    size = max(1, min(batch, 64 * GROUP // spectrum))
    return size, size


def _with_ones(x: Tensor) -> Tensor:
    """Append a one to each input, so that one product adds input and bias."""
    return pad(x, (0, 1), value=1.0)


def _transpose(source: Tensor, target: Tensor) -> None:
    """Copy signals (batch, rows, time) to (batch, time, rows) or, with both transposed, back."""
    tiles = -(-source.shape[1] // TILE)
    for a, b in zip(source.chunk(tiles, 1), target.chunk(tiles, 2), strict=True):
        b.copy_(a.mT)


def _forward(
    U: Tensor, KF: Tensor, x: Tensor, W_x: Tensor, bias: Tensor, p: Plan, activation: str
) -> Tensor:
    (batch, length, _), rows = x.shape, W_x.shape[0]
    y = x.new_empty(batch, length, rows)
    activate: Any = ACTIVATIONS[activation].into
    x1, W1 = _with_ones(x), torch.cat([W_x, bias[:, None]], dim=1).mT
    group, subgroup = _groups(batch, 2 * len(U) * rows, x.device)
    with torch.inference_mode():  # the same kernels, with less overhead per call
        spectra = U.new_empty(len(U), group, rows)
        before = y.new_empty(subgroup, length, rows)  # what the activation is applied to
        for i in range(0, batch, group):
            S = spectra if i + group <= batch else U.new_empty(len(U), batch - i, rows)
            torch.bmm(U[:, i : i + group], KF, out=S)
            for j in range(0, S.shape[1], subgroup):
                z = torch.fft.irfft(S[:, j : j + subgroup].permute(1, 2, 0).contiguous(), p.n)
                part = slice(i + j, i + j + len(z))
                a = before[: len(z)]
                _transpose(z[..., :length], a)
                a.flatten(0, 1).addmm_(x1[part].flatten(0, 1), W1)
                activate(a, out=y[part])
    return y


def _back_to_spectra(
    dy: Tensor,
    y: Tensor,
    U: Tensor,
    KF: Tensor,
    x: Tensor,
    W_x: Tensor,
    dx: Tensor | None,
    p: Plan,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of both spectra and of ``[W_x, bias]``; fills ``dx``. Frees its buffers."""
    (batch, length, rows), k = y.shape, x.shape[2]
    differentiate: Any = ACTIVATIONS[activation].backward
    dU, dKF = torch.empty_like(U), torch.zeros_like(KF)  # conjugates, as the products give them
    dW1 = W_x.new_zeros(k + 1, rows)
    group, subgroup = _groups(batch, 2 * len(U) * rows, y.device)
    with torch.inference_mode():
        x1 = _with_ones(x)
        spectra = U.new_empty(len(U), group, rows)
        before = y.new_empty(subgroup, length, rows)
        signals = y.new_zeros(subgroup, rows, p.n)  # what lies beyond the sequence stays zero
        for i in range(0, batch, group):
            S = spectra if i + group <= batch else U.new_empty(len(U), batch - i, rows)
            for j in range(0, S.shape[1], subgroup):
                part = slice(i + j, i + min(j + subgroup, S.shape[1]))
                g = before[: part.stop - part.start]
                differentiate(dy[part], y[part], grad_input=g)
                flat = g.flatten(0, 1)
                dW1.addmm_(x1[part].flatten(0, 1).mT, flat)
                if dx is not None:
                    torch.mm(flat, W_x, out=dx[part].flatten(0, 1))
                z = signals[: len(g)]
                z[..., :length].copy_(g.mT)
                S[:, j : j + subgroup].copy_(torch.fft.rfft(z).permute(2, 0, 1).conj())
            dKF.baddbmm_(U[:, i : i + group].mT, S)
            dU[:, i : i + group].copy_(torch.bmm(S, KF.mT))
    return dU, dKF, dW1


def _backward(
    dy: Tensor, y: Tensor, U: Tensor, KF: Tensor, x: Tensor, W_x: Tensor, needs_x: bool,
    activation: str,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    length, k, p = y.shape[1], x.shape[2], plan(y.shape[1])
    dx = torch.empty_like(x) if needs_x else None
    dU, dKF, dW1 = _back_to_spectra(dy, y, U, KF, x, W_x, dx, p, activation)
    du = torch.fft.irfft(dU.permute(1, 2, 0).conj().contiguous(), p.n)[..., : p.steps]
    du = du.unflatten(1, (-1, p.pieces)).flatten(2)[..., :length]
    of_pieces = torch.fft.irfft(dKF.permute(1, 2, 0).conj().contiguous(), p.n)
    of_pieces = of_pieces.unflatten(0, (-1, p.pieces))  # (channels, pieces, rows, n)
    dK = of_pieces[:, 0, :, :length].clone()
    for i, start in enumerate(range(p.steps, length, p.steps), start=1):
        dK[..., : length - start] += of_pieces[:, i, :, start:length]
    return du, dK, dx, dW1[:k].mT, dW1[k]


def fft_readout_cost(problem: Problem) -> Cost:
    """Cost of the hidden units at all steps by FFT."""
    b, T, c, d, r = (
        problem.batch, problem.length, problem.channels, problem.order, problem.rows
    )  # fmt: skip
    p = plan(T)
    transforms = 2.5 * p.n * log2(p.n) * r * (b + c * p.pieces)
    products = 4.0 * p.n * b * c * p.pieces * r + 2.0 * r * d * T * c
    size = 4.0 * b * T * r + 4.0 * (GROUP + 2 * c * p.pieces * r * p.n)
    return Cost(transforms + products, size)


def fft_readout_terms(problem: Problem, machine: Machine) -> dict[str, float]:
    """Terms of the time of all hidden units by FFT, forward and backward."""
    del machine
    b, T, c, d, r = (
        problem.batch, problem.length, problem.channels, problem.order, problem.rows
    )  # fmt: skip
    p = plan(T)
    spectrum = 4.0 * p.n * r
    transforms = 5.0 * p.n * log2(p.n) * r * (b + c * p.pieces)
    return {
        "calls": 60.0 + 4.0 * c,
        "loops": b,
        "transforms": transforms,
        "far_transforms": transforms * doublings(spectrum),
        "flops": 12.0 * p.n * b * c * p.pieces * r + 6.0 * r * d * T * c,
        "bytes": spectrum * (b + c * p.pieces),
        "far_bytes": beyond(spectrum, 1 << 20) * (b + c * p.pieces),
        "new_bytes": beyond(4.0 * b * T * r, 1 << 25),
    }
