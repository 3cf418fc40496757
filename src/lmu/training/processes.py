"""Which numbers of processes can train together."""

import os

from lmu.tasks.psmnist import VALIDATION
from lmu.training.config import ConfigError, RunConfig

MOST_DEVICES = 256  # Lightning makes a list of them, and on CPUs a process for each

# What tells a process where the first of them is, beside torchrun: see Lightning's clusters.
_ADDRESSES = ("MASTER_ADDR", "SLURM_NTASKS", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


def check_processes(devices: int | str, num_nodes: int) -> None:
    """Refuse what Lightning would try for hours, or until the memory is full.

    Raises:
        ConfigError: There are too many devices, or nothing says where the other machines are.
    """
    if isinstance(devices, int) and devices > MOST_DEVICES:
        raise ConfigError("devices", f"must be at most {MOST_DEVICES:,}, got {devices}")
    if num_nodes > 1 and not any(name in os.environ for name in _ADDRESSES):
        raise ConfigError(
            "num_nodes",
            f"nothing says where the {num_nodes} machines are: start each of them with "
            f"torchrun --nnodes {num_nodes} -m lmu ..., which tells them",
        )


def check_digits(config: RunConfig, processes: int) -> None:
    """Refuse what would leave a process without a step, or a batch without a spread.

    Raises:
        ConfigError: There are too few digits, in all or in a batch.
    """
    if config.limit is not None and config.limit < processes:
        raise ConfigError(
            "devices",
            f"{processes} processes cannot share {config.limit} training digits: "
            "use fewer processes, or train with a higher --limit",
        )
    if config.batch_size < processes:
        raise ConfigError(
            "batch_size",
            f"{processes} processes cannot share batches of {config.batch_size} digits: "
            "use fewer processes, or larger batches",
        )
    digits = 60_000 - (0 if config.full_train else VALIDATION)
    digits = min(digits, config.limit or digits)
    if config.model == "deep" and 1 in (config.batch_size, digits % config.batch_size):
        raise ConfigError(
            "batch_size",
            f"in batches of {config.batch_size} of {digits} digits there is one of a single digit, "
            "which deep cannot normalize: choose another size",
        )
