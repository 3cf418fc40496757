"""Measure the time that Lightning adds to an epoch: ``python benchmarks/training_overhead.py``.

Epochs of ``lmu train psmnist``, with its callbacks and checkpoints but without validation,
alternate with epochs of a hand-written loop over the same batches with the same model and
optimizer.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from torch.nn import functional as F

from lmu._files import write_json
from lmu._machine import git_commit
from lmu.tasks.psmnist.config import PsMNISTConfig
from lmu.tasks.psmnist.recipe import PsMNISTRecipe
from lmu.tasks.psmnist.run import train
from lmu.training.batches import Batches
from lmu.training.report import machine, versions
from lmu.training.run import build_module


class Interleave(Callback):
    """Run and time an epoch of the bare loop before each epoch of Lightning's."""

    def __init__(self, config: PsMNISTConfig) -> None:
        self.model = build_module(PsMNISTRecipe.of(config)).model
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=config.learning_rate, fused=True
        )
        self.bare: list[float] = []
        self.lightning: list[float] = []
        self._start: float | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop Lightning's clock, run a bare epoch, start Lightning's clock again."""
        self._stop()
        assert trainer.train_dataloader is not None
        start = time.perf_counter()
        self._bare_epoch(trainer.train_dataloader)
        self.bare.append(time.perf_counter() - start)
        self._start = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop Lightning's clock for the last time."""
        self._stop()

    def _stop(self) -> None:
        if self._start is not None:
            self.lightning.append(time.perf_counter() - self._start)

    def _bare_epoch(self, batches: Batches) -> None:
        self.model.train()
        for x, y, *_ in batches:
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(x), y).backward()
            self.optimizer.step()


def measure(config: PsMNISTConfig) -> dict[str, Any]:
    """Time both, without the first epoch of each, which sets up everything.

    Args:
        config: Settings of the run; at least two epochs.
    """
    interleave = Interleave(config)
    with tempfile.TemporaryDirectory() as folder:
        train(config, output=Path(folder), console=Console(), callbacks=[interleave])
    bare, lightning = interleave.bare[1:], interleave.lightning[1:]
    return {
        "bare_seconds": statistics.median(bare),
        "lightning_seconds": statistics.median(lightning),
        "ratio": statistics.median(b / a for a, b in zip(bare, lightning, strict=True)),
        "bare_epochs": bare,
        "lightning_epochs": lightning,
        "model": config.model_arguments(),
        "batch_size": config.batch_size,
        "versions": versions(),
        "git_commit": git_commit(),
        "machine": machine(torch.device("cpu")),
    }


def main() -> None:
    """Read the options, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=6, help="epochs of each, the first not timed")
    parser.add_argument("--limit", type=int, help="digits per epoch")
    parser.add_argument("--output", type=Path, help="write the numbers as JSON")
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error(f"--epochs must be at least 2, got {options.epochs}")
    config = PsMNISTConfig(
        epochs=options.epochs, limit=options.limit, full_train=True, accelerator="cpu"
    )
    result = measure(config)
    print(f"bare loop  {result['bare_seconds']:.3f} s per epoch (median of {options.epochs - 1})")
    print(f"Lightning  {result['lightning_seconds']:.3f} s per epoch")
    print(f"ratio      {result['ratio']:.3f} (median of the pairs)")
    if options.output is not None:
        write_json(options.output, result)


if __name__ == "__main__":
    main()
