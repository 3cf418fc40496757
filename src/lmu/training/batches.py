"""Batches of tensors that lie in memory, selected by index: no work per sample."""

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor

from lmu.training.seeds import derive_seed

Part = tuple[Tensor, Tensor]


class EpochSampler:
    """Indices of the samples of one process in one epoch.

    With ``shuffle`` each epoch has its own order, derived from the seed. Process ``rank`` of
    ``world_size`` takes every ``world_size``-th index. Shuffled epochs leave out the remainder
    (fewer than ``world_size`` samples, others each time), because processes that train together
    must take equally many steps; otherwise every sample is in exactly one process.

    Args:
        samples: Number of samples.
        shuffle: Whether to shuffle.
        seed: Seed of the run.
        rank: Number of this process.
        world_size: Number of processes.
    """

    def __init__(
        self, samples: int, *, shuffle: bool, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        self.used = samples - samples % world_size if shuffle else samples
        self.samples = samples
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return len(range(self.rank, self.used, self.world_size))

    def indices(self, epoch: int) -> Tensor:
        """The indices (samples of this process,) of an epoch, counted from 0."""
        if self.shuffle:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
            order = torch.randperm(self.samples, generator=generator)[: self.used]
        else:
            order = torch.arange(self.samples)
        return order[self.rank :: self.world_size]


class Batches:
    """Iterate over inputs and labels in batches, the last one possibly smaller.

    Args:
        part: Inputs (samples, ...) and labels (samples,), on one device.
        batch_size: Samples per batch.
        order: Which samples, in which order.
        epoch: Gives the current epoch, counted from 0, when an iteration begins.
    """

    def __init__(
        self, part: Part, batch_size: int, order: EpochSampler, epoch: Callable[[], int]
    ) -> None:
        self.part = part
        self.batch_size = batch_size
        self.order = order
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __iter__(self) -> Iterator[Part]:
        x, y = self.part
        for index in self.order.indices(self.epoch()).to(x.device).split(self.batch_size):
            yield x.index_select(0, index), y.index_select(0, index)


class Task(Protocol):
    """What a classification task provides."""

    def prepare(self) -> None:
        """Find or download the data; called once per machine."""

    def fit_parts(self) -> tuple[Part, Part]:
        """Training and validation part; the latter may be empty."""
        ...

    def test_part(self) -> Part:
        """Test part; called only once training is over."""
        ...


class TaskData(LightningDataModule):
    """The tensors of a task, on the device that works on them, in batches.

    Args:
        task: Where the tensors come from.
        batch_size: Samples per batch and process.
        seed: Seed of the run.
    """

    def __init__(self, task: Task, batch_size: int, seed: int) -> None:
        super().__init__()
        self.task = task
        self.batch_size = batch_size
        self.seed = seed
        self.parts: dict[str, Part] = {}

    def prepare_data(self) -> None:
        """Find or download the data."""
        self.task.prepare()

    def setup(self, stage: str) -> None:
        """Read the parts that a stage needs; the test part only for ``"test"``."""
        if stage == "fit":
            train, validation = self.task.fit_parts()
            parts = {"train": train, "validation": validation}
        else:
            parts = {"test": self.task.test_part()}
        device = self._trainer.strategy.root_device
        self.parts = {name: (x.to(device), y.to(device)) for name, (x, y) in parts.items()}

    def train_dataloader(self) -> Batches:
        """Shuffled batches of the training part."""
        return self._batches("train", shuffle=True)

    def val_dataloader(self) -> Batches | list[Batches]:
        """Batches of the validation part; none if it is empty."""
        if not len(self.parts["validation"][1]):
            return []
        return self._batches("validation")

    def test_dataloader(self) -> Batches:
        """Batches of the test part."""
        return self._batches("test")

    @property
    def _trainer(self) -> Trainer:
        assert self.trainer is not None, "Lightning sets the trainer before it asks for data"
        return self.trainer

    def _batches(self, name: str, *, shuffle: bool = False) -> Batches:
        trainer = self._trainer
        order = EpochSampler(
            len(self.parts[name][1]),
            shuffle=shuffle,
            seed=self.seed,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        return Batches(self.parts[name], self.batch_size, order, lambda: trainer.current_epoch)
