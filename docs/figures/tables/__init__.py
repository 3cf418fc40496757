"""Tables of README and docs from committed results."""

import re

from docs.figures.records import ROOT
from docs.figures.tables import (
    capacity,
    concepts,
    export,
    grid,
    mackey_glass,
    numerics,
    psmnist,
    scale,
    series,
    speed,
    speed_up,
    streams,
)
from lmu._files import write_whole

README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))

TABLES = {
    "export-step": export.step,
    "export-sequence": export.sequence,
    "export-int8": export.int8,
    "grid-sizes": grid.sizes,
    "grid-ratios": grid.ratios,
    "speed": speed.speed,
    "scaling": speed.scaling,
    "overhead": speed.overhead,
    "accuracy": speed.accuracy,
    "psmnist": psmnist.runs,
    "lmu-curve": psmnist.lmu_curve,
    "capacity": capacity.table,
    "mackey-glass": mackey_glass.table,
    "speed-up": speed_up.table,
    "numerics-steps": numerics.steps,
    "numerics-euler": numerics.euler,
    "numerics-windows": numerics.windows,
    "numerics-silence": numerics.silence,
    "concepts-held": concepts.held,
    "concepts-noise": concepts.noise,
    "concepts-euler": concepts.euler,
    "concepts-half-step": concepts.half_step,
    "concepts-weights": concepts.weights,
    "series-classification": series.classification,
    "series-forecast": series.forecast,
    "scale-carry": scale.carry,
    "scale-layer": scale.layer,
    "scale-errors": scale.errors,
    "scale-powers": scale.powers,
    "scale-model": scale.extrapolated,
    "streams-rates": streams.rates,
    "streams-endurance": streams.endurance,
    "streams-errors": streams.errors,
}


def render(text: str) -> str:
    """Replace the tables between the marks of a page."""
    for name, table in TABLES.items():
        mark = f"<!-- table: {name} -->"
        if mark not in text:
            continue
        text = re.sub(
            f"{mark}.*?<!-- end -->",
            lambda _, mark=mark, table=table: f"{mark}\n{table()}\n<!-- end -->",
            text,
            flags=re.DOTALL,
        )
    return text


def write() -> None:
    """Replace the tables of all pages."""
    for page in PAGES:
        text = page.read_text()
        if (rendered := render(text)) != text:
            write_whole(page, rendered.encode())
            print(f"wrote the tables of {page.name}")
