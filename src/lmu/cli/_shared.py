"""Options and terminal output that commands share."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lmu.tasks.psmnist.config import DATA_HELP
from lmu.training.config import RunConfig
from lmu.training.settings import settings_of

# Lightning and Matplotlib take seconds to import: only functions that need them import them.

console = Console()

_FLAGS = {name: known.option for name, known in settings_of(RunConfig).items() if known.option}

DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        help=DATA_HELP,
    ),
]
AcceleratorOption = Annotated[str | None, typer.Option(help="cpu, gpu, ... Default: auto.")]
CheckpointArgument = Annotated[Path, typer.Argument(help="A checkpoint, or the folder of a run.")]


def percent(accuracy: float) -> str:
    return f"{100 * accuracy:.2f} %"


def flag(setting: str) -> str:
    return _FLAGS.get(setting, "--" + setting.replace("_", "-"))


def on_command_line(context: typer.Context) -> set[str]:
    """Return the parameters set on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def say(line: str) -> None:
    """Print a line that may hold a path, without markup or line breaks."""
    console.print(line, highlight=False, soft_wrap=True, markup=False)
