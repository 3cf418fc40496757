"""Layers in PyTorch's own wrappers for several processes; imported by those of the tests."""

import warnings
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel

from lmu import LMUStack
from tests import variants

KINDS = ["LMUFFT", "LMUFFT-last", "LMUFFT-theta", "LMUFFT-gelu", "LMU", "LMU-e_m", "LMU-sigmoid",
         "stack"]  # fmt: skip


def build(kind: str) -> nn.Module:
    """The same layer in all processes."""
    return variants.build(kind, dtype=torch.float64)


def batch(rank: int, length: int) -> Tensor:
    """A batch of a process."""
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(2, length, 3, dtype=torch.float64, generator=generator)


def lengths_of_their_own(group: Any, kind: str) -> tuple[float, float, int]:
    """Errors of outputs and gradients, and broadcasts, where each process has its own length."""
    rank = dist.get_rank(group)
    model = DistributedDataParallel(build(kind), process_group=group)
    broadcasts, private = [], cast(Any, dist)  # what DDP sends buffers by
    plain = private._broadcast_coalesced
    private._broadcast_coalesced = lambda *given: (broadcasts.append(1), plain(*given))
    errors, wrong = [], 0.0
    try:
        for steps in ((20, 30), (50, 11), (30, 90)):
            model.zero_grad()
            y = model(batch(rank, steps[rank]))[0]
            with warnings.catch_warnings():
                # Of an encoder with one row: no error, says PyTorch.
                warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
                y.square().sum().backward()
            alone = build(kind)
            right = [alone(batch(r, steps[r]))[0] for r in (0, 1)]
            sum(each.square().sum() / 2 for each in right).backward()  # pyright: ignore
            errors.append((y - right[rank]).abs().max().item())
            pairs = zip(model.parameters(), alone.parameters(), strict=True)
            wrong = max((p.grad - q.grad).abs().max().item() for p, q in pairs)  # pyright: ignore
    finally:
        private._broadcast_coalesced = plain
    return max(errors), wrong, len(broadcasts)


def fully_sharded(group: Any, kind: str, original: bool) -> float:
    """The error of a stack whose layers FSDP wraps, over two calls with a state."""
    rank = dist.get_rank(group)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, alone = build(kind), build(kind)
        options = {
            "process_group": group, "device_id": torch.device("cpu"), "use_orig_params": original
        }  # fmt: skip
        assert isinstance(model, LMUStack)
        for i, layer in enumerate(model.layers):
            model.layers[i] = FullyShardedDataParallel(layer, **options)
        wrapped = FullyShardedDataParallel(model, **options)
        x = batch(rank, 20)
        y, state = wrapped(x[:, :8])
        y = torch.cat([y, wrapped(x[:, 8:], state)[0]], dim=1)
        y.sum().backward()
        return (y - alone(x)[0]).abs().max().item()
