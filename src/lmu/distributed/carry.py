r"""Memory states carried from the steps of one process to those of the next.

Process r holds T_r steps. Let f_r be the state after these steps from a zero state. As the memory
is linear, the state before its first step is

    s_r = sum_{j<r} Ad^{T_{j+1} + ... + T_{r-1}} f_j,

a scan over processes, which sends only these states. Its adjoint is the same sum over the processes
after it, with Ad transposed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lmu.distributed._groups import Group, Swap, resolve
from lmu.ops.system import System, system_of

PIECE = 1 << 16  # bytes of a message of the ring: it takes longer to send than to start


@dataclass(frozen=True)
class Line:
    """The processes in the order in which states are carried, and the system that advances them.

    Attributes:
        group: The process group.
        system: The memory's system, in the dtype for powers.
        steps: Steps of each process, in this order.
        place: Place of this process in the order.
        reverse: True for the adjoint, carried from the last process to the first.
    """

    group: Group
    system: System
    steps: tuple[int, ...]
    place: int
    reverse: bool

    def advance(self, state: Tensor, first: int, last: int) -> Tensor:
        """Advance a state by the steps of the processes at places ``first`` to ``last`` - 1."""
        steps = sum(self.steps[first:last])
        return self.system.advance(state, steps, adjoint=self.reverse)

    def swap(self, sent: Tensor, ahead: int, *, send: bool, receive: bool) -> Swap:
        """Send to the process ``ahead`` places later, receive from the one as many earlier."""
        to, source = self.place + ahead, self.place - ahead
        return Swap(
            self.group,
            sent,
            self.rank(to) if send and to < len(self.steps) else None,
            self.rank(source) if receive and source >= 0 else None,
        )

    def rank(self, place: int) -> int:
        """Return the rank of the process at a place."""
        return len(self.steps) - 1 - place if self.reverse else place


def scan(values: Tensor, line: Line) -> Tensor:
    """Carry states by a parallel scan: each round adds up twice as many processes.

    Cost: 1 + log2(processes) rounds, in each of which a process sends and receives one state.
    """
    received = line.swap(values, 1, send=True, receive=True).wait()
    state = torch.zeros_like(values) if received is None else received
    ahead = 1
    while ahead < len(line.steps):
        # The first process has nothing to add to the others.
        received = line.swap(state, ahead, send=line.place > 0, receive=line.place > ahead).wait()
        if received is not None:
            state = state + line.advance(received, line.place - ahead, line.place)
        ahead *= 2
    return state


def ring(values: Tensor, line: Line) -> Tensor:
    """Carry states from one process to the next in pieces, a pipeline over processes.

    Cost: as many rounds as there are processes and pieces, but each process sends one state only.
    """
    pieces = max(1, min(len(values), values.nbytes // PIECE))
    states, sent = [], []
    for value in values.tensor_split(pieces):
        received = line.swap(value, 1, send=False, receive=True).wait()
        state = torch.zeros_like(value) if received is None else received
        states.append(state)
        if line.place + 1 < len(line.steps):
            after = value + line.advance(state, line.place, line.place + 1)
            sent.append(line.swap(after, 1, send=True, receive=False))
    for message in sent:
        message.wait()
    return torch.cat(states)


def gather(values: Tensor, line: Line) -> Tensor:
    """Gather all states on all processes; each adds up those before it.

    Cost: one collective call; each process receives as many states as there are processes.
    """
    everyone = [torch.empty_like(values) for _ in line.steps]
    dist.all_gather(everyone, values.contiguous(), line.group)
    state = torch.zeros_like(values)
    for place in range(line.place):
        state = everyone[line.rank(place)] + line.advance(state, place, place + 1)
    return state


ALGORITHMS: dict[str, Callable[[Tensor, Line], Tensor]] = {
    "scan": scan,
    "ring": ring,
    "gather": gather,
}


@torch.library.custom_op("lmu::carry", mutates_args=())
def carry(
    values: Tensor, Ad: Tensor, steps: Tensor, group: str, algorithm: str, reverse: bool
) -> Tensor:
    """Exclusive scan of each process' values over the processes; the adjoint with ``reverse``.

    Shapes: ``values`` (batch, channels, order), ``Ad`` (order, order) or (channels, order, order)
    in the dtype for powers, ``steps`` (processes,) on the CPU; returns a state as ``values``.
    """
    members = resolve(group)
    rank, counts = dist.get_rank(members), tuple(steps.tolist())
    if reverse:
        counts, rank = counts[::-1], len(counts) - 1 - rank
    return ALGORITHMS[algorithm](values, Line(members, system_of(Ad), counts, rank, reverse))


@carry.register_fake
def _(
    values: Tensor, Ad: Tensor, steps: Tensor, group: str, algorithm: str, reverse: bool
) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


@torch.library.custom_op("lmu::hand_over", mutates_args=())
def hand_over(
    ends: Tensor, starts: Tensor, first: Tensor, Ad: Tensor, steps: Tensor, group: str,
    algorithm: str,
) -> Tensor:  # fmt: skip
    """Return the carried states ``starts`` with gradients to the processes that sent them.

    Forward, they were carried already. Backward, the gradient of a process' start is passed to the
    ends of those before it. The state ``first`` before all steps gets a zero gradient: if it needs
    one, all processes' backward must run, although only one of them uses it.
    """
    return starts.clone()


@hand_over.register_fake
def _(
    ends: Tensor, starts: Tensor, first: Tensor, Ad: Tensor, steps: Tensor, group: str,
    algorithm: str,
) -> Tensor:  # fmt: skip
    return torch.empty_like(starts)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    Ad, steps = ctx.saved_tensors
    ends = carry(grad, Ad, steps, ctx.group, ctx.algorithm, True)
    return ends, None, torch.zeros_like(ends), None, None, None, None


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, _, _, Ad, steps, ctx.group, ctx.algorithm = inputs
    ctx.save_for_backward(Ad, steps)


hand_over.register_autograd(_backward, setup_context=_keep)
