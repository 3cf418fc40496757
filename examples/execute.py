"""Run the notebooks of this folder in full and write them with their outputs.

``python examples/execute.py`` runs all of them, ``python examples/execute.py streaming`` one.
"""

import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from lmu._files import write_whole

FOLDER = Path(__file__).resolve().parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(path: Path) -> None:
    """Run one notebook from top to bottom and write it back.

    Args:
        path: The notebook, which runs in its own folder.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell fails; the file stays as it was.
    """
    notebook: Any = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=None,
        coalesce_streams=True,  # one output for all that a cell prints
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": path.parent}},
    ).execute()
    strip(notebook)
    write_whole(path, (nbformat.writes(notebook).rstrip("\n") + "\n").encode())


def strip(notebook: Any) -> None:
    """Remove times and versions, which differ between machines and runs."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)


def main(names: list[str]) -> None:
    """Execute the named notebooks, or all."""
    for path in [FOLDER / f"{name}.ipynb" for name in names] or sorted(FOLDER.glob("*.ipynb")):
        start = time.perf_counter()
        execute(path)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main([name.removesuffix(".ipynb") for name in sys.argv[1:]])
