"""Read the committed results that tables and pictures are made of."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def record(name: str) -> dict:
    """The committed results ``results/<name>.json``."""
    return json.loads((ROOT / "results" / f"{name}.json").read_text())
