"""Command of the capacity experiment."""

from dataclasses import replace
from typing import Annotated

import typer

from experiments.command import OutputOption, between, place, tell_written
from lmu.cli._errors import training_errors
from lmu.cli._shared import say


def main(
    context: typer.Context,
    output: OutputOption = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of signals and weights.")] = 0,
    lstm_seconds: Annotated[
        float | None,
        typer.Option(
            help="How long the LSTM is trained for each window. Default: 300; 2 with --quick.",
            callback=between(0, 1e6),
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Short windows, and an LSTM that hardly learns.")
    ] = False,
) -> None:
    """Decode the window of a memory: untrained LMU against a trained LSTM."""
    with training_errors(context):
        from experiments.capacity.recipe import Settings, run

        output = place(output, "capacity/capacity.json", quick)
        settings = Settings(seed=seed)
        if quick:
            settings = replace(settings, windows=(100, 300), lstm_windows=(100,), lstm_seconds=2)
        if lstm_seconds is not None:
            settings = replace(settings, lstm_seconds=lstm_seconds)
        run(settings, output, say)
        tell_written(output)
