"""Training and testing on permuted sequential MNIST."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from rich.console import Console

from lmu._arguments import instance, optional
from lmu._arguments import path as path_rule
from lmu.tasks.psmnist.config import PsMNISTConfig
from lmu.tasks.psmnist.recipe import PsMNISTRecipe, load_classifier
from lmu.training import run
from lmu.training.objective import Metrics
from lmu.training.run import RunResult
from lmu.training.saved import LoadedCheckpoint, load_checkpoint


def train(
    config: PsMNISTConfig,
    *,
    output: Path = Path("runs/psmnist"),
    resume: Path | None = None,
    console: Console | None = None,
    callbacks: Sequence[Callback] = (),
) -> RunResult:
    """Train, choose the model on the validation part, test it once, and write the report.

    Args:
        config: All settings. For a resumed run those of its checkpoint; see :func:`resume_config`.
        output: Folder in which the run's folder, named by the time, is made.
        resume: The checkpoint to continue from; its folder is then the run's. Or a run's folder, to
            start over in it.
        console: Console that shows progress; none if None.
        callbacks: Further Lightning callbacks.

    Raises:
        ConfigError: The permutation is wrong, Lightning refuses a setting, or there are fewer
            training digits than processes.
        CheckpointError: The checkpoint cannot be read.
        DataError: The data are missing or damaged.
        RunInterruptedError: Ctrl-C, a request to terminate, or a full disk.
        TrainingDivergedError: A loss is not finite.
        WriteError: The disk is full before the run has begun, or cannot be written.
    """
    instance(PsMNISTConfig)("config", config)
    optional(path_rule)("resume", resume)
    source: LoadedCheckpoint[PsMNISTRecipe] | Path | None = None if resume is None else Path(resume)
    if source is None or source.is_dir():
        recipe = PsMNISTRecipe.of(config)
    else:
        source = load_checkpoint(source, PsMNISTRecipe)
        recipe = replace(source.recipe, config=config)
    return run.train(recipe, output=output, resume=source, console=console, callbacks=callbacks)


def resume_config(
    path: Path, say: Callable[[str], None] = warnings.warn, **changes: Any
) -> tuple[Path, PsMNISTConfig]:
    """Return the checkpoint to continue from and its settings.

    See :func:`lmu.training.run.resume_config`.

    Args:
        path: The folder of a run, or a checkpoint in it.
        say: Called with a message if the last checkpoint is damaged and the one before is used.
        changes: Settings that may differ: the folder of the data and the device.
    """
    return run.resume_config(path, PsMNISTRecipe, say, **changes)


def evaluate(checkpoint: Path, **changes: Any) -> tuple[LoadedCheckpoint[PsMNISTRecipe], Metrics]:
    """Test a checkpoint, with the batch size and precision that it was trained with.

    Args:
        checkpoint: A checkpoint, or the folder of a run, which stands for its tested one.
        changes: Settings that may differ: the folder of the data and the device.

    Raises:
        CheckpointError: There is no such checkpoint.
        ConfigError: A change is out of range, or Lightning refuses it.
        DataError: The data are missing or damaged.
        TrainingDivergedError: The test loss is not finite.
    """
    loaded = load_classifier(checkpoint)
    recipe = replace(loaded.recipe, config=loaded.recipe.config.changed(changes))
    return loaded, run.evaluate(loaded, recipe)
