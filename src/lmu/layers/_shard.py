"""The context of a sequence of which only a stretch of time is here."""

from typing import Protocol

from torch import Tensor

from lmu.ops import System


class Shard(Protocol):
    """Answers that a memory needs if its steps are only a part of the sequence's."""

    def start(self, u: Tensor, system: System, m_0: Tensor | None) -> Tensor | None:
        """The memory before the first step here, from that before the sequence."""
        ...

    def final(self, u: Tensor, system: System, m_0: Tensor | None) -> Tensor:
        """The memory after the last step here."""
        ...

    def last(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Values (batch, ...) of the sequence's last step, from those of the last step here."""
        ...
