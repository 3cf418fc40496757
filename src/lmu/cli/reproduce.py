"""``lmu reproduce``: the papers' experiments."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lmu.cli._shared import console

app = typer.Typer(help="Run an experiment of the papers and leave its figures in a file.")


@app.callback()
def _root() -> None:
    """Keep the name of the experiment a command of its own."""


@app.command()
def capacity(
    output: Annotated[
        Path, typer.Option(help="The JSON file; a picture is drawn beside it.")
    ] = Path("runs/capacity/capacity.json"),
    seed: Annotated[int, typer.Option(min=0, help="Of signals and weights.")] = 0,
    lstm_seconds: Annotated[
        float, typer.Option(min=0, help="How long the LSTM is trained for each window.")
    ] = 300.0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Short windows, and an LSTM that hardly learns.")
    ] = False,
) -> None:
    """How much of its window a memory can tell: untrained LMU against a trained LSTM."""
    from lmu.experiments.capacity import Settings, run

    settings = Settings(seed=seed, lstm_seconds=lstm_seconds)
    if quick:
        settings = replace(
            settings, windows=(100, 300), lstm_windows=(100,), lstm_seconds=min(2, lstm_seconds)
        )
    run(settings, output, lambda line: console.print(line, highlight=False))
    console.print(f"wrote {output} and {output.with_suffix('.png').name}", highlight=False)
