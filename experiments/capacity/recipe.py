"""Runs of the capacity experiment: decoding untrained memories, training an LSTM, recording."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from experiments.capacity.data import band_limited_noise
from experiments.capacity.figures import draw
from experiments.capacity.models import DelayLine, decoding_error
from experiments.record import write_record
from lmu import LegendreMemory
from lmu.training.batches import Share
from lmu.training.lightning import fit
from lmu.training.module import Optimization, TrainingModule
from lmu.training.objective import Regression
from lmu.training.pictures import write_figure


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Attributes:
        windows: Lengths of the window in steps.
        orders: Orders of the Legendre memory.
        points: Number of evenly spaced delays at which the window is decoded.
        signals: Test signals, each of four windows.
        reads: Moments at which each signal's memory is decoded.
        lstm_windows: Windows for which an LSTM is trained.
        lstm_units: Its hidden units.
        lstm_seconds: Seconds of its training for each window.
        seed: Seed of signals and weights.
    """

    windows: tuple[int, ...] = (100, 1_000, 10_000, 100_000)
    orders: tuple[int, ...] = (24, 50, 100)
    points: int = 21
    signals: int = 4
    reads: int = 100
    lstm_windows: tuple[int, ...] = (100, 1_000)
    lstm_units: int = 100
    lstm_seconds: float = 300.0
    seed: int = 0


def run(settings: Settings, output: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Decode the memory's window, train the LSTM for comparison, write figures and a picture.

    Args:
        settings: See :class:`Settings`.
        output: The JSON file; the picture is written beside it.
        say: Called with lines of progress.

    Returns:
        The figures: a row for each model and window with the errors by delay.
    """
    rows = []
    for window in settings.windows:
        signal = _signal(settings, window, settings.seed)
        for order in settings.orders:
            rows.append(_memory_row(settings, window, order, signal))
            say(_in_words(rows[-1]))
        if window in settings.lstm_windows:
            rows.append(_lstm_row(settings, window, signal))
            say(_in_words(rows[-1]))
    write_record(output, "capacity", asdict(settings), rows=rows)
    write_figure(output.with_suffix(".png"), draw(rows))
    return {"rows": rows}


def _signal(settings: Settings, window: int, seed: int) -> Tensor:
    noise = band_limited_noise(4 * window, window, seed=seed, batch=settings.signals)
    return noise.float()


def _delays(settings: Settings, window: int) -> Tensor:
    return torch.linspace(0, window - 1, settings.points).long()


def _memory_row(settings: Settings, window: int, order: int, signal: Tensor) -> dict[str, Any]:
    start = time.perf_counter()
    delays = _delays(settings, window)
    error = decoding_error(LegendreMemory(order, window), signal, delays, reads=settings.reads)
    return _row(f"LMU, order {order}", window, delays, error, 0, time.perf_counter() - start)


def _row(
    model: str, window: int, delays: Tensor, error: Tensor, trained: int, seconds: float
) -> dict[str, Any]:
    return {
        "model": model,
        "window": window,
        "delays": delays.tolist(),
        "nrmse": error.tolist(),
        "mean_nrmse": error.square().mean().sqrt().item(),
        "trained_parameters": trained,
        "seconds": seconds,
    }


def _in_words(row: dict[str, Any]) -> str:
    return (
        f"{row['window']:>7,} steps  {row['model']:<16} error {row['mean_nrmse']:.1e} "
        f"({min(row['nrmse']):.0e} to {max(row['nrmse']):.0e})  {row['seconds']:.1f} s"
    )


class Signals:
    """Endless new signals of two windows, with their values at each delay in the second.

    Args:
        window: Length of the window.
        delays: Delays in steps (points,).
        seed: Seed of the signals.
    """

    def __init__(self, window: int, delays: Tensor, seed: int) -> None:
        self.window, self.delays, self.seed = window, delays, seed

    def __iter__(self) -> Iterator[Share]:
        number = 0
        while True:
            number += 1
            signal = self.draw(1_000_000 * (self.seed + 1) + number)
            yield signal[..., None], self.targets(signal), 1.0

    def draw(self, seed: int) -> Tensor:
        """Draw two windows of noise (32, 2 * window)."""
        return band_limited_noise(4 * self.window, self.window, seed=seed, batch=32)[
            :, : 2 * self.window
        ].float()

    def targets(self, signal: Tensor) -> Tensor:
        """Return the signal at each delay (batch, time - window, delays) in the second window."""
        now = torch.arange(self.window, signal.shape[1])
        return signal[:, now[:, None] - self.delays]


class Late(nn.Module):
    """A model that returns only outputs from the second window on.

    Args:
        model: Returns outputs (batch, time, delays).
        window: Length of the window.
    """

    def __init__(self, model: nn.Module, window: int) -> None:
        super().__init__()
        self.model, self.window = model, window

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs (batch, time - window, delays)."""
        return self.model(x)[:, self.window :]


@dataclass(frozen=True)
class Adam(Optimization):
    """Adam at a constant learning rate."""

    def configure(self, module: LightningModule) -> OptimizerLRScheduler:
        """Build the optimizer."""
        return torch.optim.Adam(module.parameters(), lr=self.learning_rate)


def _lstm_row(settings: Settings, window: int, signal: Tensor) -> dict[str, Any]:
    seed_everything(settings.seed, verbose=False)
    delays = _delays(settings, window)
    model = Late(DelayLine(settings.lstm_units, settings.points), window)
    module = TrainingModule(model, Regression(), Adam(5e-3, 1), seed=None)
    signals = Signals(window, delays, settings.seed)
    spent = fit(module, signals, epochs=1, max_seconds=settings.lstm_seconds)
    with torch.no_grad():
        wrong = model(signal[..., None]) - signals.targets(signal)
    error = (wrong.square().mean(dim=(0, 1)) / signal.square().mean()).sqrt()
    trained = sum(p.numel() for p in model.parameters())
    name = f"LSTM, {settings.lstm_units} units"
    return _row(name, window, delays, error, trained, spent.seconds) | {"steps": spent.steps}
