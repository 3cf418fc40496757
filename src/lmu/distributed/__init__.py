"""Sequence parallelism: the time steps of a sequence spread over a ``torch.distributed`` group."""

from lmu.distributed.sequence import sequence_parallel, split

__all__ = ["sequence_parallel", "split"]
