"""Model of the cost of a training step of a layer whose time is spread over processes.

It is for assumed machines and untested sizes; docs/scale.md says what it leaves out.
"""

from dataclasses import dataclass
from math import ceil, log2

from lmu.ops.memory.chunked import chunk_length


@dataclass(frozen=True)
class Machine:
    """Rates of one process and its network, assumed: an accelerator on InfiniBand."""

    flops: float = 20e12  # float32 products, as reached
    double_flops: float = 20e12  # float64 products of the few rows of a state
    launch: float = 5e-6  # seconds until a kernel runs
    latency: float = 20e-6  # seconds until a message arrives, with the call
    bandwidth: float = 25e9  # bytes a second, each way


@dataclass(frozen=True)
class Work:
    """One layer with all its outputs, in float32."""

    length: float
    order: int
    hidden: int
    batch: int = 1


@dataclass(frozen=True)
class Step:
    """Cost of a training step in one process.

    Attributes:
        steps: Time steps of the process.
        output_bytes: Size of its outputs.
        compute: Seconds of its arithmetic, forward and backward.
        carry: Seconds of carrying states forward and gradients back, by algorithm.
        sent: Bytes that it sends, by algorithm.
    """

    steps: float
    output_bytes: float
    compute: float
    carry: dict[str, float]
    sent: dict[str, float]

    def efficiency(self, algorithm: str) -> float:
        """Fraction of the time that is spent on arithmetic."""
        return self.compute / (self.compute + self.carry[algorithm])


def model(work: Work, processes: int, machine: Machine | None = None) -> Step:
    """Estimate the cost of a training step."""
    m = machine or Machine()
    b, d, r, R = work.batch, work.order, work.hidden, processes
    steps = work.length / R
    chunk = chunk_length(int(steps), d, r)
    compute = 6 * b * steps * ((chunk + d) * r + d) / m.flops
    state = 4 * b * d
    # A product for each bit set in the number of steps: half of the bits.
    advance = log2(steps) / 2 * (m.launch + 2 * b * d * d / m.double_flops)
    message = m.latency + state / m.bandwidth
    rounds = ceil(log2(R))
    carry = {
        "scan": (1 + rounds) * message + rounds * advance,
        "ring": (R - 1) * (message + advance),
        "gather": rounds * m.latency + (R - 1) * (state / m.bandwidth + advance),
    }
    # The exchange of counts, and the last state to all and its gradient back.
    others = 4 * rounds * message
    return Step(
        steps=steps,
        output_bytes=4 * b * steps * r,
        compute=compute,
        carry={algorithm: 2 * seconds + others for algorithm, seconds in carry.items()},
        sent={
            "scan": 2 * (1 + rounds) * state,
            "ring": 2 * state,
            "gather": 2 * (R - 1) * state,
        },
    )
