"""History of a run: a row of figures per epoch."""

import csv
import io
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lmu._files import write_whole
from lmu.training.module import TrainingModule


class History(Callback):
    """Collect a row of figures per epoch, keep all rows across resumes, and write them as CSV.

    Attributes:
        rows: For each epoch ``epoch`` (from 1), ``learning_rate``, ``train_loss`` and
            ``train_accuracy`` or ``train_rmse``, the same with ``val_`` (where there is
            validation), and ``seconds`` of training, without validation.

    Args:
        path: The CSV file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._start = 0.0
        self._learning_rate = 0.0
        self._seconds: float | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._learning_rate = trainer.optimizers[0].param_groups[0]["lr"]
        self._seconds = None
        self._start = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._stop(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch's row."""
        assert isinstance(pl_module, TrainingModule)
        self._stop(pl_module)
        row: dict[str, Any] = {
            "epoch": trainer.current_epoch + 1,
            "learning_rate": self._learning_rate,
        }
        train, validation = pl_module.train_metrics(), pl_module.evaluation
        row |= {f"train_{name}": value for name, value in train.figures().items()}
        if validation is not None:
            row |= {f"val_{name}": value for name, value in validation.figures().items()}
        self.rows.append(row | {"seconds": self._seconds})
        if trainer.is_global_zero:
            table = io.StringIO()
            writer = csv.DictWriter(table, fieldnames=list(self.rows[-1]))
            writer.writeheader()
            writer.writerows(self.rows)
            write_whole(self.path, table.getvalue().encode())

    def state_dict(self) -> dict[str, Any]:
        """Return the rows."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows."""
        self.rows = list(state_dict["rows"])

    def _stop(self, module: LightningModule) -> None:
        if self._seconds is None:
            if module.device.type == "cuda":
                torch.cuda.synchronize(module.device)
            self._seconds = time.perf_counter() - self._start
