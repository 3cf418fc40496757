"""The file that an experiment leaves."""

import os
import platform
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from lmu._files import write_json
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


def processor() -> str:
    """The processor's name."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
