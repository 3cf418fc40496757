"""Command of the experiment on real series."""

from typing import Annotated, Any

import typer

from experiments.command import OutputOption, SeedsOption, among, place, resumable, tell_written
from experiments.series.models import NETWORKS
from lmu._extras import require
from lmu.cli._errors import training_errors
from lmu.cli._shared import say


def main(
    context: typer.Context,
    data: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"Data sets: {', '.join(NETWORKS)}. Default: all.", callback=among(NETWORKS)
        ),
    ] = None,
    output: OutputOption = None,
    seeds: SeedsOption = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="One seed unless --seeds, hardly trained, without MiniRocket."
        ),
    ] = False,
) -> None:
    """Classify and forecast real time series. Runs in the file are not repeated."""
    with training_errors(context):
        require("numba", "sklearn", "sktime", "statsmodels", extra="series")
        from experiments.series.plan import Settings, run

        output = place(output, "series/series.json", quick)
        changes: dict[str, Any] = {"seeds": 1, "epochs": 2, "minirocket": False} if quick else {}
        chosen = {"seeds": seeds, "data": tuple(data or ())}
        changes |= {name: value for name, value in chosen.items() if value}
        with resumable():
            run(Settings(**changes), output, say)
        tell_written(output)
