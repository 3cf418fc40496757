"""Running of a recipe: from settings to a folder with results."""

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from rich.console import Console

from lmu._arguments import path as path_rule
from lmu._files import write_json
from lmu.training.batches import DataModule
from lmu.training.checkpoint import CheckpointFiles, RunCheckpoint
from lmu.training.config import RunConfig
from lmu.training.folders import (
    CONFIG,
    config_of,
    has_only_settings,
    is_first_process,
    new_folder,
    put_in_order,
    removed_if_empty,
    resume_errors,
)
from lmu.training.history import History
from lmu.training.interruption import interruptible
from lmu.training.lightning import flushed_denormals, quiet_lightning
from lmu.training.module import Optimization, TrainingModule
from lmu.training.normalization import share_batch_norm
from lmu.training.objective import Metrics, objective_of
from lmu.training.processes import check_processes, check_samples
from lmu.training.progress import EpochProgress
from lmu.training.recipe import Recipe
from lmu.training.report import write_report
from lmu.training.saved import BEST, LAST, LoadedCheckpoint, load_checkpoint, newest_intact
from lmu.training.settings import ConfigError


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        folder: Folder of its files.
        metrics: Content of ``metrics.json``; empty in every process but the first.
    """

    folder: Path
    metrics: dict[str, Any]


def train(
    recipe: Recipe,
    *,
    output: Path,
    resume: LoadedCheckpoint[Any] | Path | None = None,
    console: Console | None = None,
    callbacks: Sequence[Callback] = (),
) -> RunResult:
    """Train, choose the model on the validation part, test it once, and write the report.

    Args:
        recipe: What is trained. For a resumed run that of its checkpoint; see
            :func:`resume_config`.
        output: Folder in which the run's folder, named by the time, is made.
        resume: The checkpoint to continue from; its folder is then the run's. Or a run's folder, to
            start over in it.
        console: Console that shows progress; none if None.
        callbacks: Further Lightning callbacks.

    Raises:
        ConfigError: Lightning refuses a setting, there are fewer training samples than processes,
            or the recipe's settings are wrong.
        CheckpointError: Training cannot continue from the checkpoint.
        RunInterruptedError: Ctrl-C, a request to terminate, or a full disk.
        TrainingDivergedError: A loss is not finite.
        ValueError: The data are missing or damaged.
        WriteError: The disk is full before the run has begun, or cannot be written.
    """
    recipe.check()
    module = build_module(recipe)
    if is_first_process():
        recipe.data.prepare()
    resumed = resume if isinstance(resume, LoadedCheckpoint) else None
    folder = _folder(output, resume)
    checkpoint = RunCheckpoint(folder, recipe)
    history = History(folder / "history.csv")
    progress = [] if console is None else [EpochProgress(console, history)]
    stopping = _early_stopping(recipe.config, module)
    with quiet_lightning(), flushed_denormals(), removed_if_empty(folder):
        trainer = _trainer(recipe.config, [history, *progress, checkpoint, *stopping, *callbacks])
        check_samples(recipe, module.model, trainer.world_size)
        if trainer.world_size > 1:
            share_batch_norm(module)
        if trainer.is_global_zero:
            write_json(folder / CONFIG, asdict(recipe.config))
        data = DataModule(recipe.data, recipe.config.batch_size, recipe.config.seed)
        with interruptible(trainer, checkpoint):
            with resume_errors(resumed, checkpoint):
                trainer.fit(module, data, ckpt_path=None if resumed is None else str(resumed.path))
            metrics = _test_and_report(trainer, module, data, checkpoint, history)
    return RunResult(checkpoint.folder, metrics)


def _folder(output: Path, resume: LoadedCheckpoint[Any] | Path | None) -> Path:
    """Return the run's folder, made or prepared for resuming."""
    if resume is None:
        return new_folder(output)
    if isinstance(resume, Path):
        folder, resumed = resume.resolve(), None
    else:
        folder, resumed = resume.path.resolve().parent, resume
    put_in_order(folder, resumed)
    return folder


def _test_and_report(
    trainer: Trainer,
    module: TrainingModule,
    data: DataModule,
    checkpoint: RunCheckpoint,
    history: History,
) -> dict[str, Any]:
    """Test the chosen weights; return the report's metrics in the first process."""
    recipe = checkpoint.recipe
    full = recipe.config.full_train
    chosen = checkpoint.folder / (LAST if full else BEST)
    load_checkpoint(chosen, type(recipe)).fill(module)
    test = _test(trainer, module, data)
    if not trainer.is_global_zero:
        return {}
    epoch = len(history.rows) if full else checkpoint.best_epoch
    chosen_by = {"checkpoint": chosen.name, "epoch": epoch}
    return write_report(checkpoint.folder, recipe, module, history.rows, test, chosen_by)


