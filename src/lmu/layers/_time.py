"""Where the steps of a sequence are."""

from typing import Protocol

from torch import Tensor

from lmu.ops import System, final_state


class Time(Protocol):
    """What a layer must ask because its steps may be only a part of the sequence's."""

    def start(self, u: Tensor, system: System, m_0: Tensor | None) -> Tensor | None:
        """The memory before the first step here, from that before the sequence."""
        ...

    def final(
        self, u: Tensor, system: System, m_0: Tensor | None, likely: int | None = None
    ) -> Tensor:
        """The memory after the last step here; ``likely`` is the length that is expected."""
        ...

    def last(self, *values: Tensor) -> tuple[Tensor, ...]:
        """What the last step of the sequence has, (batch, ...) each, from that of the last here."""
        ...


class WholeTime:
    """All steps are here."""

    def start(self, u: Tensor, system: System, m_0: Tensor | None) -> Tensor | None:
        """The same."""
        return m_0

    def final(
        self, u: Tensor, system: System, m_0: Tensor | None, likely: int | None = None
    ) -> Tensor:
        """The last state."""
        return final_state(u, system, m_0, likely)

    def last(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The same."""
        return values


WHOLE: Time = WholeTime()
