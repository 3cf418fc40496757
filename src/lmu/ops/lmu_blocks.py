r"""The nonlinear LMU in blocks of time: only the hidden recurrence goes step by step.

The memory is linear, so within a block of L steps it need not be advanced. With ``m`` the state
before the block, the argument of the tanh and the memory's input are, for step s = 0, 1, ...,

    a_s = W_x x_s + W_h h_{s-1} + W_m Ad^{s+1} m + sum_{j<=s} W_m Ad^j Bd u_{s-j}
    u_s = e_x x_s + e_h h_{s-1} + e_m Ad^s m + sum_{j<s} e_m Ad^j Bd u_{s-1-j}

Inserting ``u_s`` into ``a_s`` leaves terms of the past alone. What all steps owe to x and m is one
product a block; a step is one more, ``slot_s += slot_{s-1} M``, and a tanh in place, where a slot
is ``[h_s | u_s u_{s-1} ... | 0]``: M also moves the registers of past inputs along. At the end of
the block these give the next state, ``m + (Ad^L - I) m + sum_j Ad^j Bd u_{L-1-j}``.

Backward runs the same way: ``slot_{s-1} += slot_s M^T`` on slots of gradients, and products over
whole blocks for everything else. The d^2 FLOPs a step that advance the memory fall away, a step
reads n^2 weights in place of n^2 + n d + d^2, and little else is left to call.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmu.ops._autograd import differentiable_backward
from lmu.ops._precision import no_autocast
from lmu.ops.lmu_loop import LMUWeights

ROWS = 64  # rows that products over several blocks want at least


class Powers(NamedTuple):
    """What a block needs of the memory's dynamics; constant unless these are learned."""

    increments: Tensor  # (steps + 1, order, order), Ad^j - I
    H: Tensor  # (steps, order), Ad^j Bd


class Operators(NamedTuple):
    """What a block multiplies; see :func:`block_operators`."""

    X: Tensor  # (input, width): from the input to a slot
    M: Tensor  # (width, width): from a slot to the next
    W: Tensor  # (width, order): from the memory before a step to its slot
    D: Tensor  # (steps + 1, order, order): Ad^j - I
    H: Tensor  # (steps, order): from the registers to the state after the block


def block_length(hidden: int) -> int:
    """Steps of a block: 8 to 23, such that slots fill whole vectors of 16 floats."""
    return 8 + -(hidden + 8) % 16


def block_powers(E: Tensor, Bd: Tensor, steps: int) -> Powers:
    """Increments ``Ad^j - I`` for j <= steps by doubling, and ``Ad^j Bd`` for j < steps.

    ``Ad^{i+j} - I = D_i D_j + D_i + D_j``: nothing close to one is ever rounded.

    Shapes: ``E`` = Ad - I (order, order) and ``Bd`` (order,), better in float64.
    """
    terms = torch.stack([torch.zeros_like(E), E])
    while (n := len(terms)) <= steps:
        # From D_0 ... D_{n-1} the next n-1 ones: D_{n-1+j}, j >= 1.
        known = terms[1 : steps + 2 - n]
        terms = torch.cat([terms, known @ terms[-1] + known + terms[-1]])
    return Powers(terms, Bd + terms[:-1] @ Bd)


def block_operators(weights: LMUWeights, powers: Powers) -> Operators:
    """Build the operators, differentiably."""
    w = weights
    n, k, d = w.W_m.shape[0], w.W_x.shape[1], w.W_m.shape[1]
    D, H = powers
    steps = len(H)
    width = n + steps + -(n + steps) % 16
    # Rows of a and of u beside each other, then u inserted into a; columns of x, h and m.
    kernel = torch.cat([w.W_x, w.W_h, w.W_m + w.W_m @ D[1]], dim=1)
    encoder = torch.cat([w.e_x, w.e_h, w.e_m], dim=1)
    kernel = torch.addmm(kernel, w.W_m @ H[:1].mT, encoder)
    rows = torch.cat([kernel, encoder, kernel.new_zeros(width - n - 1, k + n + d)])
    X, hidden, memory = rows.split((k, n, d), dim=1)
    shift = torch.eye(steps, width - n - 1, dtype=H.dtype, device=H.device)
    registers = H @ memory.mT + torch.nn.functional.pad(shift, (n + 1, 0))
    M = torch.cat([hidden.mT, registers, H.new_zeros(width - n - steps, width)])
    return Operators(X.mT.contiguous(), M, memory.contiguous(), D, H)


