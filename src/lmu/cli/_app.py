"""Extensions of Typer for every command: ``-h``, suggestions, refusal of empty arguments."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

# Click's, or Typer's copy of it: neither has a public name in all versions.
_UsageError: Any = typer.BadParameter.__base__


def new_app(**arguments: Any) -> typer.Typer:
    """Create an app, whose commands are added with ``cls=Command``; alone it shows its help."""
    return typer.Typer(
        cls=Group,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},  # commands inherit it
        pretty_exceptions_enable=False,
        **arguments,
    )


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """Return a question that names the choice nearest to a value; empty if none is near."""
    by_folded = {choice.lower(): choice for choice in choices}
    near = get_close_matches(value.lower(), by_folded, n=1)
    return f" Did you mean {by_folded[near[0]]!r}?" if near else ""


def _suggest(error: Any, names: Iterable[str]) -> None:
    """Add a suggestion to an error of the parser, replacing its own."""
    message = error.message.removeprefix("Value error, ")
    if match := re.match(r"No such option: (-\S+)", message):
        error.possibilities = None  # Typer's include distant ones
        message = f"No such option: {match[1]}."
        if match[1].startswith("--"):
            message += did_you_mean(match[1], names)
        elif match[1][1].isdigit():
            message += " No negative number is allowed here."
    elif match := re.match(r"'(.*)' is not one of (.+)", message, re.DOTALL):
        message += did_you_mean(match[1], re.findall(r"'([^']+)'", match[2]))
    error.message = message


def _refuse_empty(context: Any, arguments: list[str]) -> None:
    """Refuse empty strings, which pathlib takes for the current folder."""
    for place, argument in enumerate(arguments):
        if argument == "" and place and arguments[place - 1].startswith("-"):
            raise _UsageError(f"{arguments[place - 1]} is given nothing: ''", ctx=context)
        if argument == "" or re.fullmatch(r"--[\w-]+=", argument):
            raise _UsageError(f"an argument is empty: {argument!r}", ctx=context)


class Command(TyperCommand):
    """A command that suggests corrections of misspelt options and choices."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, and suggest."""
        _refuse_empty(ctx, args)
        try:
            return super().parse_args(ctx, args)
        except _UsageError as error:
            _suggest(error, [name for option in self.get_params(ctx) for name in option.opts])
            raise


class Group(TyperGroup):
    """A group of commands that suggests corrections of misspelt ones."""

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
