"""Epochs of permuted sequential MNIST, by a bare loop and by ``lmu train psmnist``."""

import statistics
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.session import Session, tf32
from benchmarks.measure import now

DIGITS = 60_000
LIMITS = {"lmufft": DIGITS, "lmu": 6_000}  # digits of a timed epoch; lmu runs step by step
EPOCHS = 4  # the first does not count: it sets up everything


def measure(s: Session) -> None:
    """Time epochs of both published models."""
    if find_spec("lightning") is None or find_spec("matplotlib") is None:
        s.left_out["psmnist"] = "lmu.training needs the extra: pip install '.[train]'"
        return
    with tf32(False):
        for model in LIMITS:
            if s.late(model):
                continue
            row, why = s.attempt(f"psmnist {model}", lambda model=model: epochs(s, model))
            if why:
                s.left_out[model] = why
                continue
            s.rows.append(row)
            s.say(
                f"  {model}: {row['digits']} digits: loop {row['loop_seconds']:.3g} s, "
                f"lmu train {row['train_seconds']:.3g} s"
            )


def epochs(s: Session, model: str) -> dict[str, Any]:
    """Time epochs of a bare loop and of Lightning's, in turns, with the data on the device."""
    from benchmarks.training_overhead import Interleave
    from lmu.tasks.psmnist.config import PsMNISTConfig
    from lmu.tasks.psmnist.run import train

    class OnDevice(Interleave):
        """Interleaved epochs whose clock waits for the GPU."""

        def __init__(self, config: PsMNISTConfig) -> None:
            super().__init__(config)
            self.model.to(s.device)
            self.optimizer = torch.optim.Adam(
                self.model.parameters(), lr=config.learning_rate, fused=True
            )

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            now()
            super().on_train_epoch_start(trainer, pl_module)

        def _bare_epoch(self, batches: Any) -> None:
            super()._bare_epoch(batches)
            now()

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            now()
            super().on_train_end(trainer, pl_module)

    digits = 40 if s.quick else LIMITS[model]
    config = PsMNISTConfig(
        model=model,
        hidden_size=8 if s.quick else None,
        memory_size=8 if s.quick else None,
        epochs=2 if s.quick else EPOCHS,
        batch_size=20 if s.quick else 100,
        limit=digits,
        full_train=True,
        accelerator="gpu" if s.cuda else "cpu",
        devices=f"{s.device.index or 0}," if s.cuda else "1",
    )
    turns = OnDevice(config)
    with tempfile.TemporaryDirectory() as folder:
        train(config, output=Path(folder), callbacks=[turns])
    loop, lightning = turns.bare[1:], turns.lightning[1:]
    return {
        "model": config.model_arguments(),
        "batch_size": config.batch_size,
        "digits": digits,
        "loop_seconds": statistics.median(loop),
        "train_seconds": statistics.median(lightning),
        "loop_epochs": loop,
        "train_epochs": lightning,
        "extrapolated_epoch": statistics.median(loop) * DIGITS / digits,
    }
