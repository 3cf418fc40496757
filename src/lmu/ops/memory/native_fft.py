"""All states by convolution with the impulse response, by FFT in the compiled core."""

from math import log2
from typing import Any

import torch
from torch import Tensor

from lmu.ops import native
from lmu.ops._modes import (
    differentiable_backward,
    is_batched,
    is_differentiated,
    no_autocast,
    widen,
)
from lmu.ops.cost import Cost, Machine, Problem, beyond
from lmu.ops.native import fft as kernels
from lmu.theory import impulse_response, krylov
from lmu.theory.rounding import narrow


def native_fft(u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None, H: Tensor | None) -> Tensor:
    """All memory states, ``m_t = sum_k H[:, k] u_{t-k} + Ad^t m_0``, by FFT in C.

    Shapes: ``u`` (batch, time, channels), ``Ad`` (order, order), ``Bd`` (order,), ``m_0`` (batch,
    channels, order), ``H`` (order, >= time) or None; returns (batch, time, channels, order).

    Cost: O(b c d T log T) FLOPs and b c d T floats of memory; with ``m_0`` also 2 b T c d^2 FLOPs.

    Source: Chilkuri & Eliasmith, ICML 2021, equation 26.
    """
    native.require(u)
    length = u.shape[1]
    if H is None:
        H = narrow(impulse_response(widen(Ad), widen(Bd), length), u.dtype)
    m = responses(u, H[:, :length].mT)
    if m_0 is not None:
        columns = m_0.to(u.dtype).flatten(0, 1).mT
        free = krylov(widen(Ad), Ad.to(u.dtype) @ columns, length)
        m = m + free.permute(1, 2, 0).unflatten(1, m_0.shape[:2]).transpose(0, 1)
    return m


def responses(u: Tensor, K: Tensor) -> Tensor:
    """``m_t = sum_k K_k u_{t-k}`` for each channel of ``u`` (batch, time, channels).

    Shapes: ``K`` (time, order); returns (batch, time, channels, order).
    """
    if torch.compiler.is_compiling():
        return _compiled(u, K)
    if is_differentiated():
        return plain(u, K)[0]
    return Responses.apply(u, K)[0]


def plain(u: Tensor, K: Tensor) -> tuple[Tensor]:
    """Result of :func:`responses` by autograd."""
    length = u.shape[1]
    n = kernels.transform_length(2 * length)
    spectrum = torch.fft.rfft(u, n, dim=1)[..., None] * torch.fft.rfft(K, n, dim=0)[:, None]
    return (torch.fft.irfft(spectrum, n, dim=1)[:, :length],)


class Responses(torch.autograd.Function):
    """:func:`responses` by kernels; gives the spectra, too."""

    @staticmethod
    def forward(u: Tensor, K: Tensor):
        """Return the states and the spectra of ``u`` and ``K``."""
        return _forward(u, K)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep the spectra and the arguments."""
        ctx.variant = kernels.variant()
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:], *inputs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        """Gradients of both arguments."""
        dm = grad_outputs[0]
        U, KF, u, K = ctx.saved_tensors
        if torch.is_grad_enabled() or is_batched(dm):
            return differentiable_backward(plain, (u, K), (dm,), ctx.needs_input_grad)
        sizes, of = _sizes(u, K), kernels.Spectra(U, KF)
        if ctx.variant != kernels.variant():
            of = kernels.spectra(sizes, u, K)
        with no_autocast(dm.device):
            return _backward(dm, of, sizes, ctx.needs_input_grad)


def _sizes(u: Tensor, K: Tensor) -> kernels.Sizes:
    batch, length, channels = u.shape
    return kernels.Sizes(batch * channels, length, K.shape[1], 1, channels)


def _forward(u: Tensor, K: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    sizes = _sizes(u, K)
    of = kernels.spectra(sizes, u, K)
    m = u.new_empty(*u.shape, sizes.rows)
    kernels.forward(sizes, of, m)
    return m, of.U, of.KF


def _backward(
    dm: Tensor, of: kernels.Spectra, sizes: kernels.Sizes, needed: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    gradients = kernels.backward(sizes, of, dm, needed=(*needed, False, False, False))
    return gradients.u, None if gradients.K is None else gradients.K[0]


# One operator for torch.compile, whose backward transforms its arguments once more.


@torch.library.custom_op("lmu::responses", mutates_args=())
def _compiled(u: Tensor, K: Tensor) -> Tensor:
    return _forward(u, K)[0]


@torch.library.custom_op("lmu::responses_backward", mutates_args=())
def _compiled_backward(dm: Tensor, u: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    sizes = _sizes(u, K)
    grads = _backward(dm, kernels.spectra(sizes, u, K), sizes, (True, True))
    du, dK = (grad for grad in grads if grad is not None)
    return du, dK


@_compiled.register_fake
def _(u: Tensor, K: Tensor) -> Tensor:
    return u.new_empty(*u.shape, K.shape[1])


@_compiled_backward.register_fake
def _(dm: Tensor, u: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape), K.new_empty(K.shape)


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward_of_compiled(ctx: Any, dm: Tensor) -> tuple[Tensor | None, ...]:
    return _compiled_backward(dm, *ctx.saved_tensors)


_compiled.register_autograd(_backward_of_compiled, setup_context=_keep_for_backward)


def native_fft_cost(problem: Problem) -> Cost:
    """Cost of all states by FFT in the compiled core."""
    n, signals = kernels.transform_length(problem.length), problem.batch * problem.channels
    transforms = 4.0 * n * log2(n) * (problem.order * (signals + 1) + signals)
    products = 8.0 * n * signals * problem.order
    size = 4.0 * problem.length * signals * problem.order + 8.0 * n * (problem.order + signals)
    return Cost(transforms + products, size)


def native_fft_terms(problem: Problem, machine: Machine) -> dict[str, float]:
    """Terms of the time of all states, forward and backward."""
    del machine
    n, signals = kernels.transform_length(problem.length), problem.batch * problem.channels
    values = 4.0 * problem.length * signals * problem.order
    rows = kernels.in_vectors(problem.order, torch.float32)
    return {
        "calls": 10.0,
        "transforms": kernels.transform_weight(n) * rows * (signals + 1),
        "flops": 16.0 * n * signals * rows,
        "bytes": values,
        "far_bytes": beyond(values, 1 << 20),
        "new_bytes": beyond(values, 1 << 25),
    }
