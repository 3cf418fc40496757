"""Training of stacks whose parameters are sharded; imported by the processes of the tests."""

import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from lmu import LMU, LMUFFT, LMUStack
from lmu.distributed import sequence_parallel, split
from tests.distributed.work import numbers

STEPS = 4


def build(kind: str) -> LMUStack:
    """A stack with the same weights in every process."""
    torch.manual_seed(0)
    if kind == "parallel":
        return LMUStack([LMUFFT(3, 8, 6, None, 12.0), LMUFFT(8, 8, 5, None, 9.0)]).double()
    learned: dict[str, Any] = {"learn_theta": kind == "learned theta"}
    layers = [LMUFFT(3, 8, 6, None, 12.0, **learned), LMU(8, 8, 6, 12.0, **learned)]
    return LMUStack(layers).double()


def batch() -> Tensor:
    """Sequences of all processes."""
    torch.manual_seed(1)
    return torch.randn(4, 20, 3, dtype=torch.float64)


def train(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Losses of a few steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model(x)[0].square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def alone(kind: str) -> tuple[list[float], dict[str, Any]]:
    """Losses and weights of one process with all sequences."""
    model = build(kind)
    losses = [loss.item() for loss in train(model, batch())]
    return losses, {name: numbers(value) for name, value in model.state_dict().items()}


def sharded(
    group: Any, kind: str, *, compile: bool = False, narrow: bool = False, over_time: bool = False
) -> tuple[list[float], dict[str, Any], Any]:
    """Losses, weights and the first layer's theta of processes that share all."""
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    mesh = DeviceMesh.from_group(group, "cpu")
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if narrow else None
    options: dict[str, Any] = {"mesh": mesh} | ({"mp_policy": policy} if policy else {})
    model = build(kind)
    if over_time:
        sequence_parallel(model, mesh)
    for layer in model.layers:
        if compile:
            # One graph; what the default backend makes of it is tested in tests/layers.
            layer.compile(fullgraph=True, backend="aot_eager")
        fully_shard(layer, **options)
    fully_shard(model, **options)
    x = split(batch(), mesh) if over_time else batch().chunk(size)[rank]
    with warnings.catch_warnings():
        # Outputs are views; who changes one in place is told.
        warnings.filterwarnings("ignore", ".*returned a view tensor", UserWarning)
        # The compiler's own.
        warnings.filterwarnings("ignore", ".*grad attribute of a Tensor that is not a leaf")
        warnings.filterwarnings("ignore", ".torch.jit.script")
        losses = torch.stack(train(model, x))
    dist.all_reduce(losses, group=group)
    weights = {name: weight.full_tensor() for name, weight in model.state_dict().items()}
    assert "theta=" in repr(model)
    theta: Any = model.layers[0].theta
    return (
        [loss / size for loss in losses.tolist()],
        {name: numbers(value) for name, value in weights.items()},
        theta,
    )
