"""How a network is trained on a part of real series: Lightning, on a CPU."""

import time
from collections.abc import Callable, Iterator

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from experiments.series.recipe import Part, Recipe
from lmu.training.batches import Order
from lmu.training.lightning import fit, quiet_lightning


class SeriesModule(LightningModule):
    """Train a network on series of several lengths.

    Args:
        model: Maps (batch, time, features) and lengths (batch,) to outputs.
        loss: Of outputs and ``y``.
        train: The training part.
        recipe: See :class:`Recipe`.
        seed: Of the order of samples.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        train: Part,
        recipe: Recipe,
        seed: int,
    ) -> None:
        super().__init__()
        self.model, self.loss, self.recipe = model, loss, recipe
        self.train_part = train
        self.order = Order(len(train.y), shuffle=True, seed=seed)

    def train_dataloader(self) -> "_Epochs":
        """Batches in a new order each epoch."""
        return _Epochs(self)

    def training_step(self, batch: Part, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        x = batch.x
        if self.recipe.noise:
            x = x + self.recipe.noise * torch.randn_like(x)
        return self.loss(self.model(x, batch.lengths), batch.y)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, without decay of what is no matrix, and a cosine."""
        groups = [
            {"params": [p for p in self.parameters() if p.ndim > 1]},
            {"params": [p for p in self.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        recipe = self.recipe
        optimizer = torch.optim.AdamW(
            groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


class _Epochs:
    def __init__(self, module: SeriesModule) -> None:
        self.module = module

    def __len__(self) -> int:
        return -(-self.module.order.samples // self.module.recipe.batch_size)

    def __iter__(self) -> Iterator[Part]:
        module = self.module
        indices = module.order.indices(module.current_epoch)
        for index in indices.split(module.recipe.batch_size):
            yield Part(*(values[index] for values in module.train_part))


def train(
    build: Callable[[], nn.Module],
    loss: Callable[[Tensor, Tensor], Tensor],
    part: Part,
    recipe: Recipe,
    seed: int,
) -> tuple[nn.Module, float]:
    """A network trained from fresh weights, and the seconds that it took."""
    seed_everything(seed, verbose=False)
    module = SeriesModule(build(), loss, part, recipe, seed)
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
        start = time.perf_counter()
        fit(trainer, module)
        seconds = time.perf_counter() - start
    return module.model.eval(), seconds
