"""Training of a network on a part of real series."""

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
    """AdamW as in the recorded results: the fused kernel rounds differently."""

    def configure(self, module: LightningModule) -> OptimizerLRScheduler:
        """Build the optimizer, with decay of matrices only, and a cosine schedule."""
        groups = grouped(module, self.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def train(
    build: Callable[[], nn.Module], objective: Objective, part: Part, recipe: Recipe, seed: int
) -> tuple[nn.Module, float]:
    """Train a network from initial weights; return it and the seconds of training."""
    seed_everything(seed, verbose=False)
    optimization = AdamW(recipe.learning_rate, recipe.epochs, weight_decay=recipe.weight_decay)
    module = TrainingModule(build(), objective, optimization, seed=None, input_noise=recipe.noise)
    order = Order(len(part.y), shuffle=True, seed=seed)
    batches = Batches(part, recipe.batch_size, order, lambda: module.current_epoch)
    spent = fit(module, batches, epochs=recipe.epochs)
    return module.model.eval(), spent.seconds
