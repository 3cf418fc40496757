"""LightningModule of every task."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from lmu.models import GaussianNoise
from lmu.training.batches import Share
from lmu.training.config import Schedule
from lmu.training.objective import Metrics, Objective, Regression
from lmu.training.seeds import derive_seed

MOST_SHOWN = 2_000  # answers of a regression in its picture


class TrainingDivergedError(ArithmeticError):
    """A loss is not finite; the message names the loss and the step."""


@dataclass(frozen=True)
class Optimization:
    """AdamW, in one kernel where PyTorch has it, and the course of its learning rate.

    Attributes:
        learning_rate: Learning rate of the first step.
        epochs: Epochs that the schedule spans.
        schedule: ``"constant"``, or ``"cosine"``: falls to zero over ``epochs``, epoch by epoch.
        weight_decay: Weight decay of matrices, decoupled from the gradient.
    """

    learning_rate: float
    epochs: int
    schedule: Schedule = "cosine"
    weight_decay: float = 0.0

    def configure(self, module: LightningModule) -> OptimizerLRScheduler:
        """Build the optimizer of a module's parameters, and its schedule."""
        fused = module.device.type in ("cpu", "cuda")
        groups = grouped(module, self.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, fused=fused)
        if self.schedule == "constant":
            return optimizer
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def grouped(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters into matrices, which decay, and others, which do not.

    The others are biases, encoders and normalizations: few numbers, which should not decay.
    """
    matrices = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


class TrainingModule(LightningModule):
    """Train a model to classify or to predict numbers.

    Losses and outputs are kept on the device and read when they are shown or the epoch ends,
    because reading or logging a number at each step costs a good part of the step's time.

    Args:
        model: Maps inputs (batch, ...) to logits (batch, classes) or to predictions.
        objective: Loss and figures.
        optimization: Optimizer and schedule.
        seed: Seed of the run, from which that of each epoch's dropout is derived; if None the
            global generator is used, and the run cannot be resumed.
        input_noise: Standard deviation of noise added to the inputs in training.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimization: Optimization,
        *,
        seed: int | None,
        input_noise: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.optimization = optimization
        self.seed = seed
        self.noise = GaussianNoise(input_noise)
        self.evaluation: Metrics | None = None
        self.answers: list[tuple[Tensor, Tensor]] = []
        self._losses: list[Tensor] = []
        self._sizes: list[int] = []
        self._kept: list[Any] = []
        self._loss_sum = torch.zeros(())
        self._tally = torch.zeros(())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """See :class:`Optimization`."""
        return self.optimization.configure(self)

    def on_train_epoch_start(self) -> None:
        """Seed the epoch and clear the collected losses and outputs."""
        if self.seed is not None:
            torch.manual_seed(derive_seed(self.seed, "epoch", self.current_epoch, self.global_rank))
        self._losses, self._sizes, self._kept = [], [], []

    def training_step(self, batch: Share, batch_idx: int) -> Tensor:
        """Return the mean loss of a share of a batch, weighted for an average over processes."""
        x, *others, target, weight = batch
        outputs = self.model(self.noise(x) if self.noise.std else x, *others)
        loss = self.objective.loss(outputs, target)
        counted = len(target) if weight else 0
        self._losses.append(loss.detach())
        self._sizes.append(counted)
        self._kept.append(self.objective.keep(outputs.detach()[:counted], target[:counted]))
        return weight * loss

    def running_metrics(self) -> Metrics:
        """Compute means over the epoch so far, of this process; waits for the device."""
        return self.objective.metrics(self._loss().item(), self.objective.collect(self._kept))

    def train_metrics(self) -> Metrics:
        """Compute means over the epoch, of all processes.

        Raises:
            TrainingDivergedError: A loss is not finite.
        """
        self._check_steps()
        tally = self._sum(self.objective.collect(self._kept))
        return self.objective.metrics(self._sum(self._loss()).item(), tally)

    def _loss(self) -> Tensor:
        """Sum the loss over the samples of the epoch so far."""
        sizes = torch.tensor(self._sizes, dtype=torch.float32, device=self.device)
        return torch.stack(self._losses).float() @ sizes

    def _check_steps(self) -> None:
        # Summed over the processes, so that all stop, at the same step.
        losses = self._sum(torch.stack(self._losses).float())
        wrong = losses.isfinite().logical_not().nonzero()
        if len(wrong):
            step = int(wrong[0]) + 1
            where = f"in epoch {self.current_epoch + 1}, step {step} of {len(losses)}"
            self._check_finite("loss", losses[step - 1].item(), where)

    def _check_finite(self, name: str, loss: float, where: str) -> None:
        if not math.isfinite(loss):
            rate = self.optimization.learning_rate
            raise TrainingDivergedError(
                f"the {name} is {loss} {where}: lower the learning rate, {rate:g}"
            )

    def on_validation_epoch_start(self) -> None:
        """Clear the collected losses and answers."""
        self._loss_sum = torch.zeros((), device=self.device)
        self._tally = self.objective.zero(self.device)
        self.answers = []

    def validation_step(self, batch: Share, batch_idx: int) -> Tensor | None:
        """Sum losses and answers, and return the outputs."""
        *inputs, target, weight = batch
        if not weight:
            return None
        outputs = self.model(*inputs)
        self._loss_sum = self._loss_sum + self.objective.summed(outputs, target)
        self._tally = self._tally + self.objective.tally(outputs, target)
        return outputs

    def on_validation_epoch_end(self) -> None:
        """Compute the metrics and log them for early stopping.

        Raises:
            TrainingDivergedError: A loss of the epoch is not finite.
        """
        self._check_steps()  # first, as it can name the step
        self.evaluation = self._evaluate("validation loss", f"after epoch {self.current_epoch + 1}")
        for name, value in self.evaluation.figures().items():
            self.log(f"val_{name}", value, sync_dist=True)

    def on_test_epoch_start(self) -> None:
        """Clear the collected losses and answers."""
        self.on_validation_epoch_start()

    def test_step(self, batch: Share, batch_idx: int) -> None:
        """Sum losses and answers; keep some answers of a regression for its picture."""
        outputs = self.validation_step(batch, batch_idx)
        few = sum(len(y) for y, _ in self.answers) < MOST_SHOWN
        if outputs is not None and few and isinstance(self.objective, Regression):
            self.answers.append((outputs.cpu(), batch[-2].cpu()))

    def on_test_epoch_end(self) -> None:
        """Compute the metrics.

        Raises:
            TrainingDivergedError: The loss is not finite.
        """
        self.evaluation = self._evaluate("test loss", "after training")

    def _evaluate(self, name: str, when: str) -> Metrics:
        loss = self._sum(self._loss_sum).item()
        metrics = self.objective.metrics(loss, self._sum(self._tally))
        self._check_finite(name, metrics.loss, when)
        return metrics

    def _sum(self, values: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(values, reduce_op="sum")
