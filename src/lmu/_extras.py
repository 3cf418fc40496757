"""Optional dependencies: what to install when one of them is missing."""

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
            f'run pip install "torch-lmu[{extra}]"',
            name=missing[0],
        )
