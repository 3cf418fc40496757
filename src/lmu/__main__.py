"""Entry of the command ``lmu`` and of ``python -m lmu``."""

import sys

from lmu._extras import require


def main() -> None:
    """Run the command line; exit with status 1 if its packages are not installed."""
    try:
        require("rich", "typer", extra="train")  # a command that needs more says so
    except ImportError as error:
        sys.exit(f"lmu: {error}")
    from lmu.cli import app

    app(prog_name="lmu")


if __name__ == "__main__":
    main()
