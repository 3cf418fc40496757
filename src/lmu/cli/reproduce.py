"""``lmu reproduce``: the papers' experiments."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from lmu.cli._shared import DataOption, clear_errors, console, say, stopped_by_disk

app = typer.Typer(help="Run an experiment of the papers and leave its figures in a file.")


def _writable(path: Path | None) -> Path | None:
    """Refuse a file that cannot be written before anything is computed for it."""
    if path is None:
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be written: {error}") from error
    if not os.access(path.parent, os.W_OK):
        raise typer.BadParameter(f"{path} cannot be written: its folder is read-only")
    if path.is_dir():
        raise typer.BadParameter(f"{path} is a folder: name a file")
    if path.exists() and not path.is_file():
        raise typer.BadParameter(f"{path} is no regular file: name another")
    return path


OutputOption = Annotated[
    Path | None,
    typer.Option(
        help="The JSON file; a picture is drawn beside it. Default: in runs/, or runs/quick/.",
        callback=_writable,
    ),
]


def _place(output: Path | None, name: str, quick: bool) -> Path:
    """Where figures go; those of a quick trial never to those of the whole."""
    return output or Path("runs/quick" if quick else "runs") / name


@app.callback()
def _root() -> None:
    """Keep the name of the experiment a command of its own."""


@app.command()
def psmnist(
    context: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="demo, lmufft, lmufft-full, lmu, deep, small, lstm, gru. Default: all."
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Runs of each model. Default: its recipe's, 1 to 5.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder; each run leaves <model>-seed<n>.json in it. "
            "Default: runs/psmnist-table, or runs/quick/psmnist-table."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few digits, one epoch, one seed.")
    ] = False,
    data: DataOption = None,
) -> None:
    """Every model of the psMNIST table with its recipe. What is there already is not repeated."""
    with clear_errors(context):
        from lmu.experiments.psmnist import RECIPES, run
        from lmu.training.interruption import RunInterruptedError

        output = _place(output, "psmnist-table", quick)
        changes: dict[str, Any] = {"limit": 300, "epochs": 1, "max_seconds": 20} if quick else {}
        names = models or list(RECIPES)
        seeds = 1 if quick and seeds is None else seeds
        try:
            run(names, output, seeds=seeds, console=console, data=data, **changes)
        except RunInterruptedError as error:
            said = f"{error}: the same command goes on from here."
            console.print(said[0].upper() + said[1:], highlight=False, markup=False)
            raise typer.Exit(error.exit_code) from error


@app.command()
def capacity(
    output: OutputOption = None,
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

    output = _place(output, "capacity/capacity.json", quick)
    settings = Settings(seed=seed, lstm_seconds=lstm_seconds)
    if quick:
        settings = replace(
            settings, windows=(100, 300), lstm_windows=(100,), lstm_seconds=min(2, lstm_seconds)
        )
    with stopped_by_disk():
        run(settings, output, lambda line: console.print(line, highlight=False))
    console.print(f"wrote {output} and {output.with_suffix('.png').name}", highlight=False)


@app.command()
def speed_up(
    output: Annotated[
        Path | None,
        typer.Option(help="The JSON file. Default: in runs/, or runs/quick/.", callback=_writable),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    rounds: Annotated[int, typer.Option(min=1, help="How often each model is timed.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Short sequences, one round.")] = False,
) -> None:
    """How much faster the parallel LMU trains than recurrences, at the size of psMNIST."""
    from lmu.experiments.speed_up import Settings, run

    output = _place(output, "speed-up/speed-up.json", quick)
    settings = Settings(rounds=rounds, device=device)
    if quick:
        settings = replace(settings, batch_size=4, length=50, rounds=1)
    try:
        with stopped_by_disk():
            run(settings, output, lambda line: console.print(line, highlight=False))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--device") from error
    console.print(f"wrote {output}", highlight=False)


@app.command()
def series(
    data: Annotated[
        list[str] | None,
        typer.Argument(help="JapaneseVowels, BasicMotions, sunspots. Default: all."),
    ] = None,
    output: OutputOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each model.")] = 5,
    quick: Annotated[
        bool, typer.Option("--quick", help="One seed, hardly trained, without MiniRocket.")
    ] = False,
) -> None:
    """Real time series, classified and forecast. What the file holds already is not repeated."""
    from lmu.experiments.series import Settings, run

    output = _place(output, "series/series.json", quick)
    settings = Settings(seeds=seeds)
    if quick:
        settings = replace(settings, seeds=1, epochs=2, minirocket=False)
    try:
        settings = replace(settings, data=tuple(data)) if data else settings
        with stopped_by_disk():
            run(settings, output, lambda line: console.print(line, highlight=False))
    except (ImportError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    console.print(f"wrote {output} and {output.with_suffix('.png').name}", highlight=False)


@app.command()
def mackey_glass(
    context: typer.Context,
    models: Annotated[
        list[str] | None, typer.Argument(help="lstm, lmu, hybrid, lmufft. Default: all.")
    ] = None,
    output: OutputOption = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Runs of each model. Default: 5.")
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Of 200 batches of 32 windows of the series. Default: 15."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few short series; one seed, hardly trained.")
    ] = False,
) -> None:
    """A chaotic series, 15 steps ahead. What the file holds already is not repeated."""
    from lmu.experiments.mackey_glass import Settings, run

    output = _place(output, "mackey-glass/mackey-glass.json", quick)
    given = {"models": tuple(models or ()), "seeds": seeds, "epochs": epochs}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value}
    if quick:
        small = {"seeds": 1, "epochs": 2, "batches": 10, "series": (8, 4, 4), "length": 500}
        changes = small | changes
    with clear_errors(context):
        try:
            with stopped_by_disk():
                run(Settings(**changes), output, say)
        except (OSError, ValueError) as error:
            raise typer.BadParameter(str(error)) from error
        except KeyboardInterrupt as error:
            console.print("Interrupted: the same command goes on from here.", highlight=False)
            raise typer.Exit(130) from error
    console.print(f"wrote {output} and {output.with_suffix('.png').name}", highlight=False)
