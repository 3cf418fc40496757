"""What the tables share."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def record(name: str) -> dict:
    """The committed record ``results/<name>.json``."""
    return json.loads((ROOT / "results" / f"{name}.json").read_text())


def duration(seconds: float) -> str:
    """Three digits, in the unit that suits them."""
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if seconds * scale >= 0.9995:
            return f"{seconds * scale:#.3g}".rstrip(".") + f" {unit}"
    return f"{seconds * 1e6:#.3g}".rstrip(".") + " µs"
