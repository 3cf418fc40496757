"""Batch normalization over the batches of all processes."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _SumOverProcesses(torch.autograd.Function):
    """Sum over processes, whose gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Tensor:
        return _SumOverProcesses.forward(ctx, grad_outputs[0].contiguous())


class SharedBatchNorm1d(nn.BatchNorm1d):
    """Normalize (batch, features) by mean and variance over the samples of all processes.

    As ``nn.SyncBatchNorm``, which does not run on CPUs. A sample of weight zero, see
    :class:`lmu.training.batches.Batches`, counts like any other.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize features; outside of training by the running statistics."""
        if not self.training:
            return super().forward(input)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        sums = _SumOverProcesses.apply(torch.cat([x.sum(0), x.new_tensor([len(x)])]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean
        variance = _SumOverProcesses.apply(centred.square().sum(0)) / count
        with torch.no_grad():
            assert self.momentum is not None
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), self.momentum)
        y = centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias
        return y.to(input.dtype)


def share_batch_norm(module: nn.Module) -> None:
    """Make the batch normalizations of a model share statistics over processes, in place."""
    for part in module.modules():
        if type(part) is nn.BatchNorm1d:
            part.__class__ = SharedBatchNorm1d  # the same parameters and buffers
