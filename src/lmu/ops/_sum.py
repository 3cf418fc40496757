"""A memory in parts, so that increments in float32 add up without losing digits."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmu.ops._modes import power_dtype, widen
from lmu.theory.rounding import flush, narrow

STRETCH = 64  # steps that add up in float32, and decay, by too little to matter
FOLD = 8  # blocks of the nonlinear LMU, likewise


class Sum(NamedTuple):
    """The memory in a loop over steps: ``m = base + delta``, in the dtype of the computation.

    Increments of some steps are added up in ``delta``, which stays small enough for that, and then
    to ``total``, in float64, of which ``base`` is the narrow copy. Where few steps need no such
    care, or the dtype is float64 already, ``delta`` is all of the memory.
    """

    total: Tensor | None
    base: Tensor | None
    delta: Tensor
    m: Tensor

    @staticmethod
    def start(m: Tensor, dtype: torch.dtype, length: int) -> "Sum":
        """Begin a loop over ``length`` steps; a memory that is wider than ``dtype`` stays so."""
        # A compiler needs a tensor for each part, and must not specialize on the length.
        simple = m.dtype == dtype and not torch.compiler.is_compiling()
        if simple and (length <= STRETCH or dtype == power_dtype(m.device)):
            return Sum(None, None, m, m)
        return _begin(widen(m), dtype)

    def advance(self, u: Tensor, E: Tensor, Bd: Tensor) -> "Sum":
        """Advance one step, ``m + E m + Bd u``."""
        delta = torch.addmm(torch.addmm(self.delta, u, Bd.mT), self.m, E.mT)
        m = delta if self.base is None else self.base + delta
        return Sum(self.total, self.base, delta, m)

    def fold(self) -> "Sum":
        """Add ``delta`` to the total, and set numbers that are about to become denormal to zero."""
        if self.total is None:
            m = flush(self.delta)
            return Sum(None, None, m, m)
        return _begin(self.total + self.delta, self.delta.dtype)

    def pack(self) -> tuple[Tensor | None, ...]:
        """Return the tensors that a loop carries; compiled, where none may alias, the total."""
        if torch.compiler.is_compiling() and self.total is not None:
            return (self.total + self.delta,)
        return (*self,)

    @staticmethod
    def unpack(parts: Any, dtype: torch.dtype) -> "Sum":
        """Undo :meth:`pack`."""
        return _begin(parts[0], dtype) if len(parts) == 1 else Sum(*parts)

    def end(self, dtype: torch.dtype) -> Tensor:
        """Return the memory, in ``dtype``."""
        return self.delta if self.total is None else narrow(self.total + self.delta, dtype)


def _begin(total: Tensor, dtype: torch.dtype) -> Sum:
    base = flush(total.to(dtype))
    delta = torch.zeros_like(base)
    return Sum(total, base, delta, base)
