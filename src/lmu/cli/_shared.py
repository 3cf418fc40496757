"""What the commands share: options, the terminal, and how errors are told."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

# Lightning and Matplotlib take seconds to import: the functions that need them do it.

console = Console()

# What Lightning interprets. When it refuses, any of them may be the reason.
_LIGHTNING = ("accelerator", "devices", "num_nodes", "strategy", "precision")
_FLAGS = {"learning_rate": "--lr"}

DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Folder of the MNIST files, raw or gzipped. "
        "Default: the checkout, the cache, or a download.",
    ),
]
AcceleratorOption = Annotated[str | None, typer.Option(help="cpu, gpu, ... Default: auto.")]
CheckpointArgument = Annotated[Path, typer.Argument(help="A checkpoint, or the folder of a run.")]


def percent(accuracy: float) -> str:
    return f"{100 * accuracy:.2f} %"


def flag(setting: str) -> str:
    return _FLAGS.get(setting, "--" + setting.replace("_", "-"))


def set_on_command_line(context: typer.Context) -> set[str]:
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def say(line: str) -> None:
    """Print a line that may hold a path: as it is, and not broken."""
    console.print(line, highlight=False, soft_wrap=True, markup=False)


@contextmanager
def stopped_by_disk() -> Iterator[None]:
    """Say that the disk is full, or cannot be written, in words and with exit status 1."""
    from lmu._files import WriteError

    try:
        yield
    except WriteError as error:
        console.print(
            f"Stopped: {error}", style="red", highlight=False, soft_wrap=True, markup=False
        )
        raise typer.Exit(1) from error


def _given_lightning(context: typer.Context) -> str | None:
    given = set_on_command_line(context)
    return " / ".join(flag(name) for name in _LIGHTNING if name in given) or None


def _given_checkpoint(context: typer.Context) -> str | None:
    if "checkpoint" in context.params:
        return "checkpoint"
    return "--resume" if context.params.get("resume") else None


@contextmanager
def clear_errors(context: typer.Context) -> Iterator[None]:
    """Say what is wrong with the input, in words and with exit status 2, without a traceback."""
    from lmu.tasks.mnist import DataError
    from lmu.training.checkpoint import CheckpointError
    from lmu.training.config import ConfigError
    from lmu.training.interruption import RunInterruptedError
    from lmu.training.module import TrainingDivergedError

    try:
        with stopped_by_disk():
            yield
    except ConfigError as error:
        hint = _given_lightning(context) if error.setting is None else flag(error.setting)
        raise typer.BadParameter(str(error), param_hint=hint) from error
    except DataError as error:
        raise typer.BadParameter(str(error), param_hint="--data") from error
    except CheckpointError as error:
        raise typer.BadParameter(str(error), param_hint=_given_checkpoint(context)) from error
    except TrainingDivergedError as error:
        console.print(f"Stopped: {error}", style="red", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except RunInterruptedError as error:
        reason = str(error)
        console.print(
            f"{reason[0].upper()}{reason[1:]}.", highlight=False, soft_wrap=True, markup=False
        )
        if error.resumable:
            command = f"lmu train psmnist --resume {error.folder}"
            console.print(f"Continue with: {command}", highlight=False, soft_wrap=True)
        raise typer.Exit(error.exit_code) from error
