"""The one way to run a task: settings in, a folder with results out."""

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

from lmu._arguments import instance, optional
from lmu._arguments import path as path_rule
from lmu._files import write_json
from lmu.tasks.psmnist import (
    CLASSES,
    PsMNIST,
    build_model,
    default_permutation,
    load_permutation,
)
from lmu.training.batches import TaskData
from lmu.training.checkpoint import CheckpointFiles, RunCheckpoint
from lmu.training.config import ConfigError, RunConfig
from lmu.training.folders import (
    CONFIG,
    has_only_settings,
    is_first_process,
    new_folder,
    put_in_order,
    removed_if_empty,
    settings_of,
    told_by,
)
from lmu.training.history import History
from lmu.training.interruption import interruptible
from lmu.training.lightning import flushed_denormals, quiet_lightning
from lmu.training.module import ClassificationModule, Metrics
from lmu.training.normalization import share_batch_norm
from lmu.training.processes import check_digits, check_processes
from lmu.training.progress import EpochProgress
from lmu.training.report import write_report
from lmu.training.room import check_room
from lmu.training.saved import (
    BEST,
    LAST,
    LoadedCheckpoint,
    load_checkpoint,
    newest_intact,
    resolve_checkpoint,
)


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        folder: Where its files are.
        metrics: What ``metrics.json`` holds; empty in every process but the first.
    """

    folder: Path
    metrics: dict[str, Any]


def train(
    config: RunConfig,
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
            begin anew in it.
        console: Where progress is shown; nowhere if None.
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
    instance(RunConfig)("config", config)
    optional(path_rule)("resume", resume)
    resume = None if resume is None else Path(resume)
    check_room(config)
    resumed = load_checkpoint(resume) if resume is not None and not resume.is_dir() else None
    permutation = _permutation(config) if resumed is None else resumed.permutation
    task = PsMNIST(permutation, config.data, config.full_train, config.limit)
    module = build_module(config)
    if is_first_process():
        task.prepare()
    if resume is None:
        folder = new_folder(output)
    else:
        folder = resume.resolve() if resumed is None else resume.resolve().parent
        put_in_order(folder, resumed)
    checkpoint = RunCheckpoint(folder, config, permutation)
    history = History(folder / "history.csv")
    progress = [] if console is None else [EpochProgress(console, history)]
    stopping = _early_stopping(config)
    with quiet_lightning(), flushed_denormals(), removed_if_empty(folder):
        trainer = _trainer(config, [history, *progress, checkpoint, *stopping, *callbacks])
        check_digits(config, trainer.world_size)
        if trainer.world_size > 1:
            share_batch_norm(module)
        if trainer.is_global_zero:
            write_json(folder / CONFIG, asdict(config))
        data = TaskData(task, config.batch_size, config.seed)
        metrics = {}
        with interruptible(trainer, checkpoint):
            with told_by(resumed, checkpoint):
                trainer.fit(module, data, ckpt_path=None if resumed is None else str(resumed.path))
            chosen = checkpoint.folder / (LAST if config.full_train else BEST)
            load_checkpoint(chosen).fill(module)
            test = _test(trainer, module, data)
            if trainer.is_global_zero:
                epoch = len(history.rows) if config.full_train else checkpoint.best_epoch
                chosen_by = {"checkpoint": chosen.name, "epoch": epoch}
                metrics = write_report(folder, config, task, module, history.rows, test, chosen_by)
    return RunResult(checkpoint.folder, metrics)


def resume_config(
    path: Path, say: Callable[[str], None] = warnings.warn, **changes: Any
) -> tuple[Path, RunConfig]:
    """The checkpoint to continue from and its settings.

    Args:
        path: The folder of a run, or a checkpoint in it.
        say: Is told if the last checkpoint is damaged and the one before takes its place.
        changes: Settings that may differ: where the data are and what to run on.

    Returns:
        What :func:`train` resumes, and its settings: the folder, if the run ended before its first
        checkpoint.

    Raises:
        CheckpointError: There is no such checkpoint, or all that there are are damaged.
        ConfigError: A change is out of range.
    """
    path_rule("path", path)
    path = Path(path)
    if has_only_settings(path):
        return path, _changed(settings_of(path), changes)
    loaded = newest_intact(path, say)
    return loaded.path, _changed(loaded.config, changes)


def evaluate(checkpoint: Path, **changes: Any) -> tuple[LoadedCheckpoint, Metrics]:
    """Test a checkpoint, with the batch size and precision that it was trained with.

    Args:
        checkpoint: A checkpoint, or the folder of a run, whose chosen one is taken.
        changes: Settings that may differ: where the data are and what to run on.

    Raises:
        CheckpointError: There is no such checkpoint.
        ConfigError: A change is out of range, or Lightning refuses it.
        DataError: The data are missing or damaged.
        TrainingDivergedError: The test loss is not finite.
    """
    loaded = load_checkpoint(resolve_checkpoint(checkpoint, (BEST, LAST)))
    config = _changed(loaded.config, changes)
    task = PsMNIST(loaded.permutation, config.data, config.full_train, config.limit)
    with quiet_lightning(), flushed_denormals():
        module = build_module(config)
        loaded.fill(module)
        trainer = _trainer(config, [RunCheckpoint(loaded.path.parent, config, loaded.permutation)])
        return loaded, _test(trainer, module, TaskData(task, config.batch_size, config.seed))


def build_module(config: RunConfig) -> ClassificationModule:
    """The module that a configuration describes, with fresh weights drawn from its seed.

    Raises:
        ConfigError: The layer refuses the sizes.
    """
    seed_everything(config.seed, verbose=False)
    try:
        model = build_model(**config.model_arguments())
    except (ValueError, RuntimeError) as error:  # the latter of sizes for which there is no memory
        raise ConfigError("model", str(error)) from error
    return ClassificationModule(
        model,
        CLASSES,
        learning_rate=config.learning_rate,
        schedule=config.schedule,
        epochs=config.epochs,
        seed=config.seed,
        weight_decay=config.weight_decay,
        label_smoothing=config.label_smoothing,
        input_noise=config.input_noise,
    )


def _test(trainer: Trainer, module: ClassificationModule, data: TaskData) -> Metrics:
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
            logger=False,  # History writes the CSV: whole, and kept over a resume
            limit_val_batches=0 if config.full_train else None,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,  # Batches shares them out
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
    """Devices per machine and number of machines: under torchrun those that it was told.

    Raises:
        ConfigError: The settings say otherwise.
    """
    devices = int(config.devices) if config.devices.lstrip("-").isdecimal() else config.devices
    if not torch.distributed.is_torchelastic_launched():
        check_processes(devices, config.num_nodes)
        return devices, config.num_nodes
    here, everywhere = (int(os.environ[f"{name}WORLD_SIZE"]) for name in ("LOCAL_", ""))
    machines = everywhere // here
    if devices not in ("auto", here):
        raise ConfigError(
            "devices", f"torchrun started {here} processes here, got {devices}: drop one of the two"
        )
    if config.num_nodes not in (1, machines):
        raise ConfigError(
            "num_nodes", f"torchrun started {machines} machines, got {config.num_nodes}: drop it"
        )
    return here, machines


def _early_stopping(config: RunConfig) -> list[Callback]:
    if not config.patience:
        return []
    return [EarlyStopping("val_accuracy", mode="max", patience=config.patience)]


def _changed(config: RunConfig, changes: dict[str, Any]) -> RunConfig:
    given = {name: value for name, value in changes.items() if value is not None}
    return RunConfig(**(asdict(config) | given))


def _permutation(config: RunConfig) -> torch.Tensor:
    if config.permutation is None:
        return default_permutation()
    try:
        return load_permutation(config.permutation)
    except ValueError as error:
        raise ConfigError("permutation", str(error)) from error
