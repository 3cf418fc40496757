"""Report of a run: metrics.json and pictures."""

import os
import platform
from pathlib import Path
from typing import Any

import lightning
import torch
from matplotlib.figure import Figure

from lmu import __version__
from lmu._files import write_json
from lmu._machine import git_commit
from lmu.training.module import TrainingModule
from lmu.training.objective import Metrics
from lmu.training.pictures import draw_answers, draw_confusion, draw_curves, write_figure
from lmu.training.recipe import Recipe


def write_report(
    folder: Path,
    recipe: Recipe,
    module: TrainingModule,
    rows: list[dict[str, Any]],
    test: Metrics,
    chosen: dict[str, Any],
) -> dict[str, Any]:
    """Write the metrics and the pictures of a finished run.

    Args:
        folder: The run's folder.
        recipe: Recipe of the run.
        module: The tested module.
        rows: Its epochs, see :class:`lmu.training.history.History`.
        test: Result of the test.
        chosen: The tested weights: ``checkpoint`` and ``epoch``.

    Returns:
        The content of ``metrics.json``.
    """
    unit = recipe.data.description.unit
    curves = draw_curves(rows, chosen=chosen["epoch"], title=recipe.title)
    write_figure(folder / "curves.png", curves)
    for name, figure in (recipe.figures() | _of_the_test(recipe, module, test)).items():
        write_figure(folder / name, figure)
    metrics = {
        **{f"test_{name}": value for name, value in test.figures().items()},
        f"test_{unit}": test.samples,
        **_selection(rows, chosen),
        "parameters": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "seed": recipe.config.seed,
        "config": recipe.settings(),
        "seconds_per_epoch": [row["seconds"] for row in rows],
        "history": rows,
        f"validation_{unit}": recipe.data.sizes[1],
        "versions": versions(),
        "git_commit": git_commit(),
        "machine": machine(module.device),
    }
    write_json(folder / "metrics.json", metrics)
    return metrics


def _of_the_test(recipe: Recipe, module: TrainingModule, test: Metrics) -> dict[str, Figure]:
    data = recipe.data.description
    if test.confusion is not None:
        return {"confusion.png": draw_confusion(test.confusion, data.unit, data.names)}
    if not module.answers:
        return {}
    outputs, targets = (torch.cat(parts) for parts in zip(*module.answers, strict=True))
    return {"answers.png": draw_answers(outputs, targets, data.unit, data.names)}


def versions() -> dict[str, str]:
    """Return versions of the packages that results depend on."""
    return {
        "torch-lmu": __version__,
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "python": platform.python_version(),
    }


def machine(device: torch.device) -> dict[str, Any]:
    """Describe the machine of a run."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "device": name,
    }


def _selection(rows: list[dict[str, Any]], chosen: dict[str, Any]) -> dict[str, Any]:
    row = rows[chosen["epoch"] - 1]
    return {"chosen": chosen} | {
        name: value for name, value in row.items() if name.startswith(("train_", "val_"))
    }
