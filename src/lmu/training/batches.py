"""Batches of tensors in memory, selected by index without work per sample."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor

from lmu.training.data import DataSet, Part, check_part
from lmu.training.seeds import derive_seed

Share = Sequence[Any]  # inputs and target of some samples, and the weight of their mean


class Order:
    """Order of the samples in an epoch.

    Args:
        samples: Number of samples.
        shuffle: Draw an order for each epoch, derived from the seed.
        seed: Seed of the run.
    """

    def __init__(self, samples: int, *, shuffle: bool, seed: int = 0) -> None:
        self.samples = samples
        self.shuffle = shuffle
        self.seed = seed

    def indices(self, epoch: int) -> Tensor:
        """Return the indices (samples,) of an epoch, counted from 0."""
        if not self.shuffle:
            return torch.arange(self.samples)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        return torch.randperm(self.samples, generator=generator)


class Batches:
    """Iterate over a process' share of each batch: inputs, target and the weight of their mean.

    The batches are those of a single process, whatever the number of processes: process ``rank`` of
    ``world_size`` takes every ``world_size``-th sample of each. Weighted by ``weight``, sample
    means average over the processes to the mean of the batch. All processes take equally many
    steps; one for which a small last batch has no sample gets the first one, with weight zero.

    Args:
        part: Inputs (samples, ...) and targets (samples, ...), on one device.
        batch_size: Samples per batch, of all processes together; the last one may be smaller.
        order: Order of the samples.
        epoch: Returns the current epoch, counted from 0, when an iteration begins.
        rank: Rank of this process.
        world_size: Number of processes.
    """

    def __init__(
        self,
        part: Part,
        batch_size: int,
        order: Order,
        epoch: Callable[[], int],
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.part = part
        self.batch_size = batch_size
        self.order = order
        self.epoch = epoch
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return -(-self.order.samples // self.batch_size)

    def __iter__(self) -> Iterator[Share]:
        device = self.part[0].device
        for batch in self.order.indices(self.epoch()).to(device).split(self.batch_size):
            share = batch[self.rank :: self.world_size]
            weight = len(share) * self.world_size / len(batch)
            share = share if weight else batch[:1]
            yield *(values.index_select(0, share) for values in self.part), weight


class DataModule(LightningDataModule):
    """The tensors of a data set in batches, on the training device.

    Args:
        data: The data set.
        batch_size: Samples per batch, of all processes together.
        seed: Seed of the run.
    """

    def __init__(self, data: DataSet, batch_size: int, seed: int) -> None:
        super().__init__()
        self.data = data
        self.batch_size = batch_size
        self.seed = seed
        self.parts: dict[str, Part] = {}

    def prepare_data(self) -> None:
        """Find or download the data."""
        self.data.prepare()

    def setup(self, stage: str) -> None:
        """Read the parts that a stage needs; the test part only for ``"test"``."""
        if stage == "fit":
            train, validation = self.data.fit_parts()
            parts = {"train": train, "validation": validation}
        else:
            parts = {"test": self.data.test_part()}
        for name, part in parts.items():
            check_part(name, part, self.data.description)
        device = self._trainer.strategy.root_device
        self.parts = {
            name: tuple(values.to(device) for values in part) for name, part in parts.items()
        }

    def train_dataloader(self) -> Batches:
        """Return shuffled batches of the training part."""
        return self._batches("train", shuffle=True)

    def val_dataloader(self) -> Batches | list[Batches]:
        """Return batches of the validation part; none if it is empty."""
        if not len(self.parts["validation"][-1]):
            return []
        return self._batches("validation")

    def test_dataloader(self) -> Batches:
        """Return batches of the test part."""
        return self._batches("test")

    @property
    def _trainer(self) -> Trainer:
        assert self.trainer is not None, "Lightning sets the trainer before it asks for data"
        return self.trainer

    def _batches(self, name: str, *, shuffle: bool = False) -> Batches:
        trainer = self._trainer
        order = Order(len(self.parts[name][-1]), shuffle=shuffle, seed=self.seed)
        return Batches(
            self.parts[name],
            self.batch_size,
            order,
            lambda: trainer.current_epoch,
            trainer.global_rank,
            trainer.world_size,
        )
