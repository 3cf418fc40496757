"""The chunked read-out by CUDA kernels; see lmu.ops.triton.readout."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lmu.ops._modes import differentiable_backward, widen
from lmu.ops.cost import Cost, Problem
from lmu.ops.memory.chunked import chunk_length, chunk_states
from lmu.ops.memory.final import final
from lmu.ops.readout.chunked import cost_of_chunks
from lmu.ops.system import channels
from lmu.theory import impulse_response, krylov
from lmu.theory.rounding import narrow


def kernels_readout(
    u: Tensor, x: Tensor, Ad: Tensor, Bd: Tensor, W_m: Tensor, W_x: Tensor, bias: Tensor,
    m_0: Tensor | None, H: Tensor | None, activation: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Compute the chunked read-out with outputs written once, by one kernel.

    Cost: 2 b T c (L / 2 + d) r FLOPs with chunks of L steps; memory b T r floats, and c d L r for
    the responses to states.

    Raises:
        ImportError: triton is not installed.
        TypeError: The tensors are float64, and triton is too old for that.
        ValueError: The tensors are not on a CUDA device.
    """
    del H
    batch, length, number = u.shape
    order = Bd.shape[-1]
    steps = chunk_length(length, order, len(W_m))
    chunks = -(-length // steps)
    padded = pad(u.mT, (0, chunks * steps - length)).unflatten(2, (chunks, steps))
    sources, responses, last = [], [], []
    each = zip(W_m.split(order, dim=1), channels(number, Ad, Bd, None), strict=True)
    for c, (W, (A, B, _)) in enumerate(each):
        start = u.new_zeros(batch, order) if m_0 is None else m_0[:, c]
        states = chunk_states(padded[:, c], A, B, start)
        sources.append(torch.cat([padded[:, c], narrow(states, u.dtype)], dim=2).flatten(0, 1))
        responses.append(_responses(widen(A), widen(B), W, steps))
        rest = u[:, (chunks - 1) * steps :, c, None]
        last.append(final(rest, A, B, states[:, -1:], None).squeeze(1).to(start.dtype))
    x1 = pad(x, (0, 1, 0, chunks * steps - length), value=1.0).reshape(batch * chunks, steps, -1)
    W1 = torch.cat([W_x.mT, bias[None]])
    y = readout_chunks(
        torch.stack(sources, dim=1), torch.stack(responses), x1, W1, activation == "relu"
    )
    return y.view(batch, chunks * steps, -1)[:, :length], torch.stack(last, dim=1)


def kernels_readout_cost(problem: Problem) -> Cost:
    """Cost of the hidden units at all steps; nothing above the diagonal is multiplied."""
    return cost_of_chunks(problem, chunk_length(problem.length, problem.order, problem.rows) / 2)


def _responses(Ad: Tensor, Bd: Tensor, W: Tensor, steps: int) -> Tensor:
    """Responses ``W m`` at each step of a chunk to an input, and to the state before it.

    Shapes: ``W`` (rows, order); returns (2 * steps - 1 + order * steps, rows): zeros for delays
    below zero, delays, and for each component of the state all steps.
    """
    K = narrow(impulse_response(Ad, Bd, steps), W.dtype).mT @ W.mT
    free = krylov(Ad.mT, Ad.mT.to(W.dtype) @ W.mT, steps)  # (order, steps, rows)
    return torch.cat([K.new_zeros(steps - 1, len(W)), K, free.flatten(0, 1)])


@torch.library.custom_op("lmu::readout_chunks", mutates_args=())
def readout_chunks(sources: Tensor, R: Tensor, x1: Tensor, W1: Tensor, relu: bool) -> Tensor:
    """Hidden units (M, L, rows) of M chunks; shapes as in :mod:`lmu.ops.triton.readout`."""
    return _kernels(sources).forward(*(t.contiguous() for t in (sources, R, x1, W1)), relu)


@torch.library.custom_op("lmu::readout_chunks_backward", mutates_args=())
def readout_chunks_backward(
    dy: Tensor, y: Tensor, sources: Tensor, R: Tensor, x1: Tensor, W1: Tensor, relu: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the arguments."""
    return _kernels(sources).backward(*(t.contiguous() for t in (dy, y, sources, R, x1, W1)), relu)


def _kernels(sources: Tensor) -> Any:
    from lmu.ops.triton import block_states, readout

    if sources.device.type != "cuda" and readout.compiled():
        raise ValueError(
            f"method 'triton' needs CUDA tensors, got tensors on {sources.device}: move the layer "
            "and its input to a GPU, or choose another method"
        )
    block_states.check_product(sources.dtype)
    return readout


@readout_chunks.register_fake
def _(sources: Tensor, R: Tensor, x1: Tensor, W1: Tensor, relu: bool) -> Tensor:
    return x1.new_empty(x1.shape[0], x1.shape[1], W1.shape[1])


@readout_chunks_backward.register_fake
def _(
    dy: Tensor, y: Tensor, sources: Tensor, R: Tensor, x1: Tensor, W1: Tensor, relu: bool
) -> tuple[Tensor, ...]:
    return tuple(
        torch.empty_like(t, memory_format=torch.contiguous_format) for t in (sources, R, x1, W1)
    )


def plain(sources: Tensor, R: Tensor, x1: Tensor, W1: Tensor, relu: bool) -> tuple[Tensor]:
    """Result of the kernels by autograd."""
    steps = x1.shape[1]
    t = torch.arange(steps, device=R.device)
    forced = R[:, t - t[:, None] + steps - 1]  # (channels, steps of input, steps, rows)
    free = R[:, 2 * steps - 1 :].unflatten(1, (-1, steps))
    z = torch.einsum("mck,cktr->mtr", sources, torch.cat([forced, free], dim=1))
    z = z + x1 @ W1
    return (torch.relu(z) if relu else z,)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    y, *inputs = ctx.saved_tensors
    if torch.is_grad_enabled():  # a derivative of the gradients is needed
        run = partial(plain, relu=ctx.relu)
        return *differentiable_backward(run, inputs, (grad,), ctx.needs_input_grad[:4]), None
    return *readout_chunks_backward(grad, y, *inputs, ctx.relu), None


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.relu = inputs
    ctx.save_for_backward(output, *tensors)


readout_chunks.register_autograd(_backward, setup_context=_keep)
