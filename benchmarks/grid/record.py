"""The grid's JSON: machine and cases, written whole after each case and continued by a rerun."""

from pathlib import Path
from typing import Any

import torch

from benchmarks.grid.cases import Case
from benchmarks.machine import machine
from lmu import native_status
from lmu._files import read_json, write_json

SAME = ("cpu", "cores", "threads", "torch", "core", "device", "gpu")  # of what a rerun continues


def conditions(device: torch.device) -> dict[str, Any]:
    """Describe what all cases of a file have in common."""
    status = native_status()
    core = f"{status.variant}" if status.available else None
    return machine(device) | {"device": device.type, "core": core}


class Record:
    """Cases that have been measured, in a file."""

    def __init__(self, path: Path, device: torch.device, fresh: bool) -> None:
        """Open a file, which may have cases; ``fresh`` starts over.

        Raises:
            ValueError: Its cases were measured on another machine, or in another way.
        """
        self.path, here = path, conditions(device)
        self.content: dict[str, Any] = {"machine": here, "cases": [], "left_out": {}}
        if fresh or not path.exists():
            return
        self.content = read_json(path)
        before = self.content["machine"]
        changed = [k for k in SAME if _plain(before.get(k)) != _plain(here.get(k))]
        if changed:
            was = ", ".join(f"{k} {before.get(k)!r} and not {here.get(k)!r}" for k in changed)
            raise ValueError(
                f"{path} has other conditions: {was}; name another --output or --fresh"
            )

    def has(self, case: Case) -> bool:
        """True if a case need not be measured."""
        sizes = case.sizes
        measured = any(all(row[k] == v for k, v in sizes.items()) for row in self.content["cases"])
        return measured or str(case) in self.content["left_out"]

    def add(self, row: dict[str, Any]) -> None:
        """Append a measured case."""
        self.content["cases"].append(row)
        write_json(self.path, self.content)

    def leave_out(self, case: Case, why: str) -> None:
        """Append a case that could not be measured."""
        self.content["left_out"][str(case)] = why
        write_json(self.path, self.content)


def _plain(value: Any) -> Any:
    return value["name"] if isinstance(value, dict) else value
