r"""States that are carried from the steps of one process to those of the next.

Process r holds T_r steps. From its own steps alone, starting at zero, it would end in the state
f_r. As the memory is linear, the state before its first step is

    s_r = sum_{j<r} Ad^{T_{j+1} + ... + T_{r-1}} f_j,

a scan over processes of which only these states travel. Its adjoint is the same sum over the
processes behind, with Ad transposed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lmu.distributed._groups import Group, Swap, resolve
from lmu.ops.system import System, system_of

PIECE = 1 << 16  # bytes of a message of the ring: what takes longer to send than to start


@dataclass(frozen=True)
class Line:
    """The processes in the order in which states are carried, and what advances a state.

    Attributes:
        group: Them.
        system: The memory's, in the dtype for powers.
        steps: Of each process, in this order.
        place: Of this process in it.
        reverse: Whether the order is from the last process to the first, and what is carried the
            adjoint.
    """

    group: Group
    system: System
    steps: tuple[int, ...]
    place: int
    reverse: bool

    def advance(self, state: Tensor, first: int, last: int) -> Tensor:
        """Let the steps of the processes from place ``first`` to before ``last`` pass."""
        steps = sum(self.steps[first:last])
        return self.system.advance(state, steps, adjoint=self.reverse)

    def swap(self, given: Tensor, ahead: int, *, send: bool, receive: bool) -> Swap:
        """Send to the process so many places ahead, receive from the one so far behind."""
        to, source = self.place + ahead, self.place - ahead
        return Swap(
            self.group,
            given,
            self.rank(to) if send and to < len(self.steps) else None,
            self.rank(source) if receive and source >= 0 else None,
        )

    def rank(self, place: int) -> int:
        """The process at a place."""
        return len(self.steps) - 1 - place if self.reverse else place


def scan(values: Tensor, line: Line) -> Tensor:
    """Add up twice as many processes in each round.

    Cost: 1 + log2(processes) rounds, in each of which a process sends one state and gets one.
    """
    got = line.swap(values, 1, send=True, receive=True).wait()
    state = torch.zeros_like(values) if got is None else got
    ahead = 1
    while ahead < len(line.steps):
        # The first process has nothing to add to the others.
        got = line.swap(state, ahead, send=line.place > 0, receive=line.place > ahead).wait()
        if got is not None:
            state = state + line.advance(got, line.place - ahead, line.place)
        ahead *= 2
    return state


def ring(values: Tensor, line: Line) -> Tensor:
    """From one process to the next, in pieces, so that many processes have one in hand.

    Cost: as many rounds as there are processes and pieces, but each process sends one state only.
    """
    pieces = max(1, min(len(values), values.nbytes // PIECE))
    states, sent = [], []
    for value in values.tensor_split(pieces):
        got = line.swap(value, 1, send=False, receive=True).wait()
        state = torch.zeros_like(value) if got is None else got
        states.append(state)
        if line.place + 1 < len(line.steps):
            after = value + line.advance(state, line.place, line.place + 1)
            sent.append(line.swap(after, 1, send=True, receive=False))
    for message in sent:
        message.wait()
    return torch.cat(states)


def gather(values: Tensor, line: Line) -> Tensor:
    """All states to all processes, each of which adds up what it needs.

    Cost: one collective call; each process gets as many states as there are processes.
    """
    everyone = [torch.empty_like(values) for _ in line.steps]
    dist.all_gather(everyone, values.contiguous(), line.group)
    state = torch.zeros_like(values)
    for place in range(line.place):
        state = everyone[line.rank(place)] + line.advance(state, place, place + 1)
    return state


WAYS: dict[str, Callable[[Tensor, Line], Tensor]] = {"scan": scan, "ring": ring, "gather": gather}


@torch.library.custom_op("lmu::carry", mutates_args=())
def carry(values: Tensor, Ad: Tensor, steps: Tensor, group: str, way: str, reverse: bool) -> Tensor:
    """The scan of what each process adds, without itself; of the adjoint with ``reverse``.

    Shapes: ``values`` (batch, channels, order), ``Ad`` (order, order) or (channels, order, order)
    in the dtype for powers, ``steps`` (processes,) on the CPU; returns a state as ``values``.
    """
    members = resolve(group)
    rank, counts = dist.get_rank(members), tuple(steps.tolist())
    if reverse:
        counts, rank = counts[::-1], len(counts) - 1 - rank
    return WAYS[way](values, Line(members, system_of(Ad), counts, rank, reverse))


@carry.register_fake
def _(values: Tensor, Ad: Tensor, steps: Tensor, group: str, way: str, reverse: bool) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


@torch.library.custom_op("lmu::hand_over", mutates_args=())
def hand_over(
    ends: Tensor, starts: Tensor, first: Tensor, Ad: Tensor, steps: Tensor, group: str, way: str
) -> Tensor:
    """The states ``starts``, which came from the processes before and have the gradients of theirs.

    Forward, they were carried already. Backward, the gradient of a process' start is passed to the
    ends of those before it. The state ``first`` before all steps has no part in that, but if it
    needs a gradient, all processes' backward must run, although only one of them uses it.
    """
    return starts.clone()


@hand_over.register_fake
def _(
    ends: Tensor, starts: Tensor, first: Tensor, Ad: Tensor, steps: Tensor, group: str, way: str
) -> Tensor:
    return torch.empty_like(starts)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    Ad, steps = ctx.saved_tensors
    ends = carry(grad, Ad, steps, ctx.group, ctx.way, True)
    return ends, None, torch.zeros_like(ends), None, None, None, None


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, _, _, Ad, steps, ctx.group, ctx.way = inputs
    ctx.save_for_backward(Ad, steps)


hand_over.register_autograd(_backward, setup_context=_keep)
