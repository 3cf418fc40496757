"""Command of the Mackey-Glass experiment."""

from typing import Annotated, Any

import typer

from experiments.command import OutputOption, SeedsOption, among, place, resumable, tell_written
from experiments.mackey_glass.models import MODELS
from lmu.cli._errors import training_errors
from lmu.cli._shared import say


def main(
    context: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"Models: {', '.join(MODELS)}. Default: all.",
            callback=among(MODELS),
        ),
    ] = None,
    output: OutputOption = None,
    seeds: SeedsOption = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1_000_000,
            help="Of 200 batches of 32 windows of the series. Default: 15; 2 with --quick.",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few short series; one seed, hardly trained.")
    ] = False,
) -> None:
    """Predict a chaotic series 15 steps ahead. Runs in the file are not repeated."""
    with training_errors(context):
        from experiments.mackey_glass.runs import Settings, run

        output = place(output, "mackey-glass/mackey-glass.json", quick)
        chosen = {"seeds": seeds, "epochs": epochs, "models": tuple(models or ())}
        changes: dict[str, Any] = {name: value for name, value in chosen.items() if value}
        if quick:
            small = {"seeds": 1, "epochs": 2, "batches": 10, "series": (8, 4, 4), "length": 500}
            changes = small | changes
        with resumable():
            run(Settings(**changes), output, say)
        tell_written(output)
