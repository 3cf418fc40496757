"""The context of a sequence of which only a stretch of time may be here."""

from typing import Protocol

from torch import Tensor

from lmu.ops import System
from lmu.ops.memory.dispatch import run_final_state


class Shard(Protocol):
    """Questions that a layer asks because its steps may be only a part of the sequence's."""

    def start(self, u: Tensor, system: System, m_0: Tensor | None) -> Tensor | None:
        """The memory before the first step here, from that before the sequence."""
        ...

    def final(
        self, u: Tensor, system: System, m_0: Tensor | None, likely: int | None = None
    ) -> Tensor:
        """The memory after the last step here; ``likely`` is the length that is expected."""
        ...

    def last(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Values (batch, ...) of the sequence's last step, from those of the last step here."""
        ...


class WholeSequence:
    """All steps are here."""

    def start(self, u: Tensor, system: System, m_0: Tensor | None) -> Tensor | None:
        """The same."""
        return m_0

    def final(
        self, u: Tensor, system: System, m_0: Tensor | None, likely: int | None = None
    ) -> Tensor:
        """The last state."""
        return run_final_state(u, system, m_0, likely)

    def last(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The same."""
        return values


WHOLE: Shard = WholeSequence()
