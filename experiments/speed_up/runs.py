"""Times of a training step of each layer, by a hand-written loop without Lightning's overhead."""

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.record import write_record
from lmu import LMU, LMUFFT
from lmu.models import SequenceClassifier
from lmu.tasks.psmnist.config import PRESETS
from lmu.tasks.psmnist.data import CLASSES, PIXELS
from lmu.training.lightning import flushed_denormals


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Attributes:
        batch_size: Sequences in a step of training.
        length: Time steps of a sequence.
        samples: Sequences of an epoch, for the time of an epoch.
        rounds: Measurements of each model, all models in turns.
        device: Device, ``"cpu"`` or ``"cuda"``.
        seed: Seed of weights, data and the order in the rounds.
    """

    batch_size: int = 100
    length: int = PIXELS
    samples: int = 60_000
    rounds: int = 5
    device: str = "cpu"
    seed: int = 0


class StepByStep(nn.Module):
    """An LMUFFT that runs step by step.

    Args:
        layer: The layer.
    """

    def __init__(self, layer: LMUFFT) -> None:
        super().__init__()
        self.layer, self.hidden_size = layer, layer.hidden_size

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last output (batch, hidden_size), twice, for (batch, time, input_size)."""
        output, state = self.layer.step(x[:, 0])
        for x_t in x[:, 1:].unbind(1):
            output, state = self.layer.step(x_t, state)
        return output, output


def _lmufft(length: int, **arguments: Any) -> LMUFFT:
    size = PRESETS["lmufft"]
    assert size.memory_size is not None
    return LMUFFT(1, size.hidden_size, size.memory_size, length, float(length), **arguments)


def _lmu(length: int, model: str) -> LMU:
    size = PRESETS[model]
    assert size.memory_size is not None
    return LMU(1, size.hidden_size, size.memory_size, float(length), return_sequences=False)


# The published sizes of psMNIST, and PyTorch's layers with as many parameters as the first.
LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "LMUFFT 346/468": lambda n: _lmufft(n, return_sequences=False),
    "LMUFFT 346/468, outputs at all steps": _lmufft,
    "LMUFFT 346/468, step by step": lambda n: StepByStep(_lmufft(n)),
    "LMU 212/256": lambda n: _lmu(n, "lmu"),
    "LMU 346/468": lambda n: _lmu(n, "lmufft"),
    "nn.LSTM 201": lambda _: nn.LSTM(1, PRESETS["lstm"].hidden_size, batch_first=True),
    "nn.GRU 232": lambda _: nn.GRU(1, PRESETS["gru"].hidden_size, batch_first=True),
}


def run(settings: Settings, output: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Time a step of training, forward, backward and Adam, of each model, and write the figures.

    Args:
        settings: See :class:`Settings`.
        output: The JSON file.
        say: Called with lines of progress.

    Returns:
        The figures: a row for each model.

    Raises:
        ValueError: The device is neither cpu nor cuda, or missing.
    """
    if settings.device not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu or cuda, got {settings.device!r}")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but PyTorch finds no CUDA device here: use cpu")
    with flushed_denormals():
        times, parameters = _times(settings, say)
    first = statistics.median(times[next(iter(times))])
    rows = [_row(name, times[name], first, parameters[name], settings) for name in times]
    for row in rows:
        say(f"{row['model']:<40} {row['seconds']:.3g} s a step, x {row['ratio']:.3g}")
    device = torch.cuda.get_device_name() if settings.device == "cuda" else "cpu"
    write_record(output, "speed-up", asdict(settings), rows=rows, device=device)
    return {"rows": rows}


def _times(
    settings: Settings, say: Callable[[str], None]
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Measure the time of a step in each round, and count the parameters, of each model."""
    torch.manual_seed(settings.seed)
    order = random.Random(settings.seed)
    built = {name: _training_step(build, settings) for name, build in LAYERS.items()}
    for step, _ in built.values():
        step()  # warm-up
    times: dict[str, list[float]] = {name: [] for name in built}
    for number in range(settings.rounds):
        for name in order.sample(list(built), len(built)):
            times[name].append(_seconds(built[name][0], settings.device))
        say(f"round {number + 1} of {settings.rounds}")
    return times, {name: parameters for name, (_, parameters) in built.items()}


def _training_step(
    build: Callable[[int], nn.Module], settings: Settings
) -> tuple[Callable[[], None], int]:
    """Build a training step on random sequences; return it and the number of parameters."""
    model = SequenceClassifier(build(settings.length), CLASSES).to(settings.device)
    optimizer = torch.optim.Adam(model.parameters())
    x = torch.rand(settings.batch_size, settings.length, 1, device=settings.device)
    y = torch.randint(CLASSES, (settings.batch_size,), device=settings.device)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step, sum(p.numel() for p in model.parameters())


def _seconds(step: Callable[[], None], device: str) -> float:
    """Measure the mean time of a step, repeated for at least a tenth of a second."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    wait()
    start, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - start < 0.1:
        step()
        wait()
        count += 1
    return (time.perf_counter() - start) / count


def _row(
    name: str, times: list[float], first: float, parameters: int, settings: Settings
) -> dict[str, Any]:
    median = statistics.median(times)
    return {
        "model": name,
        "parameters": parameters,
        "seconds": median,
        "fastest": min(times),
        "slowest": max(times),
        "ratio": median / first,
        "epoch_seconds": median * settings.samples / settings.batch_size,
    }
