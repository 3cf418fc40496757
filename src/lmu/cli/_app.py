"""Give every command what Typer lacks: ``-h``, suggestions, no empty arguments."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

# Click's, or the copy of it that Typer has; neither has a public name in all versions.
_UsageError: Any = typer.BadParameter.__base__


def new_app(**arguments: Any) -> typer.Typer:
    """An app whose commands are to be added with ``cls=Command``; alone it shows its help."""
    return typer.Typer(
        cls=Group,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},  # commands inherit it
        pretty_exceptions_enable=False,
        **arguments,
    )


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """A question that names the choice nearest to a value; empty if none is near."""
    by_folded = {choice.lower(): choice for choice in choices}
    near = get_close_matches(value.lower(), by_folded, n=1)
    return f" Did you mean {by_folded[near[0]]!r}?" if near else ""


def _suggest(error: Any, names: Iterable[str]) -> None:
    """Add a suggestion to an error of the parser, in place of those that it may have."""
    message = error.message.removeprefix("Value error, ")
    if found := re.match(r"No such option: (-\S+)", message):
        error.possibilities = None  # Typer lists what is far off, too
        message = f"No such option: {found[1]}."
        if found[1].startswith("--"):
            message += did_you_mean(found[1], names)
        elif found[1][1].isdigit():
            message += " No negative number is allowed here."
    elif found := re.match(r"'(.*)' is not one of (.+)", message, re.DOTALL):
        message += did_you_mean(found[1], re.findall(r"'([^']+)'", found[2]))
    error.message = message


def _refuse_empty(context: Any, arguments: list[str]) -> None:
    """No option takes an empty string, which pathlib would take for the current folder."""
    for place, argument in enumerate(arguments):
        if argument == "" and place and arguments[place - 1].startswith("-"):
            raise _UsageError(f"{arguments[place - 1]} is given nothing: ''", ctx=context)
        if argument == "" or re.fullmatch(r"--[\w-]+=", argument):
            raise _UsageError(f"an argument is empty: {argument!r}", ctx=context)


class Command(TyperCommand):
    """A command that says what was meant, perhaps, by a misspelt option or choice."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, and suggest."""
        _refuse_empty(ctx, args)
        try:
            return super().parse_args(ctx, args)
        except _UsageError as error:
            _suggest(error, [name for option in self.get_params(ctx) for name in option.opts])
            raise


class Group(TyperGroup):
    """Commands, of which a misspelt one is answered by what was meant, perhaps."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options before the command, and suggest."""
        try:
            return super().parse_args(ctx, args)
        except _UsageError as error:
            if type(error).__name__ != "NoArgsIsHelpError":
                _suggest(error, [name for option in self.get_params(ctx) for name in option.opts])
            raise

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command, and suggest."""
        try:
            return super().resolve_command(ctx, args)
        except _UsageError as error:
            message = error.message.partition(" Did you mean")[0].rstrip(".")
            error.message = f"{message}.{did_you_mean(args[0], self.commands)}"
            error.possibilities = None
            raise
