"""Ceilings of the GPU: rates of products, copies, launches and transforms."""

from collections.abc import Callable
from math import log2

import torch
from torch import Tensor

from benchmarks.gpu.session import Session, tf32
from benchmarks.measure import gemm_rate, seconds


def measure(s: Session) -> None:
    """Measure every ceiling: the best of several runs."""
    for name, (unit, work) in ceilings(s).items():
        if s.late(name):
            continue
        values, why = s.attempt(name, lambda work=work: [work() for _ in range(s.rounds + 1)][1:])
        if why:
            s.left_out[name] = why
            continue
        best = min(values) if unit == "s" else max(values)
        s.rows.append({"name": name, "value": best, "unit": unit, "all": values})
        s.say(f"  {name}: {best:.3g} {unit}")


def ceilings(s: Session) -> dict[str, tuple[str, Callable[[], float]]]:
    """Return the unit and a run of each ceiling, by name; the first run is not counted."""
    size = s.gemm_size
    rates: dict[str, tuple[str, Callable[[], float]]] = {
        f"GEMM {name}": ("FLOP/s", lambda allowed=allowed: rate(s, allowed))
        for name, allowed in s.precisions.items()
    }
    rates["GEMM bfloat16"] = ("FLOP/s", lambda: gemm_rate(size, torch.bfloat16, s.device))
    rates["GEMM float64"] = (
        "FLOP/s",
        lambda: gemm_rate(min(size, 4096), torch.float64, s.device),
    )
    rates["copy, read and written"] = ("B/s", lambda: copies(s))
    rates["launch, one after the other"] = ("s", lambda: seconds(one_launch(s), 1000))
    rates["launch and wait"] = ("s", lambda: waits(s))
    rates["complex64 FFT"] = ("FLOP/s", lambda: transforms(s))
    return rates


def rate(s: Session, allowed: bool) -> float:
    """Measure FLOPs a second of a large product of float32, with or without TensorFloat-32."""
    with tf32(allowed):
        return gemm_rate(s.gemm_size, device=s.device)


def copies(s: Session) -> float:
    """Measure bytes a second of copying 1 GiB, or a tenth of a small GPU's memory."""
    size = 2**18 if s.quick else 2**28
    if s.cuda:
        size = min(size, torch.cuda.get_device_properties(s.device).total_memory // 40)
    source = torch.rand(size, device=s.device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), 5)


def one_launch(s: Session) -> Callable[[], Tensor]:
    """Build the smallest kernel launch."""
    one = torch.zeros(1, device=s.device)
    return lambda: one.add_(1)


def waits(s: Session) -> float:
    """Measure seconds of a launch and the wait for its end."""
    launch = one_launch(s)

    def work() -> None:
        launch()
        if s.cuda:
            torch.cuda.synchronize()

    return seconds(work, 200)


def transforms(s: Session) -> float:
    """Measure FLOPs a second of complex transforms of 2,048 points, counted as 5 n log2 n."""
    n, rows = 2048, 16 if s.quick else 8192
    x = torch.randn(rows, n, device=s.device, dtype=torch.complex64)
    return 5 * rows * n * log2(n) / seconds(lambda: torch.fft.fft(x), 5)
