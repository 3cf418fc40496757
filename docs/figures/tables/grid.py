"""Tables of the grid of users' sizes."""

from typing import Any

from benchmarks.grid.cases import FFT, LMU, users
from benchmarks.grid.summary import summary
from benchmarks.measure import duration
from docs.figures.records import ROOT, record
from docs.figures.tables.speed import where

MISSING = "*Not measured yet: `python -m benchmarks.grid`, then `python -m docs.figures`.*"
NAMES = {FFT: "LMUFFT", LMU: "LMU"}
OTHERS = {"textbook": "textbook", "nn.GRU": "`nn.GRU`", "nn.LSTM": "`nn.LSTM`"}


def _grid() -> dict[str, Any] | None:
    return record("grid") if (ROOT / "results" / "grid.json").exists() else None


def sizes() -> str:
    """A row per users' size: time of a training step, and how many times as long others take."""
    grid = _grid()
    if grid is None:
        return MISSING
    rows = [
        f"{where(grid['machine'])}:",
        "",
        f"| layer | batch, steps, channels, order, units | ours | {' | '.join(OTHERS.values())} |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for case in users():
        for row in grid["cases"]:
            if all(row[key] == value for key, value in case.sizes.items()):
                rows.append(_row(row))
    return "\n".join(rows)


def _row(row: dict[str, Any]) -> str:
    ours = row["seconds"]["auto"]
    times = (row["seconds"].get(name) for name in OTHERS)
    others = " | ".join("" if t is None else f"x {t / ours:.2g}" for t in times)
    numbers = ", ".join(f"{row[k]:,}" for k in ("batch", "length", "channels", "order", "units"))
    return f"| {NAMES[row['layer']]} | {numbers} | {duration(ours)} | {others} |"


def ratios() -> str:
    """A row per comparison: cases, geometric mean, worst, and the share on the wrong side."""
    grid = _grid()
    if grid is None:
        return MISSING
    rows = [
        f"{where(grid['machine'])}:",
        "",
        "| layer | comparison | cases | geometric mean | worst | wrong side of 0.95 |",
        "|---|---|--:|--:|--:|--:|",
    ]
    rows += [
        f"| {layer} | {name} | {d['cases']:.0f} | {d['mean']:.2f} | {d['worst']:.2f} "
        f"| {d['wrong']:.1%} |"
        for layer, comparisons in summary(grid["cases"]).items()
        for name, d in comparisons.items()
    ]
    return "\n".join(rows)
