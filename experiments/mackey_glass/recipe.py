"""Training on Mackey-Glass series, by windows that start from zero states."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from experiments.mackey_glass.data import MackeyGlass, Part, nrmse
from lmu.training.batches import Share
from lmu.training.lightning import fit
from lmu.training.module import Optimization, TrainingDivergedError, TrainingModule
from lmu.training.objective import Loss, Regression
from lmu.training.seeds import derive_seed


@dataclass(frozen=True)
class Recipe:
    """Settings of training by Adam with a cosine schedule, gradients clipped to a norm of 1.

    Attributes:
        learning_rate: Highest learning rate, after ``warm_up`` steps.
        epochs: Number of epochs, with a validation after each.
        batches: Steps of training in an epoch.
        batch_size: Windows per step.
        window: Length of the windows, which are cut out of the training series at random.
        start: First steps of a window, in which the state of the series is still unknown.
        warm_up: Steps in which the learning rate rises.
    """

    learning_rate: float
    epochs: int
    batches: int = 200
    batch_size: int = 32
    window: int = 64
    start: int = 32
    warm_up: int = 50


class KeepBest(Callback):
    """Record the error on the validation series after each epoch, and keep the best weights.

    Args:
        part: The validation series.
        learning_rate: Learning rate, for messages.
    """

    def __init__(self, part: Part, learning_rate: float) -> None:
        self.part, self.learning_rate = part, learning_rate
        self.history: list[float] = []
        self.best: dict[str, Tensor] = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the validation error.

        Raises:
            TrainingDivergedError: The error is not finite.
        """
        assert isinstance(pl_module, TrainingModule)
        error = nrmse(predict(pl_module.model, self.part.x), self.part.y)
        if not math.isfinite(error):
            raise TrainingDivergedError(
                f"the validation error is {error} after epoch {trainer.current_epoch + 1}: "
                f"lower the learning rate, {self.learning_rate:g}"
            )
        if error < min(self.history, default=math.inf):
            self.best = copy.deepcopy(pl_module.model.state_dict())
        self.history.append(error)


@dataclass(frozen=True)
class WarmAdam(Optimization):
    """Adam whose learning rate rises linearly, then falls to zero along a cosine, step by step.

    Attributes:
        warm_up: Steps in which it rises.
        steps: All steps.
    """

    warm_up: int = 1
    steps: int = 1

    def configure(self, module: LightningModule) -> OptimizerLRScheduler:
        """Build the optimizer and its schedule."""

        def course(step: int) -> float:
            rise = min(1.0, (step + 1) / self.warm_up)
            return rise * (1 + math.cos(math.pi * step / self.steps)) / 2

        optimizer = torch.optim.Adam(module.parameters(), lr=self.learning_rate)
        scheduler: Any = torch.optim.lr_scheduler.LambdaLR(optimizer, course)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def series_loss(recipe: Recipe, part: Part) -> Loss:
    """Return a loss on training windows that estimates the squared NRMSE over whole series."""
    weights = step_weights(recipe, part.x.shape[1])
    power = part.y.square().mean()

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        wrong = (outputs - target).square().mean(dim=(0, 2))
        return (wrong * weights).sum() / power

    return loss


def step_weights(recipe: Recipe, length: int) -> Tensor:
    """Compute the weight of each step of a window (window,), so that windows represent series.

    A series has one beginning, where a model knows little and errs much, but half of a window is
    beginning. So the first ``start`` steps have the weight ``1 / length`` that they have in a
    series, and the others together that of the rest of the series.

    Args:
        recipe: See :class:`Recipe`.
        length: Steps of a series.
    """
    weights = torch.full((recipe.window,), 1 / length)
    weights[recipe.start :] *= (length - recipe.start) / (recipe.window - recipe.start)
    return weights


class Windows:
    """Random windows of the training series, different in each epoch.

    Args:
        part: The training series.
        recipe: See :class:`Recipe`.
        seed: Seed of the windows.
        epoch: Returns the current epoch, counted from 0.
    """

    def __init__(self, part: Part, recipe: Recipe, seed: int, epoch: Callable[[], int]) -> None:
        self.part, self.recipe, self.seed, self.epoch = part, recipe, seed, epoch

    def __len__(self) -> int:
        return self.recipe.batches

    def __iter__(self) -> Iterator[Share]:
        recipe = self.recipe
        series, length, _ = self.part.x.shape
        g = torch.Generator().manual_seed(derive_seed(self.seed, "windows", self.epoch()))
        for _ in range(recipe.batches):
            which = torch.randint(series, (recipe.batch_size, 1), generator=g)
            begin = torch.randint(length - recipe.window + 1, (recipe.batch_size, 1), generator=g)
            steps = begin + torch.arange(recipe.window)
            yield *(values[which, steps] for values in self.part), 1.0


@torch.no_grad()
def predict(model: nn.Module, x: Tensor) -> Tensor:
    """Predict all steps (series, time, 1), a few series at a time to save memory."""
    return torch.cat([model(part) for part in x.split(16)])


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        model: The model with the weights of its best epoch.
        history: NRMSE on the validation series after each epoch.
        seconds: Elapsed time of training.
        cpu_seconds: Processor time of this process.
    """

    model: nn.Module
    history: list[float]
    seconds: float
    cpu_seconds: float


def train(model: nn.Module, task: MackeyGlass, recipe: Recipe, seed: int) -> Trained:
    """Train a model.

    Args:
        model: Maps (batch, time, 1) to (batch, time, 1).
        task: The series.
        recipe: See :class:`Recipe`.
        seed: Seed of the windows.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        TrainingDivergedError: The validation error is not finite.
        ValueError: Windows are longer than the series, or not longer than their start.
    """
    length = task.train.x.shape[1]
    if not recipe.start < recipe.window <= length:
        raise ValueError(
            f"windows must be longer than their start, {recipe.start} steps, and at most as long "
            f"as the series, {length}: got {recipe.window}"
        )
    steps = recipe.epochs * recipe.batches
    adam = WarmAdam(recipe.learning_rate, recipe.epochs, warm_up=recipe.warm_up, steps=steps)
    objective = Regression(series_loss(recipe, task.train))
    module = TrainingModule(model, objective, adam, seed=None)
    windows = Windows(task.train, recipe, seed, lambda: module.current_epoch)
    keep = KeepBest(task.val, recipe.learning_rate)
    spent = fit(module, windows, epochs=recipe.epochs, callbacks=[keep])
    model.load_state_dict(keep.best)
    return Trained(model.eval(), keep.history, spent.seconds, spent.cpu_seconds)
