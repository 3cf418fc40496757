"""How a model learns to predict Mackey-Glass series: Lightning, on a CPU."""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from experiments.mackey_glass.data import MackeyGlass, Part, nrmse
from lmu.training.lightning import fit, quiet_lightning
from lmu.training.module import TrainingDivergedError
from lmu.training.seeds import derive_seed


@dataclass(frozen=True)
class Recipe:
    """How long and how fast a model is trained: Adam, a cosine, gradients clipped to a norm of 1.

    Attributes:
        learning_rate: At its highest, after ``warm_up`` steps.
        epochs: How often the validation series are looked at.
        batches: Steps of training in an epoch.
        batch_size: Windows per step.
        window: Length of the windows, which are cut out of the training series at random.
        start: First steps of a window, in which a model does not know the state of the series yet.
        warm_up: Steps in which the learning rate rises.
    """

    learning_rate: float
    epochs: int
    batches: int = 200
    batch_size: int = 32
    window: int = 64
    start: int = 32
    warm_up: int = 50


class MackeyGlassModule(LightningModule):
    """Train a model on windows of series, each begun anew, and keep the best weights.

    Args:
        model: Maps (batch, time, 1) to (batch, time, 1).
        task: The series; those to test with are not touched.
        recipe: See :class:`Recipe`.
        seed: Of the windows.
    """

    def __init__(self, model: nn.Module, task: MackeyGlass, recipe: Recipe, seed: int) -> None:
        super().__init__()
        self.model, self.task, self.recipe, self.seed = model, task, recipe, seed
        self.history: list[float] = []
        self.best: dict[str, Tensor] = {}
        self.weights = step_weights(recipe, self.task.train.x.shape[1])
        self.power = self.task.train.y.square().mean()

    def train_dataloader(self) -> "Windows":
        """Other windows in each epoch."""
        return Windows(self)

    def training_step(self, batch: Part, batch_idx: int) -> Tensor:
        """Estimate, from windows, of the squared NRMSE over whole series."""
        wrong = (self.model(batch.x) - batch.y).square().mean(dim=(0, 2))
        return (wrong * self.weights).sum() / self.power

    def on_train_epoch_end(self) -> None:
        """Note the error on the validation series, and keep the weights if it is the least so far.

        Raises:
            TrainingDivergedError: The error is not finite.
        """
        error = nrmse(predict(self.model, self.task.val.x), self.task.val.y)
        if not math.isfinite(error):
            rate = self.recipe.learning_rate
            raise TrainingDivergedError(
                f"the validation error is {error} after epoch {self.current_epoch + 1}: "
                f"lower the learning rate, {rate:g}"
            )
        if error < min(self.history, default=math.inf):
            self.best = copy.deepcopy(self.model.state_dict())
        self.history.append(error)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam; the learning rate rises linearly, then falls to zero along a cosine."""
        recipe = self.recipe
        steps = recipe.epochs * recipe.batches

        def course(step: int) -> float:
            rise = min(1.0, (step + 1) / recipe.warm_up)
            return rise * (1 + math.cos(math.pi * step / steps)) / 2

        optimizer = torch.optim.Adam(self.parameters(), lr=recipe.learning_rate)
        scheduler: Any = torch.optim.lr_scheduler.LambdaLR(optimizer, course)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def step_weights(recipe: Recipe, length: int) -> Tensor:
    """Weight of each step of a window (window,), so that windows stand for whole series.

    A series has but one beginning, where a model knows little and errs much, and a window is half
    beginning. So the first ``start`` steps have the weight ``1 / length`` that they have in a
    series, and the others together that of all the rest of it.

    Args:
        recipe: See :class:`Recipe`.
        length: Steps of a series.
    """
    weights = torch.full((recipe.window,), 1 / length)
    weights[recipe.start :] *= (length - recipe.start) / (recipe.window - recipe.start)
    return weights


class Windows:
    """Windows of the training series, drawn at random.

    Args:
        module: Knows the series, the recipe, the seed and the epoch.
    """

    def __init__(self, module: MackeyGlassModule) -> None:
        self.module = module

    def __len__(self) -> int:
        return self.module.recipe.batches

    def __iter__(self) -> Iterator[Part]:
        module, recipe = self.module, self.module.recipe
        series, length, _ = module.task.train.x.shape
        g = torch.Generator().manual_seed(derive_seed(module.seed, "windows", module.current_epoch))
        for _ in range(recipe.batches):
            which = torch.randint(series, (recipe.batch_size, 1), generator=g)
            begin = torch.randint(length - recipe.window + 1, (recipe.batch_size, 1), generator=g)
            steps = begin + torch.arange(recipe.window)
            yield Part(*(values[which, steps] for values in module.task.train))


@torch.no_grad()
def predict(model: nn.Module, x: Tensor) -> Tensor:
    """Predictions of all steps (series, time, 1), a few series at a time to save memory."""
    return torch.cat([model(part) for part in x.split(16)])


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        model: With the weights of its best epoch.
        history: NRMSE on the validation series after each epoch.
        seconds: That training took.
        cpu_seconds: Of them, those that this process had a processor.
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
        seed: Of the windows.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        TrainingDivergedError: The validation error is not finite.
        ValueError: Windows are longer than the series, or all beginning.
    """
    length = task.train.x.shape[1]
    if not recipe.start < recipe.window <= length:
        raise ValueError(
            f"windows must be longer than their start, {recipe.start} steps, and at most as long "
            f"as the series, {length}: got {recipe.window}"
        )
    module = MackeyGlassModule(model, task, recipe, seed)
    with quiet_lightning():
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=recipe.epochs,
            gradient_clip_val=1.0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        start, cpu_start = time.perf_counter(), time.process_time()
        fit(trainer, module)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    model.load_state_dict(module.best)
    return Trained(model.eval(), module.history, seconds, cpu_seconds)
