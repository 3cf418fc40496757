"""What a training step of a layer costs whose time is spread over processes: a model, in seconds.

Of assumed machines, for sizes that no test can reach; docs/scale.md tells what it leaves out.
"""

from dataclasses import dataclass
from math import ceil, log2

from lmu.ops.memory.chunked import chunk_length


@dataclass(frozen=True)
class Machine:
    """Rates of one process and its network, assumed: an accelerator of today on InfiniBand."""

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
    """Of one process.

    Attributes:
        steps: Time steps that it holds.
        output_bytes: Of its outputs.
        compute: Seconds of its arithmetic, forward and backward.
        carry: Seconds of carrying states there and gradients back, by each way.
        sent: Bytes that it sends, by each way.
    """

    steps: float
    output_bytes: float
    compute: float
    carry: dict[str, float]
    sent: dict[str, float]

    def efficiency(self, way: str) -> float:
        """Share of the time that is spent on what one process would have to do too."""
        return self.compute / (self.compute + self.carry[way])


def model(work: Work, processes: int, machine: Machine | None = None) -> Step:
    """The cost of a training step."""
    m = machine or Machine()
    b, d, r, R = work.batch, work.order, work.hidden, processes
    steps = work.length / R
    chunk = chunk_length(int(steps), d, r)
    compute = 6 * b * steps * ((chunk + d) * r + d) / m.flops
    state = 4 * b * d
    # A product for each bit that is set in the number of steps: half of them.
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
        carry={way: 2 * seconds + others for way, seconds in carry.items()},
        sent={
            "scan": 2 * (1 + rounds) * state,
            "ring": 2 * state,
            "gather": 2 * (R - 1) * state,
        },
    )
