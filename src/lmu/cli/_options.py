"""Options of a command from the fields of its settings."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from enum import Enum
from typing import Annotated, Any, get_type_hints

import typer

from lmu.training.settings import Setting, settings_of


def of_settings(config: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of a dataclass, in place of its ``**settings``."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        keywords = [p.replace(kind=p.KEYWORD_ONLY) for p in own[1:]]
        parameters: Any = [own[0], *_parameters(config), *keywords]  # after the context
        command.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore[reportFunctionMemberAccess]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate


def _parameters(config: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(config)
    defaults = {one.name: one.default for one in fields(config)}
    return [
        _parameter(name, known, hints[name], defaults[name])
        for name, known in settings_of(config).items()
    ]


def _parameter(name: str, known: Setting, kind: Any, default: Any) -> inspect.Parameter:
    if known.choices is not None:
        kind = Enum(name.capitalize(), {choice: choice for choice in known.choices}, type=str)
        default = kind(default)
    if known.unset:
        kind, default = kind | None, None
    names = [known.option or "--" + name.replace("_", "-")]
    if kind is not bool and known.option is None:
        names = []  # Typer's own
    option = typer.Option(*names, help=known.help)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
    )


def plain(options: dict[str, Any]) -> dict[str, Any]:
    """Return the values of options, with those of enums as strings."""
    return {n: value.value if isinstance(value, Enum) else value for n, value in options.items()}
