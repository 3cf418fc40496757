"""Training over one sequence of up to a million steps, beside cuDNN's LSTM and the textbook."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.baselines import NaiveLMUFFT, TextbookLMUFFT
from benchmarks.gpu.layers import layer
from benchmarks.gpu.session import Session, tf32
from benchmarks.work import Contender, pixels, training
from lmu import LMUFFT

THETA = 4096.0
LENGTHS = tuple(4**k for k in range(6, 11))
TEXTBOOK = "textbook: FFT of all states"
LARGEST = 2**26  # numbers in the textbook's impulse response
PATIENCE = 1.0  # seconds of a training step; slower contenders are left out at greater lengths
TOLERANCE = 1e-4


def measure(s: Session) -> None:
    """Time a training step at each length; outputs of the first steps must be right."""
    lengths = (64, 256) if s.quick else LENGTHS
    with tf32(False):
        for order, hidden in ((8, 8),) if s.quick else ((64, 64), (256, 256)):
            slow: set[str] = set()
            exact, why = s.attempt("length", lambda o=order, n=hidden: [first(o, n, lengths[0])])
            if why:
                continue
            for length in lengths:
                title = f"order {order}, hidden {hidden}, T {length}, training step"
                if s.late(title):
                    continue
                figures = s.compare(
                    title,
                    without(slow, checked_builds(s, order, hidden, length, lengths[0])),
                    exact,
                    TOLERANCE,
                    without(slow, unchecked_builds(s, hidden, length)),
                )
                for key in sorted(slow):
                    figures[key] = {"status": f"left out: over {PATIENCE:g} s a step before"}
                for key, row in figures.items():
                    if "seconds" in row:
                        row["seconds_per_time_step"] = row["seconds"] / length
                        if row["seconds"] > PATIENCE:
                            slow.add(key)
                s.rows.append(
                    {"title": title, "order": order, "hidden": hidden, "length": length,
                     "contenders": figures}
                )  # fmt: skip


def without(names: set[str], builds: dict) -> dict:
    """Return the builds that are not among the names."""
    return {key: build for key, build in builds.items() if key not in names}


def checked_builds(s: Session, order: int, hidden: int, length: int, checked: int) -> dict:
    """Return builds of LMUFFT and of the textbook, with the same weights."""

    def build(kind: Callable[..., nn.Module]) -> nn.Module:
        return layer(kind, LMUFFT, (1, hidden, order, length, THETA), s.device)

    builds: dict[str, Any] = {"LMUFFT": partial(build, LMUFFT)}
    if order * length <= LARGEST:
        builds[TEXTBOOK] = partial(build, TextbookLMUFFT)
    else:
        s.left_out[f"{TEXTBOOK}, order {order}, T {length}"] = (
            "its impulse response is transformed in float64 on the CPU, which takes over 4 GiB"
        )
    return {key: partial(train, b, length, checked) for key, b in builds.items()}


def unchecked_builds(s: Session, hidden: int, length: int) -> dict:
    """Return a build of PyTorch's LSTM, on CUDA that of cuDNN."""
    return {
        f"nn.LSTM(1, {hidden})": partial(
            train, lambda: nn.LSTM(1, hidden, batch_first=True).to(s.device), length, None
        )
    }


@torch.no_grad()
def first(order: int, hidden: int, length: int) -> Tensor:
    """Compute the first ``length`` outputs by the naive reference in float64 on the CPU."""
    naive = layer(NaiveLMUFFT, LMUFFT, (1, hidden, order, length, THETA), "cpu")
    return naive.double()(pixels(1, torch.float32, length).double())[0]


def train(build: Callable[[], nn.Module], length: int, checked: int | None) -> Contender:
    """Build a training step whose first ``checked`` outputs are compared; None: no comparison."""
    built = build()
    x = pixels(1, torch.float32, length).to(next(built.parameters()).device)
    with torch.no_grad():
        gradient = torch.randn_like(built(x)[0])

    def result() -> list[Tensor]:
        with torch.no_grad():
            return [built(x)[0][:, :checked]]

    return Contender(training(built, x, gradient), None if checked is None else result)
