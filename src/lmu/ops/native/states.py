"""Kernels of memory states and of hidden units that read them; see c/states.h."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmu.ops import native
from lmu.ops._modes import widen
from lmu.ops.native.states_plan import Plan, ScanArguments, StatesArguments, whole_lines


class Run:
    """Calls of the kernels on tensors, which live as long as it.

    They come by the names of the kernels' arguments, are contiguous, and may be addresses within
    others. ``x`` is read by the hidden units, ``encoder_x`` by the encoder.
    """

    def __init__(self, plan: Plan, W_row: int = 0, **tensors: Any) -> None:
        self.plan, self.W_row, self.tensors = plan, W_row, tensors

    def states(self, kernel: str, **tensors: Any) -> None:
        """Run a kernel of tiles."""
        arguments = StatesArguments.from_buffer_copy(self.plan.states_start)
        arguments.W_m_row = arguments.W_x_row = self.W_row
        self._run(kernel, arguments, tensors, self.plan.parts)

    def scan(self, kernel: str, **tensors: Any) -> None:
        """Run a kernel from chunk to chunk."""
        arguments = ScanArguments.from_buffer_copy(self.plan.scan_start)
        self._run(kernel, arguments, tensors, self.plan.scan_parts)

    def _run(self, kernel: str, arguments: Any, tensors: dict[str, Any], parts: int) -> None:
        for known in (self.tensors, tensors):
            for name, value in known.items():
                if value is not None:
                    setattr(arguments, name, value if type(value) is int else value.data_ptr())
        native.run(kernel, self.plan.dtype, arguments, parts)


def forward(
    run: Run, m_0: Tensor | None, like: Tensor, *, last: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """All outputs, the last state if asked for, and the states before the chunks.

    Shapes: ``m_0`` (batch, channels, order); returns (batch, time, rows), or all states (batch,
    time, channels, order); (batch, channels, order) of the dtype of ``m_0``; and (batch, chunks,
    channels, order), or None for zeros. Results are on the device and of the dtype of ``like``.
    """
    plan, o = run.plan, run.plan.layout
    batch, length, channels = plan.shape
    shape = batch, channels, plan.order
    y = like.new_empty((batch, length, plan.how.rows) if plan.how.rows else
                       (batch, length, channels, plan.order))  # fmt: skip
    wide = m_0 is not None and m_0.dtype != plan.dtype
    starts = None if m_0 is None else m_0.to(plan.dtype).contiguous()
    if o.chunks > 1 or (last and wide):
        free = None if m_0 is None else plan.system.advance(widen(m_0), o.first(length))
        first, starts = starts, like.new_empty((batch, o.chunks, channels, plan.order))
        end = like.new_empty(shape, dtype=torch.float64) if last else None
        run.scan("states_scan", m_0=first, free=free, starts=starts, last=end)
        m_n = starts if end is None else end.to(plan.dtype if m_0 is None else m_0.dtype)
        run.states("states", starts=starts, y=y)
    else:
        m_n = like.new_empty(shape) if last else y
        run.states("states", starts=starts, y=y, last=m_n if last else None)
    return y, m_n, starts


class Gradients(NamedTuple):
    """Gradients of all arguments; None where they are not needed."""

    u: Tensor | None
    x: Tensor | None = None  # of the read-out, and of the encoder
    Ad: Tensor | None = None
    Bd: Tensor | None = None
    W: Tensor | None = None  # of both weights (rows, channels * order + features)
    bias: Tensor | None = None
    m_0: Tensor | None = None
    encoder_weight: Tensor | None = None
    encoder_bias: Tensor | None = None


class Needs(NamedTuple):
    """Gradients that are needed beside those of the weights and of the memory's input."""

    x: bool
    dynamics: bool
    start: bool


