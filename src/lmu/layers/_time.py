"""Where the steps of a sequence are."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from lmu.ops import final_memory

# From a number of steps to the impulse response of at least so many, if that is kept.
Response = Callable[[int], Tensor | None]


class Time(Protocol):
    """What a layer must ask because its steps may be only a part of the sequence's."""

    def start(self, u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None) -> Tensor | None:
        """The memory before the first step here, from that before the sequence."""
        ...

    def final(
        self, u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None, response: Response
    ) -> Tensor:
        """The memory after the last step here."""
        ...

    def last(self, *values: Tensor) -> tuple[Tensor, ...]:
        """What the last step of the sequence has, (batch, ...) each, from that of the last here."""
        ...


class WholeTime:
    """All steps are here."""

    def start(self, u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None) -> Tensor | None:
        """The same."""
        return m_0

    def final(
        self, u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None, response: Response
    ) -> Tensor:
        """The last state."""
        return final_memory(u, Ad, Bd, m_0, H=response(u.shape[1]))

    def last(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The same."""
        return values


WHOLE: Time = WholeTime()
