"""Process groups: look-up by name, and the messages between processes."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

Group = Any  # a ProcessGroup, a type that PyTorch built without torch.distributed lacks


def name_of(group: Any) -> str:
    """Return the name by which operators find a group.

    Args:
        group: A process group, a ``DeviceMesh`` of one dimension, or None for all processes.

    Raises:
        RuntimeError: There are no process groups yet.
        TypeError: It is none of these.
        ValueError: The mesh has several dimensions, or this process is not in the group.
    """
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            "there is no process group: start the processes with torchrun and call "
            "torch.distributed.init_process_group() in each"
        )
    if group is None:
        group = dist.group.WORLD
    if isinstance(group, DeviceMesh):
        if group.ndim != 1:
            raise ValueError(
                f"the mesh must have one dimension, that of time, got {group.ndim}: pass a part of "
                f"it, such as mesh[{(group.mesh_dim_names or ('sequence',))[-1]!r}]"
            )
        group = group.get_group()
    if group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("this process is not in the group: pass one that it is in")
    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(
            f"group must be a ProcessGroup, a DeviceMesh or None, got {type(group).__name__}"
        )
    return group.group_name


def resolve(name: str) -> Group:
    """Return the group of a name."""
    from torch._C import _distributed_c10d as c10d  # not in builds without torch.distributed

    return c10d._resolve_process_group(name)  # pyright: ignore[reportArgumentType]


def rank_and_size(name: str) -> tuple[int, int]:
    """Return the rank of this process in the group, and the group's size."""
    group = resolve(name)
    return dist.get_rank(group), dist.get_world_size(group)


class Swap:
    """Send a tensor to one process of the group while receiving one of its shape from another.

    A single message is sent as a batch too: NCCL uses other channels for single messages, and both
    ends must use the same.
    """

    def __init__(self, group: Group, sent: Tensor, to: int | None, source: int | None) -> None:
        self.received, messages = None, []
        self.sent = sent.contiguous()  # kept until it is sent
        if to is not None:
            peer = dist.get_global_rank(group, to)
            messages.append(dist.P2POp(dist.isend, self.sent, peer, group))
        if source is not None:
            self.received = torch.empty_like(self.sent)
            peer = dist.get_global_rank(group, source)
            messages.append(dist.P2POp(dist.irecv, self.received, peer, group))
        self._works = dist.batch_isend_irecv(messages) if messages else []

    def wait(self) -> Tensor | None:
        """Wait for all messages; return the received tensor, if one was expected."""
        for work in self._works:
            work.wait()
        return self.received


@torch.library.custom_op("lmu::agree", mutates_args=())
def agree(like: Tensor, steps: int, group: str) -> Tensor:
    """Exchange the steps of each process (processes,), and check that states fit together.

    Shapes: ``like`` (batch, channels, order), a state. The counts lie on the CPU.
    """
    members = resolve(group)
    on_cpu = torch.device("cpu") in members._device_types
    dtypes = [torch.float32, torch.float64]
    facts = [steps, *like.shape, dtypes.index(like.dtype)]
    own = torch.tensor(facts, device="cpu" if on_cpu else like.device)
    everyone = own.new_empty(dist.get_world_size(members), len(facts))
    dist.all_gather(list(everyone.unbind()), own, members)
    everyone = everyone.cpu()
    if (everyone[:, 1:] != everyone[0, 1:]).any():
        states = [f"{tuple(row[:3])} {dtypes[row[3]]}" for row in everyone[:, 1:].tolist()]
        raise ValueError(
            "all processes must hold steps of the same sequences, with states (batch, channels, "
            f"order) of one shape and dtype, got {', '.join(states)}"
        )
    return everyone[:, 0].clone()


@agree.register_fake
def _(like: Tensor, steps: int, group: str) -> Tensor:
    return torch.empty(rank_and_size(group)[1], dtype=torch.int64)


@torch.library.custom_op("lmu::from_last", mutates_args=())
def from_last(value: Tensor, group: str) -> Tensor:
    """Broadcast the last process' value to all."""
    members = resolve(group)
    result = value.clone(memory_format=torch.contiguous_format)
    last = dist.get_global_rank(members, dist.get_world_size(members) - 1)
    dist.broadcast(result, last, members)
    return result


@torch.library.custom_op("lmu::to_last", mutates_args=())
def to_last(grad: Tensor, group: str) -> Tensor:
    """Sum over all processes, on the last one; zero on the others. Adjoint of `from_last`."""
    members = resolve(group)
    result = grad.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(result, group=members)
    is_last = dist.get_rank(members) == dist.get_world_size(members) - 1
    return result if is_last else result.zero_()


@from_last.register_fake
@to_last.register_fake
def _(value: Tensor, group: str) -> Tensor:
    return torch.empty_like(value, memory_format=torch.contiguous_format)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return to_last(grad, ctx.group), None


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.group = inputs[1]


from_last.register_autograd(_backward, setup_context=_keep)
