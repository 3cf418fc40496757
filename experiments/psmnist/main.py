"""Command of the psMNIST table."""

from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.command import MOST_RUNS, among, place
from experiments.psmnist.recipes import RECIPES
from lmu.cli._errors import training_errors
from lmu.cli._shared import DataOption, console


def main(
    context: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"Rows: {', '.join(RECIPES)}. Default: all.",
            callback=among(RECIPES),
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST_RUNS, help="Runs of each model. Default: its recipe's, 1 to 5."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder; each run leaves <model>-seed<n>.json in it. "
            "Default: runs/psmnist-table, or runs/quick/psmnist-table."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few digits, one epoch, one seed unless --seeds.")
    ] = False,
    data: DataOption = None,
) -> None:
    """Train every model of the psMNIST table by its recipe. Finished runs are not repeated."""
    with training_errors(context):
        from experiments.psmnist.runs import run
        from lmu.training.interruption import RunInterruptedError

        output = place(output, "psmnist-table", quick)
        changes: dict[str, Any] = {"limit": 300, "epochs": 1, "max_seconds": 20} if quick else {}
        seeds = 1 if quick and seeds is None else seeds
        try:
            run(models or list(RECIPES), output, seeds=seeds, console=console, data=data, **changes)
        except RunInterruptedError as error:
            reason = f"{error}: the same command goes on from here."
            console.print(reason[0].upper() + reason[1:], highlight=False, markup=False)
            raise typer.Exit(error.exit_code) from error
