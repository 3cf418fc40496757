"""Sequences whose steps are spread over the processes of a ``torch.distributed`` group."""

from lmu.distributed.sequence import Shards, sequence_parallel, split

__all__ = ["Shards", "sequence_parallel", "split"]