def blocks(
    x: Tensor, h: Tensor, m: Tensor, weights: LMUWeights, powers: Powers | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """All hidden states (batch, time, hidden) and the last ``h`` and ``m``.

    Shapes: ``x`` (batch, time, input), ``h`` (batch, hidden) and ``m`` (batch, order) before the
    first step.

    Cost: 2 b T (n^2 + n d + d^2 / L) FLOPs with blocks of L steps, in T sequential steps, and 2 L n
    d^2 once; b T n floats of memory; backward twice that arithmetic.
    """
    length, hidden = x.shape[1], h.shape[1]
    if powers is None:
        wide = (t.to(torch.float64) for t in (weights.E, weights.Bd))
        powers = Powers(*(t.to(x.dtype) for t in block_powers(*wide, block_length(hidden))))
    if length < len(powers.H):
        powers = Powers(powers.increments[: length + 1], powers.H[:length])
    operators = block_operators(weights, powers)
    y, m_n, *_ = BlockLMU.apply(x, h, m, *operators)
    return y, y[:, -1].clone(), m_n


class _Slots:
    """A buffer of slots of one block, and its views, made once: they cost as much as small ops."""

    def __init__(self, like: Tensor, batch: int, steps: int, width: int, hidden: int) -> None:
        self.all = like.new_empty(batch, steps, width)
        self.rows = self.all.view(batch * steps, width)  # a row for each step of each sequence
        self.long = self.all.view(batch, steps * width)  # a row for each sequence
        self.outputs = self.all[..., :hidden]
        self.registers = self.all[:, -1, hidden : hidden + steps]
        self.steps = self.all.unbind(1)
        self.hidden = self.outputs.unbind(1)


class Saved(NamedTuple):
    """What backward needs of forward, besides the arguments."""

    y: Tensor  # (batch, time, hidden)
    registers: Tensor  # (blocks, batch, steps): the memory's inputs, those of a block newest first
    states: Tensor  # (blocks + 1, batch, order): the memory before and after each block
    R: Tensor  # (steps, width, order), W Ad^s: from the state before a block to its slots


class BlockLMU(torch.autograd.Function):
    """``(x, h_0, m_0, *operators) -> (y, m_n, registers, states, R)``."""

    @staticmethod
    def forward(x: Tensor, h_0: Tensor, m_0: Tensor, *operators: Tensor):
        """Shapes as in :func:`blocks` and :class:`Saved`."""
        y, *rest = saved = _forward(x, h_0, m_0, Operators(*operators))
        return y, saved.states[-1].clone(), *rest

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what backward needs."""
        y, _, *rest = output
        ctx.mark_non_differentiable(*rest)
        ctx.save_for_backward(y, *rest, *inputs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        """Gradients of all arguments; those of the dynamics only where they are wanted."""
        tensors, (dy, dm) = ctx.saved_tensors, grad_outputs[:2]
        saved, inputs = Saved(*tensors[:4]), tensors[4:]
        if torch.is_grad_enabled():  # a derivative of the gradients is wanted
            return differentiable_backward(plain, inputs, (dy, dm), ctx.needs_input_grad)
        with no_autocast(dy.device):
            x, h_0, _, *operators = inputs
            return _backward(x, h_0, saved, Operators(*operators), dy, dm, ctx.needs_input_grad)


def plain(x: Tensor, h: Tensor, m: Tensor, *operators: Tensor) -> tuple[Tensor, Tensor]:
    """What :class:`BlockLMU` computes, by autograd."""
    o = Operators(*operators)
    n, steps = h.shape[1], len(o.H)
    outputs = []
    for x_b in x.split(steps, dim=1):
        size = x_b.shape[1]
        given = x_b @ o.X + m @ o.W.mT + (m @ o.D[:size].mT @ o.W.mT).transpose(0, 1)
        slot = torch.nn.functional.pad(h, (0, len(o.M) - n))
        for base in given.unbind(1):
            total = base + slot @ o.M
            h = torch.tanh(total[:, :n])
            slot = torch.cat([h, total[:, n:]], dim=1)
            outputs.append(h)
        m = m + m @ o.D[size].mT + slot[:, n : n + size] @ o.H[:size]
    return torch.stack(outputs, dim=1), m


def _forward(x: Tensor, h_0: Tensor, m_0: Tensor, o: Operators) -> Saved:
    (batch, length, k), n = x.shape, h_0.shape[1]
    steps, width = len(o.H), len(o.M)
    number = -(-length // steps)
    y = x.new_empty(batch, length, n)
    registers = x.new_zeros(number, batch, steps)
    states = x.new_empty(number + 1, batch, m_0.shape[1])
    states[0] = m_0
    W = o.W.expand(steps, -1, -1)
    R = torch.baddbmm(W, W, o.D[:-1])
    with torch.inference_mode():  # the same kernels, called with less ado
        to_slots = R.flatten(0, 1).mT
        to_slots = to_slots.contiguous() if batch > 1 else to_slots  # one row reads it either way
        M, first, E = o.M, o.M[:n], o.D[-1].mT
        buffers = [_Slots(x, batch, steps, width, n) for _ in range(min(2, length // steps))]
        h, m = h_0, states[0]
        for i, (x_b, y_b, m_b, reg) in enumerate(
            zip(x.split(steps, 1), y.split(steps, 1), states[1:], registers, strict=True)
        ):
            size = x_b.shape[1]
            whole = size == steps
            s = buffers[i % 2] if whole else _Slots(x, batch, size, width, n)
            torch.mm(x_b.reshape(batch * size, k), o.X, out=s.rows)
            s.long.addmm_(m, to_slots if whole else to_slots[:, : size * width])
            slot = s.steps[0].addmm_(h, first)
            h = s.hidden[0].tanh_()
            for following, h in zip(s.steps[1:], s.hidden[1:], strict=True):
                slot = following.addmm_(slot, M)
                h.tanh_()
            y_b.copy_(s.outputs)
            reg[:, :size].copy_(s.registers)
            torch.addmm(m, m, E if whole else o.D[size].mT, out=m_b)
            m = m_b.addmm_(s.registers, o.H[:size])
    return Saved(y, registers, states, R)


def _backward(
    x: Tensor, h_0: Tensor, saved: Saved, o: Operators, dy: Tensor, dm: Tensor,
    needed: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Gradients of ``x``, ``h_0``, ``m_0`` and the operators."""
    back = _Backward(x, h_0, saved, o, dy, dm, needed)
    batch, length, steps = x.shape[0], x.shape[1], len(o.H)
    whole, rest = divmod(length, steps)
    group = max(1, min(whole, ROWS // batch))
    with torch.inference_mode():
        if rest:
            back.group(whole, whole + 1, _Workspace(x, h_0, o, 1, rest))
        if whole:
            workspace = _Workspace(x, h_0, o, group, steps)
        for stop in range(whole, 0, -group):
            back.group(max(0, stop - group), stop, workspace)
        back.finish()
    return back.dx, back.dh, back.dm.clone(), *back.of


class _Workspace:
    """Buffers of backward for a group of blocks, used for one group after the other."""

    def __init__(self, x: Tensor, h: Tensor, o: Operators, blocks: int, steps: int) -> None:
        batch, width = len(x), len(o.M)
        self.size = steps
        self.slots = _Slots(x, batch, steps, width, h.shape[1])
        self.slope = torch.empty_like(self.slots.outputs, memory_format=torch.contiguous_format)
        self.slopes = self.slope.unbind(1)
        self.grads = self.slots.all[None]  # of the arguments of tanh and of u, in each slot
        if blocks > 1:
            self.grads = x.new_empty(blocks, batch, steps, width)
        self.before = x.new_zeros(blocks, batch, steps, width)  # the slots that led to each slot


class _Backward:
    """Backward in groups of blocks from the end; the products want many rows."""

    def __init__(
        self, x: Tensor, h_0: Tensor, saved: Saved, o: Operators, dy: Tensor, dm: Tensor,
        needed: tuple[bool, ...],
    ) -> None:  # fmt: skip
        self.x, self.h_0, self.saved, self.o, self.dy, self.dm = x, h_0, saved, o, dy, dm
        self.dx = torch.empty_like(x) if needed[0] else None
        self.dh = torch.zeros_like(h_0)
        self.of = Operators(*(torch.zeros_like(t) for t in o))
        self.dR = torch.zeros_like(saved.R)
        self.learned = needed[6] or needed[7]
        self.MT = o.M.mT.contiguous()
        self.one = x.new_ones(())

    def group(self, start: int, stop: int, space: _Workspace) -> None:
        """Go back over blocks ``start`` to ``stop``, which have the size of the workspace."""
        for i in range(stop - 1, start - 1, -1):
            self._block(i, space)
            if len(space.grads) > 1:
                space.grads[i - start].copy_(space.slots.all)
        number, size, first = stop - start, space.size, start * len(self.o.H)
        of, grads = self.of, space.grads[:number]
        flat = grads.flatten(0, 2)
        of.M.addmm_(self._fill_before(start, number, space).mT, flat)
        x = self.x[:, first : first + number * size].unflatten(1, (number, size)).transpose(0, 1)
        of.X.addmm_(x.flatten(0, 2).mT, flat)
        states = self.saved.states[start:stop].flatten(0, 1)
        self.dR[:size].flatten(0, 1).addmm_(grads.flatten(2).flatten(0, 1).mT, states)
        if self.dx is not None:
            dx = (flat @ self.o.X.mT).view_as(x).transpose(0, 1).flatten(1, 2)
            self.dx[:, first : first + number * size] = dx

    def _block(self, i: int, space: _Workspace) -> None:
        """The sequential part: the gradients of a block's slots, and of the states before it."""
        s, o, size, saved = space.slots, self.o, space.size, self.saved
        inside = slice(i * len(o.H), i * len(o.H) + size)
        s.outputs.copy_(self.dy[:, inside])
        s.all[..., s.outputs.shape[2] :].zero_()
        torch.mm(self.dm, o.H[:size].mT, out=s.registers)
        s.hidden[-1].add_(self.dh)
        torch.addcmul(self.one, saved.y[:, inside], saved.y[:, inside], value=-1, out=space.slope)
        slot = None
        for earlier, g, slope in zip(s.steps[::-1], s.hidden[::-1], space.slopes[::-1], strict=True):
            slot = earlier if slot is None else earlier.addmm_(slot, self.MT)
            g.mul_(slope)
        torch.mm(s.steps[0], self.MT[:, : self.dh.shape[1]], out=self.dh)
        if self.learned:
            self.of.H[:size].addmm_(saved.registers[i, :, :size].mT, self.dm)
            self.of.D[size].addmm_(self.dm.mT, saved.states[i])
        dm = torch.addmm(self.dm, self.dm, o.D[size])
        self.dm = dm.addmm_(s.long, saved.R[:size].flatten(0, 1))

    def _fill_before(self, start: int, number: int, space: _Workspace) -> Tensor:
        """The slots before each step, (blocks * batch * steps, width)."""
        size, first, n = space.size, start * len(self.o.H), self.h_0.shape[1]
        h = self.saved.y[:, max(first - 1, 0) : first + number * size - 1]
        if first == 0:
            h = torch.cat([self.h_0[:, None], h], dim=1)
        before = space.before[:number]
        before[..., :n] = h.unflatten(1, (number, size)).transpose(0, 1)
        # Registers hold a block's inputs, the newest first: before step s are its last s.
        registers = self.saved.registers[start : start + number, :, :size]
        past = torch.nn.functional.pad(registers, (0, size)).unfold(2, size, 1)
        before[..., n : n + size] = past[:, :, 1:].flip(2)
        return before.flatten(0, 2)

    def finish(self) -> None:
        """From the gradient of ``R_s = W + W D_s`` to those of W and D."""
        for dR_s, D_s in zip(self.dR, self.o.D, strict=False):
            self.of.W.add_(dR_s).addmm_(dR_s, D_s.mT)
        if self.learned:
            self.of.D[:-1].baddbmm_(self.o.W.mT.expand(len(self.dR), -1, -1), self.dR)
