"""Errors of commands in one line, with exit status 2 for wrong input, otherwise 1."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from lmu._extras import require
from lmu.cli._app import did_you_mean
from lmu.cli._shared import console, flag, on_command_line
from lmu.training.config import RunConfig
from lmu.training.settings import ConfigError, settings_of

# Settings that Lightning interprets: any of them may be the reason when it refuses.
_LIGHTNING = {
    name: known.known for name, known in settings_of(RunConfig).items() if known.known is not None
}
_NO_MEMORY = re.compile(r"not enough memory|can't allocate memory|out of memory|Storage size calc")


def stop(message: object, code: int = 1) -> NoReturn:
    """Print the reason and exit."""
    console.print(f"Stopped: {message}", style="red", highlight=False, soft_wrap=True, markup=False)
    raise typer.Exit(code)


def refuse_unused(context: typer.Context, names: Iterable[str], by: str) -> None:
    """Refuse options of the command line that have no effect."""
    unused = [flag(name) for name in names if name in on_command_line(context)]
    if unused:
        pronoun = "it: drop it" if len(unused) == 1 else "them: drop them"
        raise typer.BadParameter(f"{by} does not use {pronoun}", param_hint=" / ".join(unused))


@contextmanager
def clear_errors(context: typer.Context) -> Iterator[None]:
    """Report wrong input in words, without a traceback."""
    from lmu.tasks.mnist import DataError
    from lmu.training.saved import CheckpointError

    try:
        yield
    except ConfigError as error:
        if error.setting is not None:
            raise typer.BadParameter(str(error), param_hint=flag(error.setting)) from error
        hint, suggestion = _lightning_options(context)
        raise typer.BadParameter(f"{error}{suggestion}", param_hint=hint) from error
    except DataError as error:
        if context.params.get("data") is None:
            stop(error)
        raise typer.BadParameter(str(error), param_hint="--data") from error
    except CheckpointError as error:
        raise typer.BadParameter(str(error), param_hint=_checkpoint_option(context)) from error
    except ImportError as error:
        stop(error)
    except (MemoryError, OSError, RuntimeError) as error:
        _stop_by_system(error)


@contextmanager
def training_errors(context: typer.Context) -> Iterator[None]:
    """Extend :func:`clear_errors` by interrupted and diverged training."""
    with clear_errors(context):
        require("lightning", "matplotlib", extra="train")
        from lmu.training.interruption import RunInterruptedError
        from lmu.training.module import TrainingDivergedError

        try:
            yield
        except TrainingDivergedError as error:
            stop(error)
        except RunInterruptedError as error:
            reason = str(error)
            console.print(
                f"{reason[0].upper()}{reason[1:]}.", highlight=False, soft_wrap=True, markup=False
            )
            if error.resumable:
                command = f"lmu train psmnist --resume {error.folder}"
                console.print(f"Continue with: {command}", highlight=False, soft_wrap=True)
            raise typer.Exit(error.exit_code) from error


def _stop_by_system(error: Exception) -> NoReturn:
    """Report a failure of memory or of a file; raise any other error again."""
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        stop("there is not enough memory for that: choose smaller sizes")
    if isinstance(error, OSError) and error.strerror and not isinstance(error, BrokenPipeError):
        stop(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    raise error


def _lightning_options(context: typer.Context) -> tuple[str | None, str]:
    """Return the options set on the command line that Lightning interprets, and a suggestion."""
    names = [name for name in _LIGHTNING if name in on_command_line(context)]
    known = {name: str(context.params[name]) for name in names}
    suggestions = (
        did_you_mean(value, _LIGHTNING[name])
        for name, value in known.items()
        if value not in _LIGHTNING[name]
    )
    return " / ".join(flag(name) for name in names) or None, next(filter(None, suggestions), "")


def _checkpoint_option(context: typer.Context) -> str | None:
    if "checkpoint" in context.params:
        return "checkpoint"
    return "--resume" if context.params.get("resume") else None
