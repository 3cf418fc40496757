"""Progress of training on the terminal."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lmu.training.history import History
from lmu.training.module import TrainingModule
from lmu.training.objective import shown

_REFRESH_SECONDS = 0.25


class EpochProgress(Callback):
    """Show a bar with the running figures, and a line for each finished epoch.

    The training loop itself draws it a few times a second: reading the loss waits for the device,
    and a drawing thread would take processor time from steps of a few milliseconds. On an output
    that is not a terminal only the lines appear.

    Args:
        console: Console to write to.
        history: Source of the lines; stands before this callback in the trainer's list.
    """

    def __init__(self, console: Console, history: History) -> None:
        self.console = console
        self.history = history
        self._bar: Progress | None = None
        self._next = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show an empty bar."""
        if not (trainer.is_global_zero and self.console.is_terminal):
            return
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            auto_refresh=False,
            transient=True,
        )
        epoch = f"{trainer.current_epoch + 1}/{trainer.max_epochs}"
        self._bar.add_task("", total=int(trainer.num_training_batches), epoch=epoch, metrics="")
        self._bar.start()
        self._next = time.monotonic() + _REFRESH_SECONDS

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw, if the last drawing was long enough ago."""
        if self._bar is None or time.monotonic() < self._next:
            return
        assert isinstance(pl_module, TrainingModule)
        figures = pl_module.running_metrics().figures()
        text = "  ".join(f"{name} {shown(name, value)}" for name, value in figures.items())
        self._bar.update(self._bar.task_ids[0], completed=batch_idx + 1, metrics=text)
        self._bar.refresh()
        self._next = time.monotonic() + _REFRESH_SECONDS

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the bar by a line."""
        self._close()
        if trainer.is_global_zero:
            row = self.history.rows[-1]
            width = len(str(trainer.max_epochs))
            line = f"epoch {row['epoch']:>{width}}/{trainer.max_epochs}"
            line += "".join(f"  {name} {text}" for name, text in _figures(row, "train_").items())
            if validation := _figures(row, "val_"):
                line += f"  validation {' '.join(validation.values())}"
            self.console.print(f"{line}  {row['seconds']:.1f} s", highlight=False)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Remove the bar."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _figures(row: dict[str, Any], prefix: str) -> dict[str, str]:
    """Format the figures of a part."""
    values = {n.removeprefix(prefix): value for n, value in row.items() if n.startswith(prefix)}
    return {name: shown(name, value) for name, value in values.items()}
