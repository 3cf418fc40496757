"""Layers whose sequences are spread over processes, each with consecutive time steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from lmu.distributed._alike import Alike
from lmu.distributed._groups import agree, from_last, name_of, rank_and_size
from lmu.distributed.carry import ALGORITHMS, carry, hand_over
from lmu.layers import LMU, Bidirectional, LegendreMemory, LMUCell, LMUStack
from lmu.ops import System
from lmu.ops._modes import compute_dtype, no_autocast, widen
from lmu.ops.memory.chunked import chunk_states
from lmu.ops.system import channels

Module = TypeVar("Module", bound=nn.Module)

# Layers that are not linear memories in time.
SEQUENTIAL = (LMU, LMUCell, Bidirectional, nn.RNNBase, nn.RNNCellBase)


def sequence_parallel(
    module: Module, group: Any = None, *, steps: Sequence[int] | None = None,
    algorithm: str = "scan",
) -> Module:  # fmt: skip
    r"""Spread the time steps of a model's sequences over processes; in place.

    Process r of the group gives the model its own steps, (batch, T_r, input_size), which follow
    those of process r - 1, and gets the outputs of these steps. Only memory states, (batch,
    memory_channels * memory_size), are sent between processes: see
    :mod:`lmu.distributed.carry`. Outputs and gradients are those of one process that holds all
    steps, up to rounding. Shards may have different lengths.

    A layer's ``state`` is that before the first step of the whole sequence, the same on all
    processes, and the state that it returns (and ``h_n``, and its output if
    ``return_sequences=False``) is that after the last step of the whole sequence, on all processes.

    Backward gives each process its share of the gradients of the sum of all processes' losses:
    over the group, the gradients of a parameter sum to that of one process. With
    ``DistributedDataParallel`` or ``fully_shard``, which take the mean over processes, they are
    those of the mean of the losses. All processes must run the same calls, backward too; one whose
    outputs do not matter adds ``0 * output.sum()``.

    Args:
        module: Holds :class:`lmu.LMUFFT` layers, at any depth, also in :class:`lmu.LMUStack`.
        group: Processes in the order of time: a process group, a ``DeviceMesh`` of one dimension,
            or None for all processes. A group of one process undoes it.
        steps: Number of steps of each process. If None they are exchanged at each call, and the
            host waits for that.
        algorithm: How states are sent: ``"scan"`` takes log2(processes) rounds; in a ``"ring"``
            each process sends one state only, but waits for all before it; ``"gather"`` is one
            collective call, for backends that cannot send to a single process.

    Returns:
        The module.

    Raises:
        RuntimeError: ``torch.distributed`` is not initialized.
        TypeError: The module holds a layer that runs step by step or in both directions.
        ValueError: The module holds no :class:`lmu.LMUFFT`, or an argument is out of range; in the
            first call, the models of the processes differ.
    """
    name = name_of(group)
    rank, size = rank_and_size(name)
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {list(ALGORITHMS)}, got {algorithm!r}")
    if steps is not None and (len(steps) != size or min(steps) < 1):
        raise ValueError(
            f"steps must hold a positive number for each of {size} processes, got {list(steps)}"
        )
    for path, part in module.named_modules():
        if isinstance(part, SEQUENTIAL):
            raise TypeError(
                f"{path or 'the module'} is an {type(part).__name__}, which goes through time step "
                "by step or both ways: only LMUFFT layers can share time among processes"
            )
    parts = [part for part in module.modules() if isinstance(part, (LegendreMemory, LMUStack))]
    if not any(isinstance(part, LegendreMemory) for part in parts):
        raise ValueError(f"{type(module).__name__} holds no LMUFFT")
    counts = None if steps is None else tuple(int(count) for count in steps)
    shards = Shards(name, rank, size, counts, algorithm, Alike(module, name))
    for part in parts:
        vars(part).pop("_shard", None)  # the default: all steps are here
        if size > 1:
            part._shard = shards
    return module


def split(x: Tensor, group: Any = None, *, dim: int = 1) -> Tensor:
    """Return this process' steps of a tensor that all processes hold, split evenly.

    Args:
        x: Such as (batch, time, input_size).
        group: As in :func:`sequence_parallel`.
        dim: The axis of time.

    Raises:
        ValueError: There are fewer steps than processes.
    """
    rank, size = rank_and_size(name_of(group))
    if x.shape[dim] < size:
        raise ValueError(f"{x.shape[dim]} steps are too few for {size} processes: use fewer")
    return x.tensor_split(size, dim)[rank]


@dataclass(frozen=True)
class Shards:
    """Context of a sequence whose steps are spread over processes.

    Attributes:
        group: Name of the process group.
        rank: Rank of this process.
        size: Number of processes.
        steps: Steps of each process; None if they are exchanged at each call.
        algorithm: How states are sent, a key of :data:`lmu.distributed.carry.ALGORITHMS`.
        alike: Compares the models of the processes.
    """

    group: str
    rank: int
    size: int
    steps: tuple[int, ...] | None
    algorithm: str
    alike: Alike

    def start(self, u: Tensor, system: System, m_0: Tensor | None) -> Tensor:
        """The memory before the first step here (batch, channels, order).

        Args:
            u: Encoded input of the steps here (batch, time, channels).
            system: The memory's.
            m_0: Memory before the whole sequence (batch, channels, order); zeros if None.
        """
        return self._ends(u, system, m_0)[0]

    def final(self, u: Tensor, system: System, m_0: Tensor | None) -> Tensor:
        """The memory after the last step here; arguments and result as :meth:`start`."""
        return self._ends(u, system, m_0, both=True)[1]

    def last(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Broadcast values (batch, ...) of the last process to all."""
        parts = [value.flatten(1) for value in values]
        together = torch.cat(parts, dim=1)  # in the widest dtype, which loses nothing
        received = from_last(together, self.group).split([part.shape[1] for part in parts], dim=1)
        return tuple(
            r.reshape(value.shape).to(value.dtype)
            for r, value in zip(received, values, strict=True)
        )

    def _ends(
        self, u: Tensor, system: System, m_0: Tensor | None, *, both: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The memory before the first step here, and after the last.

        The latter from zero, by the steps here alone; with ``both`` by all steps before too.
        """
        self.alike.check()
        length = u.shape[1]
        with no_autocast(u.device):
            u = u.to(compute_dtype(u.dtype))
            m_0 = None if m_0 is None else m_0.to(u.dtype)
            if not system.constant:
                system = System(widen(system.Ad), widen(system.Bd), constant=False)
            Ad = system.Ad
            own = end_state(u, Ad, system.Bd)
            steps = self._counts(own, length)
            values = own  # needed by the later processes
            if m_0 is not None and self.rank == 0:
                values = own + system.advance(m_0, length)
            fixed = system if system.constant else System(Ad.detach(), system.Bd, constant=True)
            with torch.no_grad():
                args = steps, self.group, self.algorithm
                start = carry(values.detach(), fixed.Ad, *args, False)
            if self.rank and Ad.requires_grad:
                values = own + system.advance(start, length)  # for the gradient of Ad
            first = start.new_zeros(start.shape) if m_0 is None else m_0
            start = hand_over(values, start, first, fixed.Ad, *args)
            if m_0 is not None and self.rank == 0:
                start = start + m_0
            # Also from the first process' zeros: its backward must run with that of the others.
            return start, own + system.advance(start, length) if both else own

    def _counts(self, state: Tensor, length: int) -> Tensor:
        if self.steps is None:
            return agree(state.detach(), length, self.group)
        if self.steps[self.rank] != length:
            raise ValueError(
                f"process {self.rank} was to hold {self.steps[self.rank]} steps, got {length}: "
                "give sequence_parallel the right steps, or none, to have them exchanged"
            )
        return torch.tensor(self.steps)


def end_state(u: Tensor, Ad: Tensor, Bd: Tensor) -> Tensor:
    """The memory (batch, channels, order) after the input (batch, time, channels), from zero.

    Cost: 2 b T c d FLOPs, and 2 b c d^2 in each of sqrt(T) sequential steps; memory b T c + sqrt(T)
    b c d floats. Unlike one product over all time it needs no impulse response of that length.
    """
    length = u.shape[1]
    steps = 1 << (length.bit_length() + 1) // 2
    chunks = -(-length // steps)
    # Zeros ahead of the input leave a memory at zero; the states are those before each chunk.
    padded = pad(u.mT, (chunks * steps - length, steps)).unflatten(2, (chunks + 1, steps))
    ends = []
    for c, (A, B, _) in enumerate(channels(u.shape[2], Ad, Bd, None)):
        states = chunk_states(padded[:, c], A, B, u.new_zeros(len(u), len(B)))
        ends.append(states[:, -1].to(u.dtype))
    return torch.stack(ends, dim=1)
