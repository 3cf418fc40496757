"""The LightningModule of every classification task."""

import math
from dataclasses import dataclass

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from lmu.models import GaussianNoise
from lmu.training.batches import Share
from lmu.training.config import Schedule
from lmu.training.seeds import derive_seed


class TrainingDivergedError(ArithmeticError):
    """A loss is not finite any more; the message says which, and where in training."""


@dataclass(frozen=True)
class Metrics:
    """Result of one pass over a part of the data, over all processes.

    Attributes:
        loss: Mean cross-entropy, in nats.
        accuracy: Share of right answers.
        confusion: Counts (classes, classes), rows by label and columns by answer; None in training.
    """

    loss: float
    accuracy: float
    confusion: Tensor | None = None


class ClassificationModule(LightningModule):
    """Train a classifier with Adam on cross-entropy.

    Losses and logits are kept on the device and read when they are shown or the epoch ends, because
    reading or logging a number at each step costs as much as a good part of the step.

    Args:
        model: Maps inputs (batch, ...) to logits (batch, classes).
        num_classes: Number of classes.
        learning_rate: Of Adam.
        schedule: ``"constant"``, or ``"cosine"``: falls to zero over ``epochs``, epoch by epoch.
        epochs: Epochs that the schedule spans.
        weight_decay: Of matrices, decoupled from the gradient.
        label_smoothing: Share of the target that is spread over all classes in training.
        input_noise: Standard deviation of what is added to the inputs in training.
        seed: Seed of the run, from which dropout's randomness is derived for each epoch.
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        *,
        learning_rate: float,
        schedule: Schedule,
        epochs: int,
        seed: int,
        weight_decay: float = 0.0,
        label_smoothing: float = 0.0,
        input_noise: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.num_classes = num_classes
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.epochs = epochs
        self.seed = seed
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.noise = GaussianNoise(input_noise)
        self.evaluation: Metrics | None = None
        self._steps: list[tuple[Tensor, Tensor, Tensor]] = []
        self._confusion = torch.zeros(())
        self._loss_sum = torch.zeros(())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam, in one kernel where PyTorch has it, and the schedule."""
        fused = self.device.type in ("cpu", "cuda")
        # Biases, encoders and normalizations are few numbers that no decay should hold down.
        matrices = [p for p in self.parameters() if p.ndim > 1]
        others = [p for p in self.parameters() if p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, fused=fused)
        if self.schedule == "constant":
            return optimizer
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def on_train_epoch_start(self) -> None:
        """Seed the epoch and clear what was collected."""
        torch.manual_seed(derive_seed(self.seed, "epoch", self.current_epoch, self.global_rank))
        self._steps = []

    def training_step(self, batch: Share, batch_idx: int) -> Tensor:
        """Mean cross-entropy of a share of a batch, weighted for an average over processes."""
        x, y, weight = batch
        logits = self.model(self.noise(x))
        loss = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)
        counted = len(y) if weight else 0
        self._steps.append((loss.detach(), logits.detach()[:counted], y[:counted]))
        return weight * loss

    def running_metrics(self) -> Metrics:
        """Means over the epoch so far, of this process; waits for the device."""
        loss, right, total = self._sums().tolist()
        return Metrics(loss / total, right / total)

    def train_metrics(self) -> Metrics:
        """Means over the epoch, of all processes.

        Raises:
            TrainingDivergedError: A loss is not finite.
        """
        self._check_steps()
        loss, right, total = self._sum(self._sums()).tolist()
        return Metrics(loss / total, right / total)

    def _check_steps(self) -> None:
        # Added up over the processes, so that all of them stop, and at the same step.
        losses = self._sum(torch.stack([loss.float() for loss, _, _ in self._steps]))
        wrong = losses.isfinite().logical_not().nonzero()
        if len(wrong):
            step = int(wrong[0]) + 1
            where = f"in epoch {self.current_epoch + 1}, step {step} of {len(losses)}"
            self._check_finite("loss", losses[step - 1].item(), where)

    def _check_finite(self, name: str, loss: float, where: str) -> None:
        if not math.isfinite(loss):
            raise TrainingDivergedError(
                f"the {name} is {loss} {where}: lower the learning rate, {self.learning_rate:g}"
            )

    def _sums(self) -> Tensor:
        """Loss, right answers and samples, added up over the steps of the epoch so far."""
        losses, logits, y = zip(*self._steps, strict=True)
        sizes = torch.tensor([len(part) for part in y], dtype=torch.float32, device=self.device)
        answers, labels = torch.cat(logits).argmax(1), torch.cat(y)
        right = (answers == labels).sum()
        return torch.stack([torch.stack(losses).float() @ sizes, right.float(), sizes.sum()])

    def on_validation_epoch_start(self) -> None:
        """Clear what was collected."""
        n = self.num_classes
        self._confusion = torch.zeros(n * n, dtype=torch.int64, device=self.device)
        self._loss_sum = torch.zeros((), device=self.device)

    def validation_step(self, batch: Share, batch_idx: int) -> None:
        """Count answers by label."""
        x, y, weight = batch
        if not weight:
            return
        logits = self.model(x)
        self._loss_sum += F.cross_entropy(logits, y, reduction="sum")
        pairs = y * self.num_classes + logits.argmax(1)
        self._confusion += pairs.bincount(minlength=self.num_classes**2)

    def on_validation_epoch_end(self) -> None:
        """Compute the metrics and hand them to early stopping.

        Raises:
            TrainingDivergedError: A loss of the epoch is not finite.
        """
        self._check_steps()  # first, because it can name the step
        self.evaluation = self._evaluate("validation loss", f"after epoch {self.current_epoch + 1}")
        self.log("val_loss", self.evaluation.loss, sync_dist=True)
        self.log("val_accuracy", self.evaluation.accuracy, sync_dist=True)

    def on_test_epoch_start(self) -> None:
        """Clear what was collected."""
        self.on_validation_epoch_start()

    def test_step(self, batch: Share, batch_idx: int) -> None:
        """Count answers by label."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Compute the metrics.

        Raises:
            TrainingDivergedError: The loss is not finite.
        """
        self.evaluation = self._evaluate("test loss", "after training")

    def _evaluate(self, name: str, when: str) -> Metrics:
        confusion = self._sum(self._confusion).view(self.num_classes, -1).cpu()
        total = confusion.sum().item()
        loss = self._sum(self._loss_sum).item() / total
        self._check_finite(name, loss, when)
        return Metrics(loss, confusion.trace().item() / total, confusion)

    def _sum(self, values: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(values, reduce_op="sum")
