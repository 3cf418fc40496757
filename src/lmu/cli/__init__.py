"""The command line: ``lmu train``, ``eval``, ``predict``, ``export``, ``explain`` and the rest."""

from typing import Annotated

import typer

import lmu
from lmu.cli import reproduce, train
from lmu.cli._shared import console
from lmu.cli.explain import explain
from lmu.cli.export import export_command
from lmu.cli.use import evaluate_command, predict

app = typer.Typer(
    help="The Legendre Memory Unit for PyTorch.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(train.app, name="train")
app.command("eval")(evaluate_command)
app.command()(predict)
app.command("export")(export_command)
app.command()(explain)
app.add_typer(reproduce.app, name="reproduce")


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """The Legendre Memory Unit for PyTorch."""
    if version:
        console.print(f"torch-lmu {lmu.__version__}", highlight=False)
        raise typer.Exit
