"""The file that an experiment leaves."""

import json
import os
import platform
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from lmu.training.files import write_json
from lmu.training.report import git_commit, versions


def write_record(path: Path, experiment: str, settings: dict[str, Any], **results: Any) -> None:
    """Write figures, and what they depend on, as JSON.

    Args:
        path: The file, written whole.
        experiment: Its name, the command's.
        settings: What the command was given.
        results: Figures, as plain data.
    """
    where = {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"experiment": experiment, "settings": settings, **results}
    content |= {"versions": versions(), "git_commit": git_commit(), "machine": where}
    write_json(path, content)


def read_rows(path: Path, experiment: str, *, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """The rows of a record, none where there is no file.

    Args:
        path: The file.
        experiment: Its name, the command's.
        keys: What every row has.

    Raises:
        ValueError: The file is no record of this experiment.
    """
    if not path.exists():
        return []
    try:
        record = json.loads(path.read_text())
        rows = record["rows"]
        if record["experiment"] == experiment and all(key in row for row in rows for key in keys):
            return rows
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{path} is no record of this experiment: name another file")


def processor() -> str:
    """The processor's name."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