def backward(
    run: Run, dy: Tensor, y: Tensor | None, dlast: Tensor | None, starts: Tensor | None,
    needs: Needs,
) -> Gradients:  # fmt: skip
    """Gradients from those of the outputs and of the last state.

    Those of the dynamics take a second pass, as adjoint states must be known to the chunk's end;
    there must be no encoder then.
    """
    plan, several = run.plan, run.plan.layout.chunks > 1
    batch, _, channels = plan.shape
    dlast = None if dlast is None else dlast.to(plan.dtype).contiguous()
    dy = dy.contiguous()
    run.tensors |= {"dy": dy, "y": y, "starts": starts, "dlast": dlast}
    work = _Work(run, dy, several)
    states = {"dstarts": work.dstarts} if needs.start or several else {}
    if several and needs.dynamics:
        ends = dy.new_empty((batch, plan.layout.chunks, channels, plan.order))
        run.states("states_backward", **states)
        run.scan("states_scan_backward", ends=ends, **states)
        states["ends"] = ends
    dx, in_readout = _input_to_fill(run, needs.x)
    dE, dB = _dynamics_to_fill(plan, dy) if needs.dynamics else (None, None)
    weights, W, bias = _weights_to_fill(run, dy, work)
    encoder, encoder_weight, encoder_bias = _encoder_to_fill(run, work, dx)
    run.states(
        "states_backward", du=work.du, dx=in_readout, dE=dE, dB=dB, **states, **weights, **encoder
    )
    first = None
    if several and not needs.dynamics:
        if needs.start:
            first = dy.new_empty((batch, channels, plan.order), dtype=torch.float64)
        run.scan("states_scan_backward", du=work.du, first=first, **states, **encoder)
    dAd = None if dE is None else dE.sum(0).view(plan.system.Ad.shape)
    dBd = None if dB is None else dB.sum(0).view(plan.system.Bd.shape)
    dm_0 = work.first_state(first) if needs.start else None
    return Gradients(work.of_u, dx, dAd, dBd, W, bias, dm_0, encoder_weight, encoder_bias)


class _Work:
    """One allocation for all that backward needs beside its results; its parts as addresses."""

    def __init__(self, run: Run, like: Tensor, several: bool) -> None:
        plan = self.plan = run.plan
        batch, length, channels = plan.shape
        values = batch * length * channels
        starts = batch * plan.layout.chunks * channels * plan.order
        parts = plan.scan_parts if several else plan.parts
        sizes = (
            values if plan.has_encoder else 0,
            starts,
            plan.parts * plan.sums,
            parts * plan.encoder_sums if plan.has_encoder else 0,
        )
        line = 64 // plan.dtype.itemsize
        self.memory = like.new_empty(sum(whole_lines(size, line) for size in sizes))
        at, addresses = self.memory.data_ptr(), []
        for size in sizes:
            addresses.append(at)
            at += whole_lines(size, line) * plan.dtype.itemsize
        self.of_u = None if plan.has_encoder else like.new_empty(plan.shape)
        self.du = addresses[0] if self.of_u is None else self.of_u
        _, self.dstarts, self.sums, self.encoder_sums = addresses
        self._starts = (self.dstarts - self.memory.data_ptr()) // plan.dtype.itemsize, starts

    def first_state(self, later: Tensor | None) -> Tensor:
        """The gradient of the state before the first chunk, with that by way of later ones."""
        plan, (begin, size) = self.plan, self._starts
        batch, length, channels = plan.shape
        all_starts = self.memory[begin : begin + size]
        own = all_starts.view(batch, -1, channels, plan.order)[:, 0]
        if later is None:
            return own.clone()
        return own + plan.system.advance(later, plan.layout.first(length), adjoint=True)


def _input_to_fill(run: Run, needed: bool) -> tuple[Tensor | None, Tensor | None]:
    """The gradient of the input, and again if the hidden units read it."""
    x = run.tensors.get("encoder_x" if run.plan.has_encoder else "x")
    if not needed or x is None:
        return None, None
    if run.plan.how.features or not run.plan.has_encoder:
        dx = torch.empty_like(x)
        return dx, dx
    return torch.zeros_like(x), None


def _dynamics_to_fill(plan: Plan, like: Tensor) -> tuple[Tensor, Tensor]:
    shape = plan.parts, plan.shape[2] if plan.own else 1, plan.order
    dE = like.new_zeros((*shape, plan.order), dtype=torch.float64)
    return dE, like.new_zeros(shape, dtype=torch.float64)


def _weights_to_fill(
    run: Run, like: Tensor, work: _Work
) -> tuple[dict[str, Any], Tensor | None, Tensor | None]:
    plan, how = run.plan, run.plan.how
    if not how.rows:
        return {}, None, None
    states = plan.shape[2] * plan.order
    W, bias = like.new_empty((how.rows, states + how.features)), like.new_empty((how.rows,))
    start = W.data_ptr()
    weights = {
        "dW_row": states + how.features,
        "dW_m": start,
        "dW_x": start + states * plan.dtype.itemsize,
        "dbias": bias,
        "sums": work.sums,
    }
    return weights, W, bias


def _encoder_to_fill(
    run: Run, work: _Work, dx: Tensor | None
) -> tuple[dict[str, Any], Tensor | None, Tensor | None]:
    if not run.plan.has_encoder:
        return {}, None, None
    W, bias = run.tensors["encoder_weight"], run.tensors["encoder_bias"]
    assert W is not None
    assert bias is not None
    dW, dbias = torch.empty_like(W), torch.empty_like(bias)
    fill = {"encoder_dx": dx, "encoder_dW": dW, "encoder_dbias": dbias}
    return fill | {"encoder_sums": work.encoder_sums}, dW, dbias
