"""``lmu reproduce``: the papers' experiments."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from os.path import isdir
from pathlib import Path
from typing import Annotated, Any

import typer

from lmu._extras import require
from lmu.cli._app import Command, new_app
from lmu.cli._errors import training_errors
from lmu.cli._shared import DataOption, console, say

app = new_app(help="Run an experiment of the papers and leave its figures in a file.")

_MOST_RUNS = 10_000  # more are a slip of the keyboard


class Row(str, Enum):
    """Rows of the psMNIST table; the experiment is not imported for them, it needs Lightning."""

    DEMO = "demo"
    LMUFFT = "lmufft"
    LMUFFT_FULL = "lmufft-full"
    LMU = "lmu"
    DEEP_1024 = "deep-1024"
    DEEP_255 = "deep-255"
    LSTM = "lstm"
    GRU = "gru"


class Series(str, Enum):
    """Data sets of the experiment on real series."""

    VOWELS = "JapaneseVowels"
    MOTIONS = "BasicMotions"
    SUNSPOTS = "sunspots"


class Predictor(str, Enum):
    """Models of the Mackey-Glass experiment."""

    LSTM = "lstm"
    LMU = "lmu"
    HYBRID = "hybrid"
    LMUFFT = "lmufft"


class Device(str, Enum):
    """Where models are timed."""

    CPU = "cpu"
    CUDA = "cuda"


def _between(least: float, most: float) -> Callable[[float | None], float | None]:
    """A check of a number, which Typer's own lets pass if it is nan."""

    def check(value: float | None) -> float | None:
        if value is not None and not least <= value <= most:
            raise typer.BadParameter(f"must lie in {least:g} to {most:g}, got {value}")
        return value

    return check


def _writable(path: Path | None) -> Path | None:
    """Refuse a file that cannot be written before anything is computed for it."""
    if path is None:
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.exists()  # or is too long a name
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be written: {error.strerror}") from error
    if not os.access(path.parent, os.W_OK):
        raise typer.BadParameter(f"{path} cannot be written: its folder is read-only")
    if isdir(path):
        raise typer.BadParameter(f"{path} is a folder: name a file")
    if path.exists() and not path.is_file():
        raise typer.BadParameter(f"{path} is no regular file: name another")
    if path.suffix != ".json":  # the picture beside it must have another name
        raise typer.BadParameter(f"the name of the file must end in .json, got {path}")
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


@contextmanager
def _going_on() -> Iterator[None]:
    """For experiments that go on from their file: it may be another's, and Ctrl-C loses little."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--output") from error
    except KeyboardInterrupt as error:
        console.print("Interrupted: the same command goes on from here.", highlight=False)
        raise typer.Exit(130) from error


def _wrote(output: Path) -> None:
    say(f"wrote {output} and {output.with_suffix('.png').name}")


@app.command(cls=Command)
def psmnist(
    context: typer.Context,
    models: Annotated[list[Row] | None, typer.Argument(help="Rows. Default: all.")] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1, max=_MOST_RUNS, help="Runs of each model. Default: its recipe's, 1 to 5."
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
    """Every model of the psMNIST table with its recipe. What is there already is not repeated."""
    with training_errors(context):
        from lmu.experiments.psmnist import RECIPES, run
        from lmu.training.interruption import RunInterruptedError

        output = _place(output, "psmnist-table", quick)
        changes: dict[str, Any] = {"limit": 300, "epochs": 1, "max_seconds": 20} if quick else {}
        names = [model.value for model in models] if models else list(RECIPES)
        seeds = 1 if quick and seeds is None else seeds
        try:
            run(names, output, seeds=seeds, console=console, data=data, **changes)
        except RunInterruptedError as error:
            said = f"{error}: the same command goes on from here."
            console.print(said[0].upper() + said[1:], highlight=False, markup=False)
            raise typer.Exit(error.exit_code) from error


@app.command(cls=Command)
def capacity(
    context: typer.Context,
    output: OutputOption = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of signals and weights.")] = 0,
    lstm_seconds: Annotated[
        float | None,
        typer.Option(
            help="How long the LSTM is trained for each window. Default: 300; 2 with --quick.",
            callback=_between(0, 1e6),
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Short windows, and an LSTM that hardly learns.")
    ] = False,
) -> None:
    """How much of its window a memory can tell: untrained LMU against a trained LSTM."""
    with training_errors(context):
        from lmu.experiments.capacity import Settings, run

        output = _place(output, "capacity/capacity.json", quick)
        settings = Settings(seed=seed)
        if quick:
            settings = replace(settings, windows=(100, 300), lstm_windows=(100,), lstm_seconds=2)
        if lstm_seconds is not None:
            settings = replace(settings, lstm_seconds=lstm_seconds)
        run(settings, output, say)
        _wrote(output)


@app.command(cls=Command)
def speed_up(
    context: typer.Context,
    output: Annotated[
        Path | None,
        typer.Option(help="The JSON file. Default: in runs/, or runs/quick/.", callback=_writable),
    ] = None,
    device: Annotated[Device, typer.Option(help="Where.")] = Device.CPU,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1, max=_MOST_RUNS, help="How often each model is timed. Default: 5; 1 with --quick."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Short sequences, one round unless --rounds.")
    ] = False,
) -> None:
    """How much faster the parallel LMU trains than recurrences, at the size of psMNIST."""
    with training_errors(context):
        from lmu.experiments.speed_up import Settings, run

        output = _place(output, "speed-up/speed-up.json", quick)
        settings = Settings(device=device.value)
        if quick:
            settings = replace(settings, batch_size=4, length=50, rounds=1)
        if rounds is not None:
            settings = replace(settings, rounds=rounds)
        try:
            run(settings, output, say)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--device") from error
        say(f"wrote {output}")


@app.command(cls=Command)
def series(
    context: typer.Context,
    data: Annotated[list[Series] | None, typer.Argument(help="Data sets. Default: all.")] = None,
    output: OutputOption = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, max=_MOST_RUNS, help="Runs of each model. Default: 5; 1 with --quick."),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="One seed unless --seeds, hardly trained, without MiniRocket."
        ),
    ] = False,
) -> None:
    """Real time series, classified and forecast. What the file holds already is not repeated."""
    with training_errors(context):
        require("numba", "sklearn", "sktime", "statsmodels", extra="series")
        from lmu.experiments.series import Settings, run

        output = _place(output, "series/series.json", quick)
        changes: dict[str, Any] = {"seeds": 1, "epochs": 2, "minirocket": False} if quick else {}
        given = {"seeds": seeds, "data": tuple(name.value for name in data or ())}
        changes |= {name: value for name, value in given.items() if value}
        with _going_on():
            run(Settings(**changes), output, say)
        _wrote(output)


@app.command(cls=Command)
def mackey_glass(
    context: typer.Context,
    models: Annotated[list[Predictor] | None, typer.Argument(help="Models. Default: all.")] = None,
    output: OutputOption = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, max=_MOST_RUNS, help="Runs of each model. Default: 5; 1 with --quick."),
    ] = None,
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
    """A chaotic series, 15 steps ahead. What the file holds already is not repeated."""
    with training_errors(context):
        from lmu.experiments.mackey_glass import Settings, run

        output = _place(output, "mackey-glass/mackey-glass.json", quick)
        given = {"seeds": seeds, "epochs": epochs, "models": tuple(m.value for m in models or ())}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value}
        if quick:
            small = {"seeds": 1, "epochs": 2, "batches": 10, "series": (8, 4, 4), "length": 500}
            changes = small | changes
        with _going_on():
            run(Settings(**changes), output, say)
        _wrote(output)
