"""Options and messages shared by the experiments' commands."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from os.path import isdir
from pathlib import Path
from typing import Annotated, Any

import typer

from lmu.cli._shared import console, say

MOST_RUNS = 10_000  # larger numbers are typing errors


def among(choices: Iterable[str]) -> Callable[[Any], Any]:
    """Return a check that one or more words are among the choices."""
    known = list(choices)

    def check(value: Any) -> Any:
        for word in value if isinstance(value, list) else [value]:
            if word is not None and word not in known:
                listed = ", ".join(map(repr, known))
                raise typer.BadParameter(f"{word!r} is not one of {listed}.")
        return value

    return check


def between(least: float, most: float) -> Callable[[float | None], float | None]:
    """Return a check of a number's bounds, which refuses NaN, unlike Typer's own."""

    def check(value: float | None) -> float | None:
        if value is not None and not least <= value <= most:
            raise typer.BadParameter(f"must lie in {least:g} to {most:g}, got {value}")
        return value

    return check


def _writable(path: Path | None) -> Path | None:
    """Refuse a file that cannot be written, before anything is computed."""
    if path is None:
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.exists()  # raises if the name is too long
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be written: {error.strerror}") from error
    if not os.access(path.parent, os.W_OK):
        raise typer.BadParameter(f"{path} cannot be written: its folder is read-only")
    if isdir(path):
        raise typer.BadParameter(f"{path} is a folder: name a file")
    if path.exists() and not path.is_file():
        raise typer.BadParameter(f"{path} is no regular file: name another")
    if path.suffix != ".json":  # the picture beside it needs another suffix
        raise typer.BadParameter(f"the name of the file must end in .json, got {path}")
    return path


OutputOption = Annotated[
    Path | None,
    typer.Option(
        help="The JSON file; a picture is drawn beside it. Default: in runs/, or runs/quick/.",
        callback=_writable,
    ),
]
SeedsOption = Annotated[
    int | None,
    typer.Option(min=1, max=MOST_RUNS, help="Runs of each model. Default: 5; 1 with --quick."),
]


def place(output: Path | None, name: str, quick: bool) -> Path:
    """Return the file of the figures; that of a quick trial differs from the full one's."""
    return output or Path("runs/quick" if quick else "runs") / name


@contextmanager
def resumable() -> Iterator[None]:
    """Report the errors of an experiment that continues from its file, and Ctrl-C."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--output") from error
    except KeyboardInterrupt as error:
        console.print("Interrupted: the same command goes on from here.", highlight=False)
        raise typer.Exit(130) from error


def tell_written(output: Path) -> None:
    """Print the names of the written files."""
    picture = output.with_suffix(".png")
    say(f"wrote {output} and {picture.name}" if picture.exists() else f"wrote {output}")
