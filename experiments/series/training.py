"""Train a network on a part of real series."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn

from experiments.series.recipe import Part, Recipe
from lmu.training.batches import Batches, Order
from lmu.training.lightning import fit
from lmu.training.module import Optimization, TrainingModule, grouped
from lmu.training.objective import Objective


@dataclass(frozen=True)
class AdamW(Optimization):
    """AdamW as it was when the results were recorded: one kernel rounds otherwise."""

    def configure(self, module: LightningModule) -> OptimizerLRScheduler:
        """The optimizer, without decay of what is no matrix, and a cosine."""
        groups = grouped(module, self.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def train(
    build: Callable[[], nn.Module], objective: Objective, part: Part, recipe: Recipe, seed: int
) -> tuple[nn.Module, float]:
    """A network trained from fresh weights, and the seconds that it took."""
    seed_everything(seed, verbose=False)
    optimization = AdamW(recipe.learning_rate, recipe.epochs, weight_decay=recipe.weight_decay)
    module = TrainingModule(build(), objective, optimization, seed=None, input_noise=recipe.noise)
    order = Order(len(part.y), shuffle=True, seed=seed)
    batches = Batches(part, recipe.batch_size, order, lambda: module.current_epoch)
    spent = fit(module, batches, epochs=recipe.epochs)
    return module.model.eval(), spent.seconds
