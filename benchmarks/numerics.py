"""Measure rounding errors of a memory, for docs/numerics.md: ``python -m benchmarks.numerics``."""

import sys
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.machine import machine
from benchmarks.measure import relative_error
from experiments.capacity.data import band_limited_noise
from lmu._files import write_json
from lmu.ops import memory
from lmu.theory import discretize, impulse_response, least_theta, legt, noise_gain

OUTPUT = Path(__file__).parent.parent / "results" / "numerics.json"
CASES = ((16, 100), (16, 1_000), (16, 10_000), (16, 100_000), (64, 1_000), (256, 1_000))
SIGNALS = 8
EULER = (
    (1, 0.51),
    (4, 5.5),
    (12, 10),
    (12, 50),
    (16, 60),
    (16, 90),
    (16, 200),
    (64, 700),
    (64, 1_600),
    (256, 2_000),
)
EULER += ((256, 6_800), (256, 13_000), (256, 27_000), (468, 19_000), (468, 92_000))


def last_state(Ad: Tensor, Bd: Tensor, u: Tensor, increment: bool) -> Tensor:
    """Compute the last state (signals, order) of ``u`` (signals, time), step by step in its dtype.

    A step is ``m += (Ad - I) m + Bd u`` or ``m = Ad m + Bd u``; the layers keep more digits.
    """
    identity = torch.eye(len(Bd), dtype=Ad.dtype)
    matrix = ((Ad - identity) if increment else Ad).to(u.dtype).mT.contiguous()
    drive = u.mT[..., None] * Bd.to(u.dtype)
    m = torch.zeros(len(u), len(Bd), dtype=u.dtype)
    for d in drive:
        m = m + (d.addmm(m, matrix)) if increment else d.addmm(m, matrix)
    return m


def errors(order: int, theta: int) -> dict[str, float]:
    """Measure the relative error after two windows, for each form of a step in float32."""
    u = band_limited_noise(4 * theta, theta, seed=0, cutoff=3, batch=SIGNALS)[:, : 2 * theta]
    u = u.float().double()
    A, B = legt(order, float(theta))
    exact = memory(u[..., None], *discretize(A, B), method="naive")[1][:, 0]
    rounded = discretize(A.float(), B.float())
    states = {
        "increment": last_state(*discretize(A, B), u.float(), increment=True),
        "product": last_state(*discretize(A, B), u.float(), increment=False),
        "float32 discretization": last_state(*rounded, u.float(), increment=False),
    }
    return {form: relative_error(m, exact) for form, m in states.items()}


def largest(Ad: Tensor, Bd: Tensor, steps: int, block: int = 1024) -> float:
    """Compute the largest ``|z_i|`` for inputs of size 1, the L1 norm of the impulse response."""
    H = impulse_response(Ad, Bd, block)
    ahead = torch.linalg.matrix_power(Ad, block)
    total = torch.zeros_like(Bd)
    for _ in range(0, steps, block):
        total += H.abs().sum(dim=1)
        H = ahead @ H
    return (total / (2 * torch.arange(len(Bd)) + 1).sqrt()).max().item()


def euler(order: int, theta: float) -> dict[str, float | int | bool | None]:
    """Measure size and growth of the powers of Euler's matrix, over four windows or 1,024 steps."""
    Ad, Bd = discretize(*legt(order, float(theta)), "euler-unchecked")
    figures = {
        "radius": torch.linalg.eigvals(Ad).abs().max().item(),
        "gain": noise_gain(Ad, Bd, theta),
        "largest": largest(Ad, Bd, max(1024, int(4 * theta))),
    }
    finite = {name: value if value < 1e6 else None for name, value in figures.items()}
    accepted = theta > least_theta(order, "euler")
    return {"order": order, "theta": theta, **finite, "accepted": accepted}


def main() -> None:
    """Measure all cases and write the results."""
    rows = [{"order": o, "theta": t, "errors": errors(o, t)} for o, t in CASES]
    results = {"machine": machine(), "rows": rows, "euler": [euler(o, t) for o, t in EULER]}
    write_json(OUTPUT, results)
    sys.stdout.write(f"wrote {OUTPUT.name}\n")


if __name__ == "__main__":
    main()
