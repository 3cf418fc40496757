"""Measure decoding errors of a memory, for docs/concepts.md: ``python -m benchmarks.concepts``.

The figures go to results/concepts.json, which ``docs.figures.concepts`` draws.
"""

import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import machine
from benchmarks.measure import relative_error
from lmu import LegendreMemory
from lmu._files import write_json
from lmu.theory import decode_window, discretize, impulse_response, least_theta, legendre, legt

OUTPUT = Path(__file__).parent.parent / "results" / "concepts.json"
PHASES = 16
WINDOWS = 4  # windows of signal that a memory reads
CYCLES = [2 ** (k / 4) for k in range(-8, 33)]  # a quarter of a cycle to 256 in a window


def memory(order: int, theta: float, discretizer: str = "zoh") -> LegendreMemory:
    """Build a memory of the signal, in float64."""
    return LegendreMemory(order, theta, discretizer=discretizer, dtype=torch.float64)


def sines(cycles: float, theta: int) -> Tensor:
    """Return sines of evenly spaced phases (phases, time, 1), ``cycles`` cycles in a window."""
    t = torch.arange(WINDOWS * theta, dtype=torch.float64)
    phases = torch.arange(PHASES, dtype=torch.float64)[:, None] / PHASES
    return (2 * math.pi * (cycles * t / theta + phases)).sin()[..., None]


@torch.no_grad()
def decoding_error(layer: LegendreMemory, signal: Tensor) -> float:
    """Compute the relative error of the decoded window of a signal (batch, time, 1)."""
    held = layer.decode(layer.final(signal))
    past = signal.flip(1)[:, : held.shape[1]]
    return relative_error(held, past)


def by_frequency(theta: int = 1_000) -> dict[str, Any]:
    """Measure the error of each order at each frequency, and the highest frequency that is held."""
    orders = {}
    for order in (8, 16, 32, 64, 128, 256):
        layer = memory(order, theta)
        errors = [decoding_error(layer, sines(cycles, theta)) for cycles in CYCLES]
        held = {f"{most:g}": _reaches(layer, theta, most) for most in (0.1, 0.01)}
        orders[str(order)] = {"errors": errors, "held": held}
    return {"theta": theta, "cycles": CYCLES, "orders": orders}


def _reaches(layer: LegendreMemory, theta: int, most: float) -> float:
    """Find the frequency, in cycles, up to which the error stays below ``most``, by bisection."""
    low, high = 0.0, float(layer.memory_size)
    while high - low > 0.01:
        middle = (low + high) / 2
        if decoding_error(layer, sines(middle, theta)) < most:
            low = middle
        else:
            high = middle
    return low


def of_noise(theta: int = 512) -> dict[str, Any]:
    """Measure errors of white noise: decoded, by the best linear read-out, and the lower bound."""
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(256, WINDOWS * theta, 1, generator=g, dtype=torch.float64)
    rows = []
    for order in (16, 32, 64, 128, 192, 256, 320, 384, 448, 512):
        rows.append(
            {
                "order": order,
                "decoded": decoding_error(memory(order, theta), noise),
                "best": _best_read_out(order, theta),
                "least": math.sqrt(1 - order / theta),
            }
        )
    return {"theta": theta, "rows": rows}


def _best_read_out(order: int, theta: int) -> float:
    """Error of the linear read-out that recovers most of a window of white noise.

    It projects the past on the span of the impulse responses; so it recovers the energy that an
    orthonormal basis of that span has within the window.
    """
    H = impulse_response(*discretize(*legt(order, theta)), 2 * WINDOWS * theta)
    _, values, basis = torch.linalg.svd(H, full_matrices=False)
    kept = basis[values > 1e-10 * values[0], :theta]
    return math.sqrt(max(0.0, 1 - (kept.square().sum() / theta).item()))


def by_discretizer(order: int = 16) -> dict[str, Any]:
    """Measure the error of a sine of one cycle by steps in a window; None where it is refused."""
    steps = [50, 71, 100, 141, 200, 283, 400, 566, 800, 1131, 1600, 2263, 3200]
    lines = {
        name: [
            decoding_error(memory(order, theta, name), sines(1, theta))
            if theta >= least_theta(order, name)
            else None
            for theta in steps
        ]
        for name in ("zoh", "bilinear", "euler")
    }
    least = {str(order): least_theta(order, "euler") for order in (8, 16, 32, 64, 128, 256)}
    return {"order": order, "theta": steps, "lines": lines, "least_theta_of_euler": least}


def of_half_step(order: int = 32, theta: int = 100, cycles: float = 3) -> dict[str, Any]:
    """Measure errors of decoding k steps back at (k + 1/2) / theta and at k / theta."""
    signal = sines(cycles, theta)
    layer = memory(order, theta)
    m_n = layer.final(signal)
    past = signal[..., 0].flip(1)[:, :theta]
    delays = torch.arange(theta, dtype=torch.float64)
    errors = {}
    for name, shift in (("with", 0.5), ("without", 0.0)):
        errors[name] = relative_error(decode_window(m_n, (delays + shift) / theta), past)
    return {"order": order, "theta": theta, "cycles": cycles, "errors": errors}


def of_rows(theta: int = 784) -> dict[str, Any]:
    """Measure differences between a coefficient's weights of the past and its polynomial."""
    rows = []
    r = (torch.arange(theta, dtype=torch.float64) + 0.5) / theta
    for order in (16, 64, 256, 468, 784):
        H = impulse_response(*discretize(*legt(order, theta)), 2 * WINDOWS * theta)
        polynomials = legendre(order, 2 * r - 1).mT
        polynomials = polynomials * (2 * torch.arange(order)[:, None] + 1) / theta
        apart = (H[:, :theta] - polynomials).norm(dim=1) / polynomials.norm(dim=1)
        outside = H[:, theta:].square().sum() / H.square().sum()
        some = {name: apart[i].item() for name, i in (("0", 0), ("4", 4), ("last", order - 1))}
        rows.append({"order": order, "difference": some, "outside": outside.item()})
    return {"theta": theta, "rows": rows}


def main() -> None:
    """Measure everything and write it."""
    result = {
        "machine": machine(),
        "frequency": by_frequency(),
        "noise": of_noise(),
        "discretizers": by_discretizer(),
        "half_step": of_half_step(),
        "rows": of_rows(),
    }
    write_json(OUTPUT, result)
    sys.stdout.write(f"wrote {OUTPUT.name}\n")


if __name__ == "__main__":
    main()
