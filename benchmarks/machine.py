"""What the figures depend on."""

import os
import platform
import re
from datetime import datetime, timezone
from pathlib import Path

import torch

from lmu.experiments.record import processor
from lmu.training.report import git_commit


def machine() -> dict:
    """Processor, versions, commit and date."""
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": git_commit(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def results_folder(where: dict) -> Path:
    """Where the results of a machine are kept."""
    slug = re.sub(r"\W+", "-", f"{where['cpu']}-{where['cores']}-cores".lower()).strip("-")
    return Path(__file__).parent / "results" / slug
