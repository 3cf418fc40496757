"""What a piece of work costs by each method, and what every choice of a method says."""

from dataclasses import dataclass
from math import log2

import torch

from lmu._arguments import whole, word
from lmu.ops.chunked import chunk_length
from lmu.ops.fft import fast_length
from lmu.ops.fft_readout import GROUP, plan
from lmu.ops.lmu_operators import block_length


@dataclass(frozen=True)
class Cost:
    """Arithmetic of a forward pass, and the memory it needs at the most beyond its arguments."""

    flops: float
    bytes: float  # of float32


@dataclass(frozen=True)
class Choice:
    """The method that was picked, the reason in words, and the cost where it is known."""

    method: str
    reason: str
    cost: Cost | None = None


_ONE, _NONE = whole(1), whole(0)
_RULES = (
    ("length", _ONE),
    ("order", _ONE),
    ("channels", _ONE),
    ("rows", _NONE),
    ("batch", _NONE),
    ("device", word),
)


@dataclass(frozen=True)
class Work:
    """A memory, or the hidden units that read it, over a sequence.

    Attributes:
        length: Time steps.
        order: Of the memory.
        rows: Hidden units; 0 if only states are wanted.
        batch: Sequences.
        channels: Memories.
        device: Its type, such as ``"cpu"``.
    """

    length: int
    order: int
    rows: int = 0
    batch: int = 1
    channels: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        if torch.compiler.is_compiling():
            return
        for name, rule in _RULES:
            rule(name, getattr(self, name))

    def choice(self, method: str, reason: str) -> Choice:
        """A choice with its cost."""
        cost = self.readout_cost(method) if self.rows else self.states_cost(method)
        return Choice(method, reason, cost)

    def lmu_cost(self, method: str) -> Cost:
        """Cost of a nonlinear LMU with ``rows`` hidden units."""
        b, T, d, n = self.batch, self.length, self.channels * self.order, self.rows
        outputs = 4.0 * b * T * n
        if method == "parallel":
            steps = chunk_length(T, d, n)
            return Cost(
                2.0 * b * T * n * (n + d + steps), 2 * outputs + 4.0 * (steps + d) * steps * n
            )
        if method == "loop":
            return Cost(2.0 * b * T * (n * n + n * d + d * d), outputs + 4.0 * b * T * (n + d))
        steps = min(T, block_length(n, self.channels))
        width = n + steps * self.channels
        flops = 2.0 * b * T * (width**2 + n * d + d * d / steps) + 2.0 * steps * n * d * d
        return Cost(flops, outputs + 4.0 * (2 * b + d) * steps * width)

    def states_cost(self, method: str) -> Cost:
        """Cost of all states, or for ``"final"`` of the last."""
        b, T, c, d = self.batch, self.length, self.channels, self.order
        states = 4.0 * b * T * c * d
        if method == "final":
            return Cost(2.0 * b * T * c * d, 4.0 * b * c * (T + d))
        if method in {"recurrent", "reference"}:
            return Cost(2.0 * b * T * c * d * d, 2 * states)
        if method == "chunked":
            steps = chunk_length(T, d, d)
            flops = 2.0 * b * T * c * (steps + d) * d + 2.0 * steps * d**3
            return Cost(flops, states + 4.0 * (steps + d) * steps * d)
        n = fast_length(2 * T - 1)
        return Cost(b * c * d * (2.5 * n * log2(n) + 3.0 * n), 8.0 * b * c * d * n)

    def readout_cost(self, method: str) -> Cost:
        """Cost of the hidden units at all steps."""
        b, T, c, d, r = self.batch, self.length, self.channels, self.order, self.rows
        outputs = 4.0 * b * T * r
        if method == "final":
            states = self.states_cost("final")
            return Cost(states.flops + 2.0 * b * c * d * r, states.bytes + 4.0 * b * r)
        if method == "states":
            states = self.states_cost("recurrent" if T == 1 else "fft")
            return Cost(states.flops + 2.0 * b * T * c * d * r, states.bytes + 2 * outputs)
        if method in {"chunked", "triton"}:
            steps = chunk_length(T, d, r)
            inputs = steps if method == "chunked" else steps / 2  # none above the diagonal
            flops = 2.0 * b * T * c * (inputs + d) * r + 2.0 * c * steps * d * d * r
            return Cost(flops, outputs + 4.0 * c * (steps + d) * steps * r)
        p = plan(T)
        transforms = 2.5 * p.n * log2(p.n) * r * (b + c * p.pieces)
        products = 4.0 * p.n * b * c * p.pieces * r + 2.0 * r * d * T * c
        return Cost(transforms + products, outputs + 4.0 * (GROUP + 2 * c * p.pieces * r * p.n))

    def states_seconds(self, method: str) -> float:
        """Estimated seconds of all states, forward and backward; only their ratios matter."""
        if method == "chunked":
            return self._chunked_seconds(self.states_cost(method).flops, self.order)
        values = self.batch * self.length * self.channels * self.order
        return values * STATE * _out_of_cache(8.0 * self.length * self.order, 0.15)

    def readout_seconds(self, method: str) -> float:
        """Estimated seconds of all hidden units, forward and backward; only ratios matter."""
        values = self.batch * self.length * self.rows
        if method == "chunked":
            return self._chunked_seconds(self.readout_cost(method).flops, self.rows)
        if method == "states":
            products = 6.0 * values * self.channels * self.order / GEMM
            return self.states_seconds("fft") + products + values * WRITE[4 * values > 2**25]
        p = plan(self.length)
        weight = p.n * (13 + p.pieces * self.channels) * (self.batch + self.channels * p.pieces)
        return weight * self.rows * CUT * _out_of_cache(4.0 * p.n * self.rows, 0.35)

    def _chunked_seconds(self, flops: float, rows: int) -> float:
        values = self.batch * self.length * rows
        chunks = self.length / chunk_length(self.length, self.order, rows)
        return 3 * flops / GEMM + values * PASS_ON[4 * values > 2**24] + STEP * chunks


# Fitted to runs of all methods on two cores, forward and backward; see docs/engine.md.
GEMM = 3e11  # FLOPs a second of matrix products
STATE = 6e-9  # seconds of a state, by FFT
CUT = 3e-10  # seconds of a unit of a plan's weight, for each row
STEP = 2e-5  # seconds of the recurrence from one chunk to the next
# Seconds of a result that is written, passed on and read again, in all states and in chunks; the
# second where there are so many that the system must hand out their memory page by page.
WRITE = (2e-9, 5e-9)
PASS_ON = (4e-9, 7e-9)


def _out_of_cache(size: float, slower: float) -> float:
    """How much slower transforms get with each doubling of what one sequence takes, in bytes."""
    return 1 + slower * max(0.0, log2(size / 2**20))


def compare(quicker: float, slower: float) -> str:
    """How much quicker, in words."""
    if not quicker:  # of an empty batch
        return "as fast as"
    return f"about {slower / quicker:.1f} times as fast as"
