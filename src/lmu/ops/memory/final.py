"""The last state alone, by one matrix product with the impulse response."""

from typing import Any

import torch
from torch import Tensor

from lmu.ops._modes import widen
from lmu.ops.cost import Cost, Problem
from lmu.ops.system import System, channels, system_of
from lmu.theory import apply_power, impulse_response
from lmu.theory.rounding import narrow

LONGEST_SUM = 8192  # products


def final(u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None, H: Tensor | None) -> Tensor:
    """The last memory state, ``m_T = sum_k H[:, k] u_{T-k} + Ad^T m_0``.

    Shapes: ``u`` (batch, time, channels), ``Ad`` (order, order), ``Bd`` (order,), ``m_0`` (batch,
    channels, order), ``H`` (order, >= time) or None; or with dynamics for each channel ``Ad``,
    ``Bd`` and ``H`` with a first axis more. Returns (batch, channels, order).

    Cost: 2 b T c d FLOPs and no intermediate state; with ``m_0`` also 2 d^3 log2(T), without ``H``
    also 2 d^2 T + 2 d^3 log2(T).

    Source: Chilkuri & Eliasmith, ICML 2021, equation 25.
    """
    batch, length, number = u.shape
    if Ad.ndim == 3:
        starts = [None] * number if m_0 is None else m_0.split(1, dim=1)
        each = zip(u.split(1, dim=2), channels(number, Ad, Bd, H), starts, strict=True)
        return torch.cat([final(v, A, B, m, K) for v, (A, B, K), m in each], dim=1)
    if H is None:
        H = narrow(impulse_response(widen(Ad), widen(Bd), length), u.dtype)
    # Reversing the input is cheaper than reversing H, which is order / batch times as large.
    # One product of two matrices: a batch of vectors against H takes several times as long.
    m = _product(u.flip(1).mT.flatten(0, 1), H[:, :length].mT).unflatten(0, (batch, number))
    if m_0 is not None:
        columns = widen(m_0).flatten(0, 1).mT
        m = (m + apply_power(widen(Ad), columns, length).mT.view_as(m)).to(m_0.dtype)
    return m


def final_cost(problem: Problem) -> Cost:
    """Cost of the last state, and with rows also of reading it."""
    b, T, c, d, r = (
        problem.batch, problem.length, problem.channels, problem.order, problem.rows
    )  # fmt: skip
    return Cost(2.0 * b * c * d * (T + r), 4.0 * b * (c * (T + d) + r))


def _product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b``, a long sum being split into shorter ones that are added up in float64.

    In float32 alone, a sum of 200,000 products that are much alike errs by 9e-6.
    """
    whole = len(b) - len(b) % LONGEST_SUM
    if not whole:
        return a @ b
    parts = a[:, :whole].unflatten(1, (-1, LONGEST_SUM)).transpose(0, 1)
    total = widen(parts @ b[:whole].unflatten(0, (-1, LONGEST_SUM))).sum(0)
    return (total + a[:, whole:] @ b[whole:]).to(a.dtype)


# One operator for torch.compile, which could not keep the impulse response between calls, and
# would make another graph for each number of squarings.


@torch.library.custom_op(
    "lmu::final", mutates_args=(), schema="(Tensor u, Tensor Ad, Tensor Bd, Tensor? m_0) -> Tensor"
)
def compiled_final(u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None) -> Tensor:
    """Compute :func:`final` in one operator; dynamics, also of each channel, are constant."""
    system, length = system_of(Ad, Bd), u.shape[1]
    H = _response(system, length, u.dtype)
    m = final(u, Ad, Bd, None, H)
    return m if m_0 is None else (m + system.advance(widen(m_0), length)).to(m_0.dtype)


@compiled_final.register_fake
def _(u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None) -> Tensor:
    dtype = u.dtype if m_0 is None else m_0.dtype
    return u.new_empty(u.shape[0], u.shape[2], Bd.shape[-1], dtype=dtype)


@torch.library.custom_op("lmu::final_backward", mutates_args=())
def _backward(
    dm: Tensor, Ad: Tensor, Bd: Tensor, length: int, with_m_0: bool
) -> tuple[Tensor, Tensor]:
    system = system_of(Ad, Bd)
    H = _response(system, length, dm.dtype)
    each = channels(dm.shape[1], Ad, Bd, H)
    du = [dm[:, c] @ K[:, :length] for c, (_, _, K) in enumerate(each) if K is not None]
    dm_0 = system.advance(dm, length, adjoint=True) if with_m_0 else dm.new_empty(0)
    return torch.stack(du, dim=2).flip(1), dm_0


@_backward.register_fake
def _(dm: Tensor, Ad: Tensor, Bd: Tensor, length: int, with_m_0: bool) -> tuple[Tensor, Tensor]:
    du = dm.new_empty(dm.shape[0], length, dm.shape[1])
    return du, torch.empty_like(dm) if with_m_0 else dm.new_empty(0)


def _backward_of_compiled(ctx: Any, dm: Tensor) -> tuple[Tensor | None, ...]:
    du, dm_0 = _backward(dm.to(ctx.dtype), *ctx.saved_tensors, ctx.length, ctx.with_m_0)
    return du, None, None, dm_0.to(dm.dtype) if ctx.with_m_0 else None


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    u, Ad, Bd, m_0 = inputs
    ctx.length, ctx.dtype, ctx.with_m_0 = u.shape[1], u.dtype, m_0 is not None
    ctx.save_for_backward(Ad, Bd)


compiled_final.register_autograd(_backward_of_compiled, setup_context=_keep_for_backward)


def _response(system: System, length: int, dtype: torch.dtype) -> Tensor:
    H = system.response(length, dtype)
    return narrow(impulse_response(system.Ad, system.Bd, length), dtype) if H is None else H