def resume_config(
    path: Path,
    kind: type[Recipe],
    say: Callable[[str], None] = warnings.warn,
    **changes: Any,
) -> tuple[Path, Any]:
    """Return the checkpoint to continue from and its settings.

    Args:
        path: The folder of a run, or a checkpoint in it.
        kind: Class of the task's recipe.
        say: Called with a message if the last checkpoint is damaged and the one before is used.
        changes: Settings that may differ: the folder of the data and the device.

    Returns:
        The checkpoint, or the folder if the run ended before its first one, and the settings.

    Raises:
        CheckpointError: There is no checkpoint, or all are damaged.
        ConfigError: A change is out of range.
    """
    path_rule("path", path)
    path = Path(path)
    if has_only_settings(path):
        return path, config_of(path, kind).changed(changes)
    loaded = newest_intact(path, kind, say)
    return loaded.path, loaded.recipe.config.changed(changes)


def evaluate(loaded: LoadedCheckpoint[Any], recipe: Recipe) -> Metrics:
    """Test a checkpoint, with the batch size and precision that it was trained with.

    Args:
        loaded: The checkpoint.
        recipe: Its recipe; the folder of the data and the device may differ.

    Raises:
        ConfigError: Lightning refuses a setting.
        TrainingDivergedError: The test loss is not finite.
        ValueError: The data are missing or damaged.
    """
    config = recipe.config
    with quiet_lightning(), flushed_denormals():
        module = build_module(recipe)
        loaded.fill(module)
        trainer = _trainer(config, [RunCheckpoint(loaded.path.parent, recipe)])
        return _test(trainer, module, DataModule(recipe.data, config.batch_size, config.seed))


def build_module(recipe: Recipe) -> TrainingModule:
    """Build the module of a recipe, with initial weights drawn from its seed.

    Raises:
        ConfigError: The model or the objective refuses the settings.
    """
    config, data = recipe.config, recipe.data.description
    seed_everything(config.seed, verbose=False)
    model = recipe.build_model()
    objective = objective_of(data.kind, data.outputs, config.label_smoothing)
    optimization = Optimization(
        config.learning_rate, config.epochs, config.schedule, config.weight_decay
    )
    return TrainingModule(
        model, objective, optimization, seed=config.seed, input_noise=recipe.input_noise
    )


def _test(trainer: Trainer, module: TrainingModule, data: DataModule) -> Metrics:
    trainer.test(module, data, verbose=False)
    assert module.evaluation is not None
    return module.evaluation


def _trainer(config: RunConfig, callbacks: Sequence[Callback]) -> Trainer:
    devices, num_nodes = _processes(config)
    try:
        return Trainer(
            accelerator=config.accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy=config.strategy,
            precision=config.precision,  # pyright: ignore[reportArgumentType]
            max_epochs=config.epochs,
            max_time=None if config.max_seconds is None else timedelta(seconds=config.max_seconds),
            gradient_clip_val=config.gradient_clip,
            callbacks=list(callbacks),
            plugins=[CheckpointFiles()],
            logger=False,  # History writes the CSV: atomically, and across resumes
            limit_val_batches=0 if config.full_train else None,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,  # Batches splits batches between processes
        )
    except (
        MisconfigurationException,
        ImportError,  # a known accelerator or precision whose package is missing
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise ConfigError(None, f"Lightning refuses the settings: {error}") from error


def _processes(config: RunConfig) -> tuple[int | str, int]:
    """Return devices per machine and number of machines; under torchrun those of its command.

    Raises:
        ConfigError: The settings say otherwise.
    """
    devices = int(config.devices) if config.devices.lstrip("-").isdecimal() else config.devices
    if not torch.distributed.is_torchelastic_launched():
        check_processes(devices, config.num_nodes)
        return devices, config.num_nodes
    local, total = (int(os.environ[f"{name}WORLD_SIZE"]) for name in ("LOCAL_", ""))
    machines = total // local
    if devices not in ("auto", local):
        raise ConfigError(
            "devices",
            f"torchrun started {local} processes here, got {devices}: drop one of the two",
        )
    if config.num_nodes not in (1, machines):
        raise ConfigError(
            "num_nodes", f"torchrun started {machines} machines, got {config.num_nodes}: drop it"
        )
    return local, machines


def _early_stopping(config: RunConfig, module: TrainingModule) -> list[Callback]:
    if not config.patience:
        return []
    objective = module.objective
    mode = "max" if objective.highest else "min"
    return [EarlyStopping(f"val_{objective.monitor}", mode=mode, patience=config.patience)]
