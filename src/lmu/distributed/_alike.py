"""Check that the processes of a sequence hold the same model."""

import ctypes
import hashlib
import weakref
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lmu.distributed._groups import Group, resolve
from lmu.layers import LegendreMemory


class Alike:
    """Compares a model with that of the other processes, once, at the first call.

    Not earlier, as ``DistributedDataParallel``, which makes the weights equal, may wrap it later.

    Args:
        module: The model.
        group: Name of the process group.
    """

    def __init__(self, module: nn.Module, group: str) -> None:
        self.module, self.group, self.done = weakref.ref(module), group, False

    def check(self) -> None:
        """Raise on all processes if they differ; a compiled first call is not compared."""
        module = self.module()
        if self.done or module is None or torch.compiler.is_compiling():
            return
        self.done = True
        compare(describe(module), resolve(self.group))


def describe(module: nn.Module) -> dict[str, Any]:
    """Describe dynamics, shapes and weights, which must be equal; sharded weights are left out."""
    facts: dict[str, Any] = {}
    for path, part in module.named_modules():
        if isinstance(part, LegendreMemory):
            owner = path.removesuffix("memory").rstrip(".") or "the layer"
            facts[f"theta and discretizer of {owner}"] = str(part._facts())
    sharded = any(hasattr(part, "_fsdp_wrapped_module") for part in module.modules())
    for name, parameter in module.named_parameters():
        if not (sharded or hasattr(parameter, "device_mesh") or parameter.is_meta):
            facts[f"the weights {name}"] = _digest(parameter)
    return facts


def _digest(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous()
    content = ctypes.string_at(values.data_ptr(), values.nbytes)
    return f"{tuple(tensor.shape)} {tensor.dtype} {hashlib.sha256(content).hexdigest()}"


def compare(facts: dict[str, Any], group: Group) -> None:
    """Gather the facts of all processes and compare them.

    Raises:
        ValueError: They differ; on all processes.
    """
    everyone: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(everyone, facts, group=group)
    first = everyone[0]
    for rank, other in enumerate(everyone):
        names = [name for name in first | other if first.get(name) != other.get(name)]
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(
                f"processes 0 and {rank} of a sequence hold different models: {names[0]}{more} "
                "differ. Build it with the same arguments and torch.manual_seed() in each, load "
                "one checkpoint, or wrap it in DistributedDataParallel before the first call"
            )
