"""Decode untrained memories, train an LSTM for the same delays, and record both."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor

from experiments.capacity.data import band_limited_noise
from experiments.capacity.figures import draw
from experiments.capacity.models import DelayLine, decoding_error, memory_alone
from experiments.record import write_record
from lmu.training.lightning import fit, quiet_lightning
from lmu.training.pictures import write_figure


@dataclass(frozen=True)
class Settings:
    """What the experiment is run with.

    Attributes:
        windows: Lengths of the window in steps.
        orders: Of the Legendre memory.
        points: Delays at which the window is read, evenly apart.
        signals: Test signals, each of four windows.
        reads: Moments at which each signal's memory is read.
        lstm_windows: Windows for which an LSTM is trained.
        lstm_units: Its hidden units.
        lstm_seconds: How long it is trained for each window.
        seed: Of signals and weights.
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
    """Read the memory's window, train the LSTM for comparison, and write figures and a picture.

    Args:
        settings: See :class:`Settings`.
        output: The JSON file; the picture lies beside it.
        say: Is told how it goes.

    Returns:
        The figures: a row for each model and window with the errors by delay.
    """
    rows = []
    for window in settings.windows:
        signal = _signal(settings, window, settings.seed)
        for order in settings.orders:
            rows.append(_memory_row(settings, window, order, signal))
            say(_tell(rows[-1]))
        if window in settings.lstm_windows:
            rows.append(_lstm_row(settings, window, signal))
            say(_tell(rows[-1]))
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
    error = decoding_error(memory_alone(window, order), signal, delays, reads=settings.reads)
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


def _tell(row: dict[str, Any]) -> str:
    return (
        f"{row['window']:>7,} steps  {row['model']:<16} error {row['mean_nrmse']:.1e} "
        f"({min(row['nrmse']):.0e} to {max(row['nrmse']):.0e})  {row['seconds']:.1f} s"
    )


class DelayModule(LightningModule):
    """Train a delay line on ever new signals.

    Args:
        model: Maps (batch, time, 1) to (batch, time, delays).
        window: Length of the window.
        delays: Whole steps (points,).
        seed: Of the signals.
    """

    def __init__(self, model: DelayLine, window: int, delays: Tensor, seed: int) -> None:
        super().__init__()
        self.model, self.window, self.delays, self.seed = model, window, delays, seed

    def train_dataloader(self) -> Any:
        """Endless batches of 32 signals of two windows."""
        number = 0
        while True:
            number += 1
            yield self.signals(1_000_000 * (self.seed + 1) + number)

    def signals(self, seed: int) -> Tensor:
        """Two windows of noise (32, 2 * window)."""
        return band_limited_noise(4 * self.window, self.window, seed=seed, batch=32)[
            :, : 2 * self.window
        ].float()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Mean squared error over the second window."""
        return (
            (self.model(batch[..., None])[:, self.window :] - self.targets(batch)).square().mean()
        )

    def targets(self, signal: Tensor) -> Tensor:
        """The signal at each delay (batch, time - window, delays), from the second window on."""
        now = torch.arange(self.window, signal.shape[1])
        return signal[:, now[:, None] - self.delays]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=5e-3)


def _trainer(seconds: float) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_steps=-1,
        max_epochs=1,
        max_time=timedelta(seconds=seconds),
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _lstm_row(settings: Settings, window: int, signal: Tensor) -> dict[str, Any]:
    seed_everything(settings.seed, verbose=False)
    delays = _delays(settings, window)
    model = DelayLine(settings.lstm_units, settings.points)
    module = DelayModule(model, window, delays, settings.seed)
    with quiet_lightning():
        trainer = _trainer(settings.lstm_seconds)
        start = time.perf_counter()
        fit(trainer, module)
        seconds = time.perf_counter() - start
    with torch.no_grad():
        wrong = module.model(signal[..., None])[:, window:] - module.targets(signal)
    error = (wrong.square().mean(dim=(0, 1)) / signal.square().mean()).sqrt()
    trained = sum(p.numel() for p in model.parameters())
    name = f"LSTM, {settings.lstm_units} units"
    return _row(name, window, delays, error, trained, seconds) | {"steps": trainer.global_step}
