"""The command line: ``lmu train``, ``eval``, ``predict``, ``export`` and ``explain``."""

from typing import Annotated

import typer

import lmu
from lmu.cli import train
from lmu.cli._app import Command, new_app
from lmu.cli._shared import console
from lmu.cli.explain import explain
from lmu.cli.export import export_command
from lmu.cli.use import evaluate_command, predict

app = new_app(help="The Legendre Memory Unit for PyTorch.")
app.add_typer(train.app, name="train")
app.command("eval", cls=Command)(evaluate_command)
app.command(cls=Command)(predict)
app.command("export", cls=Command)(export_command)
app.command(cls=Command)(explain)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """The Legendre Memory Unit for PyTorch."""
    if version:
        console.print(f"torch-lmu {lmu.__version__}", highlight=False)
        raise typer.Exit
