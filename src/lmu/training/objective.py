"""Objectives: losses and figures of classification and regression."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from lmu.training.settings import ConfigError

Kind = Literal["classification", "regression"]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Metrics:
    """Result of one pass over a part of the data, over all processes.

    Attributes:
        loss: Mean over samples: cross-entropy in nats, or the squared error.
        samples: Number of samples.
        accuracy: Fraction of right answers; None in regression.
        rmse: Root mean square error; None in classification.
        confusion: Counts (classes, classes), rows by label and columns by answer, in
            classification.
    """

    loss: float
    samples: int
    accuracy: float | None = None
    rmse: float | None = None
    confusion: Tensor | None = None

    def figures(self) -> dict[str, float]:
        """Return the figures by name: ``loss``, and ``accuracy`` or ``rmse``."""
        values = {"loss": self.loss, "accuracy": self.accuracy, "rmse": self.rmse}
        return {name: value for name, value in values.items() if value is not None}


def shown(name: str, value: float) -> str:
    """Format a figure for progress."""
    return f"{value:.2%}" if name == "accuracy" else f"{value:.4f}"


class Objective(Protocol):
    """A loss to minimize, and figures to report.

    Attributes:
        monitor: The figure of the validation part that selects the best epoch.
        highest: True if the best value is the highest.
    """

    monitor: str
    highest: bool

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of a batch, for training."""
        ...

    def summed(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch in evaluation, summed over samples."""
        ...

    def keep(self, outputs: Tensor, target: Tensor) -> Any:
        """Return the part of a training step that its epoch's figures need."""
        ...

    def collect(self, kept: Sequence[Any]) -> Tensor:
        """Return the tally of all kept steps."""
        ...

    def tally(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return counts of a batch, which are summed over batches and processes."""
        ...

    def zero(self, device: torch.device) -> Tensor:
        """Return the tally of no samples."""
        ...

    def metrics(self, loss: float, tally: Tensor) -> Metrics:
        """Compute the figures from a summed loss and tally."""
        ...


class Classification:
    """Cross-entropy of logits (batch, classes), and answers by label.

    Args:
        classes: Number of classes.
        label_smoothing: Fraction of the target that is spread over all classes in training.
    """

    monitor = "accuracy"
    highest = True

    def __init__(self, classes: int, label_smoothing: float = 0.0) -> None:
        self.classes = classes
        self.label_smoothing = label_smoothing

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """See :class:`Objective`."""
        _check_shape(outputs, (len(target), self.classes))
        return F.cross_entropy(outputs, target, label_smoothing=self.label_smoothing)

    def summed(self, outputs: Tensor, target: Tensor) -> Tensor:
        """See :class:`Objective`."""
        return F.cross_entropy(outputs, target, reduction="sum")

    def keep(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Keep logits and labels: counting at each step would wait for the device."""
        return outputs, target

    def collect(self, kept: Sequence[Any]) -> Tensor:
        """See :class:`Objective`."""
        logits, y = zip(*kept, strict=True)
        return self.tally(torch.cat(logits), torch.cat(y))

    def tally(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Count (classes * classes,) by label and answer."""
        pairs = target * self.classes + outputs.argmax(1)
        return pairs.bincount(minlength=self.classes**2)

    def zero(self, device: torch.device) -> Tensor:
        """See :class:`Objective`."""
        return torch.zeros(self.classes**2, dtype=torch.int64, device=device)

    def metrics(self, loss: float, tally: Tensor) -> Metrics:
        """See :class:`Objective`."""
        confusion = tally.view(self.classes, -1).cpu()
        total = int(confusion.sum())
        return Metrics(loss / total, total, int(confusion.trace()) / total, confusion=confusion)


class Regression:
    """Squared error of outputs (batch, ...).

    Args:
        loss: Mean loss of outputs and targets; the mean squared error if None.
    """

    monitor = "loss"
    highest = False

    def __init__(self, loss: Loss | None = None) -> None:
        self._loss: Loss = F.mse_loss if loss is None else loss

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """See :class:`Objective`."""
        _check_shape(outputs, tuple(target.shape))
        return self._loss(outputs, target)

    def summed(self, outputs: Tensor, target: Tensor) -> Tensor:
        """See :class:`Objective`."""
        return len(target) * self.loss(outputs, target)

    def keep(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Keep sums, as the outputs of all steps would fill the memory."""
        return self.tally(outputs, target)

    def collect(self, kept: Sequence[Any]) -> Tensor:
        """See :class:`Objective`."""
        return torch.stack(list(kept)).sum(0)

    def tally(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Sum squared errors, numbers and samples (3,)."""
        squares = (outputs - target).float().square().sum()
        return torch.stack([squares, *squares.new_tensor([target.numel(), len(target)])])

    def zero(self, device: torch.device) -> Tensor:
        """See :class:`Objective`."""
        return torch.zeros(3, device=device)

    def metrics(self, loss: float, tally: Tensor) -> Metrics:
        """See :class:`Objective`."""
        squares, numbers, samples = tally.tolist()
        return Metrics(loss / samples, int(samples), rmse=(squares / numbers) ** 0.5)


def _check_shape(outputs: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse outputs that a loss would broadcast with the targets.

    Raises:
        ValueError: The shapes differ; the message has both.
    """
    if outputs.shape != shape:
        raise ValueError(
            f"the model must give outputs {shape} for these targets, got {tuple(outputs.shape)}"
        )


def objective_of(kind: Kind, outputs: int, label_smoothing: float = 0.0) -> Objective:
    """Return the objective of a kind of task.

    Raises:
        ConfigError: Label smoothing is set for a regression.
    """
    if kind == "classification":
        return Classification(outputs, label_smoothing)
    if label_smoothing:
        text = f"regression has no labels to be smoothed, got {label_smoothing}: drop it"
        raise ConfigError("label_smoothing", text)
    return Regression()
