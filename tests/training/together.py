"""What processes under torchrun, or one alone, do for test_processes.py."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lmu.tasks.psmnist.config import PsMNISTConfig
from lmu.tasks.psmnist.run import resume_config, train
from lmu.training.interruption import RunInterruptedError
from lmu.training.module import TrainingModule

# Batches that do not divide, and a last one of a single digit.
COMMON: dict[str, Any] = {
    "batch_size": 37, "limit": 186, "epochs": 9, "dropout": 0.0, "accelerator": "cpu",
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "lmufft": {"hidden_size": 12, "memory_size": 8, "gradient_clip": 0.5, "weight_decay": 0.1},
    "deep": {
        "model": "deep", "hidden_size": 12, "memory_size": 8, "label_smoothing": 0.1, "limit": 185,
        "epochs": 10,
    },
}  # fmt: skip
STOPS_AFTER = 2


class Curve(Callback):
    """Loss of each step, of the whole batch."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        sizes, losses = pl_module._sizes, torch.stack(pl_module._losses).double()
        sums = torch.stack([losses * torch.tensor(sizes), torch.tensor(sizes).double()])
        total = trainer.strategy.reduce(sums, reduce_op="sum")
        assert isinstance(total, Tensor)
        self.losses += (total[0] / total[1]).tolist()


class Stop(Callback):
    """Interrupt all processes after some epochs."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == STOPS_AFTER:
            raise KeyboardInterrupt


def config(case: str) -> PsMNISTConfig:
    """Settings of a case."""
    return PsMNISTConfig(**(COMMON | CASES[case]))


def curves(output: Path) -> dict[str, list[float]]:
    """Run all cases."""
    found = {}
    for case in CASES:
        curve = Curve()
        train(config(case), output=output / case, callbacks=[curve])
        found[case] = curve.losses
    return found


def interrupted(output: Path) -> Path:
    """The folder of a run that was stopped."""
    try:
        train(config("lmufft"), output=output, callbacks=[Stop()])
    except RunInterruptedError as error:
        return error.folder
    raise AssertionError("the run was not stopped")


def resumed(folder: Path) -> None:
    """Go on with it."""
    checkpoint, settings = resume_config(folder, devices="auto")
    train(settings, resume=checkpoint)


if __name__ == "__main__":
    torch.set_num_threads(1)
    where = Path(sys.argv[1])
    losses = curves(where / "curves")
    stopped = interrupted(where / "stopped")
    resumed(Path(sys.argv[2]))
    (where / f"{torch.distributed.get_rank()}.json").write_text(
        json.dumps({"losses": losses, "stopped": str(stopped)})
    )
