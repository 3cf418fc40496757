"""Checks that a run fits into memory, before anything is allocated."""

import os

import torch

from lmu.tasks.psmnist.config import PsMNISTConfig
from lmu.tasks.psmnist.data import PIXELS
from lmu.training.settings import ConfigError

_RECURRENT = {"lmu": 3, "lstm": 8, "gru": 6}  # numbers kept for each hidden unit and pixel


def check_room(config: PsMNISTConfig) -> None:
    """Refuse a model or a batch that needs more memory than this machine has.

    Raises:
        ConfigError: It does; the message has both figures.
    """
    available = total_memory()
    if available is None:
        return
    needed = {"hidden_size": weight_bytes(config)}
    if config.accelerator in ("auto", "cpu") and not torch.cuda.is_available():
        needed["batch_size"] = needed["hidden_size"] + batch_bytes(config)
    for setting, size in needed.items():
        if size > available:
            raise ConfigError(
                setting,
                f"training would take about {size / 2**30:,.0f} GiB of memory, this machine has "
                f"{available / 2**30:,.0f}: choose smaller sizes",
            )


def weight_bytes(config: PsMNISTConfig) -> float:
    """Estimate the bytes of the weights, with their gradients and Adam's two moments."""
    arguments = config.model_arguments()
    h, d = arguments["hidden_size"], arguments["memory_size"] or 0
    numbers = {
        "lstm": 4.0 * h * h,
        "gru": 3.0 * h * h,
        "lmufft": 1.0 * h * d,
        "lmu": 1.0 * h * (h + d),
        "deep": 1.0 * h * d + (config.layers - 1.0) * h * h,
    }
    # The Legendre system is computed in float64, with some more matrices of its size.
    return 16 * numbers[config.model] + 8 * (4.0 * d * d + PIXELS * d)


def batch_bytes(config: PsMNISTConfig) -> float:
    """Estimate the bytes that a training step keeps for its backward pass."""
    hidden = config.model_arguments()["hidden_size"]
    kept = PIXELS * _RECURRENT[config.model] if config.model in _RECURRENT else 3 * config.layers
    return 4.0 * config.batch_size * hidden * kept


def total_memory() -> int | None:
    """Return the bytes of this machine's memory, None where Python cannot tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
