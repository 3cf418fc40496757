"""Command of the comparison of training times."""

from dataclasses import replace
from typing import Annotated

import typer

from experiments.command import MOST_RUNS, OutputOption, among, place, tell_written
from lmu.cli._errors import training_errors
from lmu.cli._shared import say


def main(
    context: typer.Context,
    output: OutputOption = None,
    device: Annotated[
        str,
        typer.Option(
            help="Where: cpu or cuda.",
            callback=among(["cpu", "cuda"]),
        ),
    ] = "cpu",
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST_RUNS, help="How often each model is timed. Default: 5; 1 with --quick."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Short sequences, one round unless --rounds.")
    ] = False,
) -> None:
    """Time training of the parallel LMU and of recurrences, at the size of psMNIST."""
    with training_errors(context):
        from experiments.speed_up.runs import Settings, run

        output = place(output, "speed-up/speed-up.json", quick)
        settings = Settings(device=device)
        if quick:
            settings = replace(settings, batch_size=4, length=50, rounds=1)
        if rounds is not None:
            settings = replace(settings, rounds=rounds)
        try:
            run(settings, output, say)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--device") from error
        tell_written(output)
