"""What every choice of a method says."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """The method that was picked and the reason, in words."""

    method: str
    reason: str
