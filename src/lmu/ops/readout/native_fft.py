"""The read-out of the parallel layer by FFT in the compiled core, from spectra to hidden units.

A vector holds as many hidden units as it has lanes, of one time step, as they lie in memory, so
that a transform along time takes no transposes. What is written and read beyond the output is in
the cache: a group of units of four sequences is multiplied, transformed and activated at once.
"""

from functools import partial
from math import log2
from typing import Any

import torch
from torch import Tensor

from lmu.ops import native
from lmu.ops._activations import ACTIVATIONS
from lmu.ops._modes import (
    differentiable_backward,
    is_batched,
    is_differentiated,
    no_autocast,
    widen,
)
from lmu.ops.cost import Cost, Machine, Problem, beyond
from lmu.ops.memory.final import final
from lmu.ops.native import fft as kernels
from lmu.ops.readout.chunked import channels_readout
from lmu.ops.readout.fft import plain as plain_readout
from lmu.theory import impulse_response
from lmu.theory.rounding import narrow


def native_fft_readout(
    u: Tensor, x: Tensor, Ad: Tensor, Bd: Tensor, W_m: Tensor, W_x: Tensor, bias: Tensor,
    m_0: Tensor | None, H: Tensor | None, activation: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Convolve the input with ``W_m H``, which has a row for each hidden unit, by FFT in C.

    Cost: O(b r T log T) FLOPs, O(b r c T) of products and 2 c r d T once; memory b T r floats. With
    ``m_0`` also 2 b T c d r FLOPs.
    """
    native.require(u)
    length, order = u.shape[1], Bd.shape[-1]
    if H is None:
        H = narrow(impulse_response(widen(Ad), widen(Bd), length), u.dtype)
    K = H[..., :length].mT @ W_m.unflatten(1, (-1, order)).permute(1, 2, 0)
    m_n = final(u, Ad, Bd, m_0, H)
    if m_0 is None:
        return convolution(u, K, x, W_x, bias, activation), m_n
    z = convolution(u, K, x, W_x, bias, "identity")
    z = z + channels_readout(torch.zeros_like(u), Ad, Bd, W_m, m_0)[0][:, :length]
    return ACTIVATIONS[activation].function(z), m_n


def convolution(
    u: Tensor, K: Tensor, x: Tensor, W_x: Tensor, bias: Tensor, activation: str
) -> Tensor:
    """``f(sum_k K[:, k] u_{t-k} + W_x x_t + bias)`` at all steps.

    Shapes: ``u`` (batch, time, channels), ``K`` (channels, time, rows), ``x`` (batch, time, input),
    ``W_x`` (rows, input), ``bias`` (rows,); returns (batch, time, rows).
    """
    if torch.compiler.is_compiling():
        return _compiled(u, K, x, W_x, bias, activation)
    if is_differentiated():
        return plain(u, K, x, W_x, bias, activation)[0]
    return Convolution.apply(u, K, x, W_x, bias, activation)[0]


def plain(
    u: Tensor, K: Tensor, x: Tensor, W_x: Tensor, bias: Tensor, activation: str
) -> tuple[Tensor]:
    """Result of :func:`convolution` by autograd."""
    return plain_readout(u.mT, K.mT, x, W_x, bias, activation)


class Convolution(torch.autograd.Function):
    """:func:`convolution` by kernels; gives the spectra, too."""

    @staticmethod
    def forward(u: Tensor, K: Tensor, x: Tensor, W_x: Tensor, bias: Tensor, activation: str):
        """Return ``y`` and the spectra of ``u`` and ``K``."""
        return _forward(u, K, x, W_x, bias, activation)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep the output, the spectra and the arguments."""
        y, U, KF = output
        ctx.variant = kernels.variant()
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
        u, K, x, W_x, bias = inputs
        sizes, of = _sizes(u, K), kernels.Spectra(U, KF)
        if ctx.variant != kernels.variant():
            of = kernels.spectra(sizes, u, K)
        with no_autocast(dy.device):
            more = kernels.Linear(x, W_x, bias)
            return *kernels.backward(sizes, of, dy, needed, y, more, activation), None


def _sizes(u: Tensor, K: Tensor) -> kernels.Sizes:
    batch, length, channels = u.shape
    return kernels.Sizes(batch, length, K.shape[2], channels, channels)


def _forward(
    u: Tensor, K: Tensor, x: Tensor, W_x: Tensor, bias: Tensor, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    sizes = _sizes(u, K)
    of = kernels.spectra(sizes, u, K)
    y = u.new_empty(sizes.sequences, sizes.length, sizes.rows)
    kernels.forward(sizes, of, y, kernels.Linear(x, W_x, bias), activation)
    return y, of.U, of.KF


# One operator for torch.compile. Backward transforms its arguments once more: as outputs, spectra
# would have sizes that depend on the factors of the length.


@torch.library.custom_op("lmu::convolution", mutates_args=())
def _compiled(
    u: Tensor, K: Tensor, x: Tensor, W_x: Tensor, bias: Tensor, activation: str
) -> Tensor:
    return _forward(u, K, x, W_x, bias, activation)[0]


@torch.library.custom_op("lmu::convolution_backward", mutates_args=())
def _compiled_backward(
    dy: Tensor, y: Tensor, u: Tensor, K: Tensor, x: Tensor, W_x: Tensor, bias: Tensor,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    sizes = _sizes(u, K)
    of, more = kernels.spectra(sizes, u, K), kernels.Linear(x, W_x, bias)
    grads = kernels.backward(sizes, of, dy, (True,) * 5, y, more, activation)
    du, dK, dx, dW_x, dbias = (grad for grad in grads if grad is not None)
    return du, dK, dx, dW_x.contiguous(), dbias.clone()


@_compiled.register_fake
def _(u: Tensor, K: Tensor, x: Tensor, W_x: Tensor, bias: Tensor, activation: str) -> Tensor:
    return u.new_empty(*u.shape[:2], K.shape[2])


@_compiled_backward.register_fake
def _(
    dy: Tensor, y: Tensor, u: Tensor, K: Tensor, x: Tensor, W_x: Tensor, bias: Tensor,
    activation: str,
) -> tuple[Tensor, ...]:  # fmt: skip
    return tuple(dy.new_empty(t.shape) for t in (u, K, x, W_x, bias))


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.activation = inputs
    ctx.save_for_backward(output, *tensors)


def _backward_of_compiled(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    return *_compiled_backward(dy, *ctx.saved_tensors, ctx.activation), None


_compiled.register_autograd(_backward_of_compiled, setup_context=_keep_for_backward)


def native_fft_cost(problem: Problem) -> Cost:
    """Cost of the hidden units at all steps by FFT in the compiled core."""
    b, T, c, d, r = (
        problem.batch, problem.length, problem.channels, problem.order, problem.rows
    )  # fmt: skip
    n = kernels.transform_length(T)
    transforms = 4.0 * n * log2(n) * (r * (b + c) + b * c)
    products = 8.0 * n * b * c * r + 2.0 * r * d * T * c
    return Cost(transforms + products, 4.0 * b * T * r + 8.0 * n * c * (r + b))


def native_fft_terms(problem: Problem, machine: Machine) -> dict[str, float]:
    """Terms of the time of all hidden units, forward and backward."""
    del machine
    b, T, c, d, r = (
        problem.batch, problem.length, problem.channels, problem.order, problem.rows
    )  # fmt: skip
    n, values = kernels.transform_length(T), 4.0 * b * T * r
    return {
        "calls": 10.0,
        "transforms": kernels.transform_weight(n) * (r * (b + c) + b * c),
        "flops": 16.0 * n * b * c * r,
        "preparation": 6.0 * r * d * T * c,
        "bytes": values + 4.0 * n * c * r,
        "far_bytes": beyond(values, 1 << 20),
        "new_bytes": beyond(values, 1 << 25),
    }
