"""Reading of the committed results for tables and pictures."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def record(name: str) -> dict:
    """Read the committed results ``results/<name>.json``."""
    return json.loads((ROOT / "results" / f"{name}.json").read_text())
