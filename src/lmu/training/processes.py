"""Checks of the number of processes that train together."""

import os

from torch import nn

from lmu.training.recipe import Recipe
from lmu.training.settings import ConfigError

MOST_DEVICES = 256  # Lightning lists them, and on CPUs starts a process for each

# Variables, besides those of torchrun, by which Lightning's clusters find the first process.
_ADDRESSES = ("MASTER_ADDR", "SLURM_NTASKS", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


def check_processes(devices: int | str, num_nodes: int) -> None:
    """Refuse numbers that Lightning would try for hours, or until the memory is full.

    Raises:
        ConfigError: There are too many devices, or the addresses of other machines are unknown.
    """
    if isinstance(devices, int) and devices > MOST_DEVICES:
        raise ConfigError("devices", f"must be at most {MOST_DEVICES:,}, got {devices}")
    if num_nodes > 1 and not any(name in os.environ for name in _ADDRESSES):
        raise ConfigError(
            "num_nodes",
            f"nothing says where the {num_nodes} machines are: start each of them with "
            f"torchrun --nnodes {num_nodes} -m lmu ..., which tells them",
        )


def check_samples(recipe: Recipe, model: nn.Module, processes: int) -> None:
    """Refuse processes without samples, and batches of one sample under batch normalization.

    Raises:
        ConfigError: There are too few samples, in all or in a batch.
    """
    data, batch = recipe.data, recipe.config.batch_size
    unit, samples = data.description.unit, data.sizes[0]
    if samples < processes:
        raise ConfigError(
            "devices",
            f"{processes} processes cannot share {samples} training {unit}: "
            "use fewer processes, or train with a higher --limit",
        )
    if batch < processes:
        raise ConfigError(
            "batch_size",
            f"{processes} processes cannot share batches of {batch} {unit}: "
            "use fewer processes, or larger batches",
        )
    normalizes = any(isinstance(part, nn.BatchNorm1d) for part in model.modules())
    if normalizes and 1 in (batch, samples % batch):
        raise ConfigError(
            "batch_size",
            f"in batches of {batch} of {samples} {unit} there is one of a single sample, which "
            "batch normalization cannot take: choose another size",
        )
