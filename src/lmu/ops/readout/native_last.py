"""The last output alone, from the encoder to the read-out, in one pass of the compiled core."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from lmu.ops._activations import ACTIVATIONS
from lmu.ops._modes import differentiable_backward, is_batched
from lmu.ops.memory.final import final
from lmu.ops.native.last import Sizes, backward, forward
from lmu.ops.system import System


def encoded_last(
    x: Tensor, W_u: Tensor, b_u: Tensor, encoder_activation: str, system: System, W_h: Tensor,
    b_h: Tensor, activation: str, likely: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The last hidden units (batch, hidden) and the last state (batch, channels, order).

    One product with the impulse response gives the state, as in :func:`lmu.ops.memory.final.final`,
    and one more with its transpose the gradient of the input.

    Shapes: as in :func:`lmu.ops.readout.native_layer.encoded_readout`; the memory starts from zero.
    At most ``lmu.ops.native.last.LONGEST`` steps, and at least one sequence.

    Cost: 2 b c d (T + r) FLOPs besides those of the encoder; memory b T c floats.

    Source: Chilkuri & Eliasmith, ICML 2021, equation 25.
    """
    sizes = Sizes(system, likely, encoder_activation, activation)
    y, m = EncodedLast.apply(x, W_u, b_u, W_h, b_h, sizes)  # pyright: ignore[reportGeneralTypeIssues]
    return y, m.unflatten(1, (W_u.shape[0], -1))


class EncodedLast(torch.autograd.Function):
    """``(x, W_u, b_u, W_h, b_h, sizes) -> (y, m)``."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_u: Tensor, b_u: Tensor, W_h: Tensor, b_h: Tensor, sizes: Sizes
    ) -> tuple[Tensor, Tensor]:
        """Shapes as in :func:`encoded_last`, but ``m`` (batch, channels * order)."""
        inputs = [t.contiguous() for t in (x, W_u, b_u, W_h, b_h)]
        y, m, u = forward(sizes, *inputs)
        ctx.sizes = sizes
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y, m, u, x, W_u, b_u, W_h, b_h)
        return y, m

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        """Gradients of all arguments."""
        dy, dm = grad_outputs
        y, m, u, *inputs = ctx.saved_tensors
        if dy is None:
            dy = torch.zeros_like(y)
        needs = ctx.needs_input_grad[:5]
        # A derivative of the gradients is needed, or many gradients at once.
        if torch.is_grad_enabled() or is_batched(*(g for g in (dy, dm) if g is not None)):
            seeds = (dy,) if dm is None else (dy, dm)
            sizes = ctx.sizes

            def run(*t: Tensor) -> tuple[Tensor, ...]:
                return _plain(sizes, *t)[: len(seeds)]

            return *differentiable_backward(run, inputs, seeds, needs), None
        contiguous = tuple(t.contiguous() for t in inputs)
        grads = backward(ctx.sizes, dy, dm, y, m, u, contiguous, needs[0])
        found = (g if need else None for g, need in zip(grads, needs, strict=True))
        return *found, None


def _plain(
    sizes: Sizes, x: Tensor, W_u: Tensor, b_u: Tensor, W_h: Tensor, b_h: Tensor
) -> tuple[Tensor, Tensor]:
    """The same by PyTorch's operations."""
    u = ACTIVATIONS[sizes.encoder_activation].function(linear(x, W_u, b_u))
    H = sizes.system.kept_response(x.shape[1], x.dtype, sizes.likely)
    m = final(u, sizes.system.Ad, sizes.system.Bd, None, H).flatten(1)
    features = W_h.shape[1] - m.shape[1]
    joined = torch.cat([m, x[:, -1, :features]], dim=1)
    return ACTIVATIONS[sizes.activation].function(linear(joined, W_h, b_h)), m
