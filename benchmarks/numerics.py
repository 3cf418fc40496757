"""What rounding does to a memory, for docs/numerics.md: ``python -m benchmarks.numerics``."""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.machine import machine
from lmu.tasks.capacity import band_limited_noise
from lmu.theory import discretize, legt

OUTPUT = Path(__file__).parent.parent / "results" / "numerics.json"
WAYS = ("increment", "product", "float32 discretization")
CASES = ((16, 100), (16, 1_000), (16, 10_000), (16, 100_000), (64, 1_000), (256, 1_000))
SIGNALS = 8


def run(Ad: Tensor, Bd: Tensor, u: Tensor, increment: bool) -> Tensor:
    """The last state (signals, order), step by step in the dtype of ``u`` (signals, time)."""
    identity = torch.eye(len(Bd), dtype=Ad.dtype)
    matrix = ((Ad - identity) if increment else Ad).to(u.dtype).mT.contiguous()
    drive = u.mT[..., None] * Bd.to(u.dtype)
    m = torch.zeros(len(u), len(Bd), dtype=u.dtype)
    for d in drive:
        m = m + (d.addmm(m, matrix)) if increment else d.addmm(m, matrix)
    return m


def errors(order: int, theta: int) -> dict[str, float]:
    """Relative error of the state after two windows, by how a step is done in float32."""
    u = band_limited_noise(4 * theta, theta, seed=0, cutoff=3, batch=SIGNALS)[:, : 2 * theta]
    u = u.float().double()
    A, B = legt(order, float(theta))
    exact = run(*discretize(A, B), u, increment=False)
    got = {
        "increment": run(*discretize(A, B), u.float(), increment=True),
        "product": run(*discretize(A, B), u.float(), increment=False),
        "float32 discretization": run(*discretize(A.float(), B.float()), u.float(), False),
    }
    return {way: ((m - exact).norm() / exact.norm()).item() for way, m in got.items()}


def main() -> None:
    """Measure all cases and write them."""
    rows = [{"order": o, "theta": t, "errors": errors(o, t)} for o, t in CASES]
    OUTPUT.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n")
    sys.stdout.write(f"wrote {OUTPUT.name}\n")


if __name__ == "__main__":
    main()
