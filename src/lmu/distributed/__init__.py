"""Sequences whose steps are spread over the processes of a ``torch.distributed`` group."""

from lmu.distributed.sequence import sequence_parallel, split

__all__ = ["sequence_parallel", "split"]
