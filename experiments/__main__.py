"""List the experiments, or run one: ``python -m experiments [NAME]``.

A folder with a ``main.py`` is an experiment; the arguments of its function ``main`` are the
options, its docstring is the help.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import experiments
from lmu._extras import require

if TYPE_CHECKING:
    import typer


def names() -> list[str]:
    """Return the names of the experiments' folders."""
    return sorted(
        path.parent.name for place in experiments.__path__ for path in Path(place).glob("*/main.py")
    )


def build_app() -> "typer.Typer":
    """Build the command with all experiments."""
    from lmu.cli._app import Command, new_app

    app = new_app(help="Run an experiment and leave its figures in a file.")

    @app.callback()
    def root() -> None:
        """Run an experiment and leave its figures in a file."""

    for name in names():
        main = import_module(f"experiments.{name}.main").main
        app.command(name.replace("_", "-"), cls=Command)(main)
    return app


def main() -> None:
    """Run the command line; exit with status 1 if its packages are not installed."""
    try:
        require("rich", "typer", extra="train")  # an experiment that needs more says so
    except ImportError as error:
        sys.exit(f"experiments: {error}")
    build_app()(prog_name="python -m experiments")


if __name__ == "__main__":
    main()
