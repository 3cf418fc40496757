"""What a run leaves behind: metrics.json and pictures."""

import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning
import torch

from lmu import __version__
from lmu._files import write_json
from lmu._machine import git_commit
from lmu.tasks.psmnist import VALIDATION, PsMNIST
from lmu.training.config import RunConfig
from lmu.training.module import ClassificationModule, Metrics
from lmu.training.pictures import (
    draw_confusion,
    draw_curves,
    draw_window,
    write_figure,
)

PICTURES = ("curves.png", "window.png", "confusion.png")


def write_report(
    folder: Path,
    config: RunConfig,
    task: PsMNIST,
    module: ClassificationModule,
    rows: list[dict[str, Any]],
    test: Metrics,
    chosen: dict[str, Any],
) -> dict[str, Any]:
    """Write the metrics and the pictures of a finished run.

    Args:
        folder: The run's folder.
        config: Its settings.
        task: Its task, for a digit to show.
        module: The tested module.
        rows: Its epochs, see :class:`lmu.training.history.History`.
        test: Result of the test.
        chosen: Which weights were tested: ``checkpoint`` and ``epoch``.

    Returns:
        The content of ``metrics.json``.
    """
    assert test.confusion is not None
    arguments = config.model_arguments()
    curves = draw_curves(rows, chosen=chosen["epoch"], title=f"{config.model} on permuted MNIST")
    write_figure(folder / "curves.png", curves)
    if arguments["memory_size"] is not None:
        x, _ = task.test_part()
        window = draw_window(x[0], task, arguments["memory_size"], arguments["theta"])
        write_figure(folder / "window.png", window)
    write_figure(folder / "confusion.png", draw_confusion(test.confusion))
    metrics = {
        "test_accuracy": test.accuracy,
        "test_loss": test.loss,
        "test_digits": int(test.confusion.sum()),
        **_selection(rows, chosen),
        "parameters": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "seed": config.seed,
        "config": shareable(config) | arguments,
        "seconds_per_epoch": [row["seconds"] for row in rows],
        "history": rows,
        "validation_digits": 0
        if config.full_train
        else min(VALIDATION, config.limit or VALIDATION),
        "versions": versions(),
        "git_commit": git_commit(),
        "machine": machine(module.device),
    }
    write_json(folder / "metrics.json", metrics)
    return metrics


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {
        "torch-lmu": __version__,
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "python": platform.python_version(),
    }


def machine(device: torch.device) -> dict[str, Any]:
    """The machine that a run used."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "device": name,
    }


def shareable(config: RunConfig) -> dict[str, Any]:
    """The settings without what only tells where files lie on this machine."""
    settings = asdict(config)
    del settings["data"]
    if config.permutation is not None:
        settings["permutation"] = Path(config.permutation).name
    return settings


def _selection(rows: list[dict[str, Any]], chosen: dict[str, Any]) -> dict[str, Any]:
    row = rows[chosen["epoch"] - 1]
    names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    return {"chosen": chosen} | {name: row[name] for name in names if name in row}
