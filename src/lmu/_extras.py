"""Checks of optional dependencies, with the command that installs a missing one."""

import re
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec


def require(*modules: str, extra: str) -> None:
    """Check that optional modules are installed, without importing them.

    Args:
        modules: Top-level names of the modules.
        extra: The extra of torch-lmu that installs them.

    Raises:
        ImportError: A module is missing; the message names it and the command that installs it.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise ImportError(
            f"{', '.join(missing)} not installed, needed here but not by the layers: "
            f"run pip install {packages_of(extra)}, the packages of the extra {extra!r}",
            name=missing[0],
        )


def packages_of(extra: str) -> str:
    """Return the packages of an extra as arguments of pip, however torch-lmu was installed."""
    try:
        declared = requires("torch-lmu") or []
    except PackageNotFoundError:  # sources on the path, not installed
        return f"'.[{extra}]' in a clone of torch-lmu"
    matches = [re.fullmatch(rf"(.+?);.*extra == ['\"]{extra}['\"]", line) for line in declared]
    return " ".join(f'"{match[1].strip()}"' for match in matches if match)
