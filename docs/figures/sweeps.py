"""Pictures of the sweeps of ``benchmarks.scaling``, drawn into docs/images."""

import json
from pathlib import Path

from docs.figures import style
from docs.figures.records import ROOT


def draw(result: dict, path: Path) -> None:
    """Draw time and peak memory of a call against the axis of the sweep, in two panels."""
    figure = style.new(10, 4)
    for axes, key, label in zip(
        figure.subplots(1, 2), ("seconds", "peak_mib"), ("seconds", "peak memory, MiB"), strict=True
    ):
        for line, rows in result["lines"].items():
            points = [(row["x"], row[key]) for row in rows if row[key] > 0]
            axes.loglog(*zip(*points, strict=True), marker="o", label=line)
        axes.set_xlabel(result["axis"])
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.suptitle(result["title"])
    style.save(figure, path)


def pictures() -> None:
    """Draw every committed sweep that has more than one point."""
    for source in sorted((ROOT / "benchmarks" / "results").glob("*/scaling-*.json")):
        result = json.loads(source.read_text())
        if any(len(rows) > 1 for rows in result["lines"].values()):
            path = style.IMAGES / f"{source.stem}.svg"
            draw(result, path)
            print(f"wrote {path.relative_to(ROOT)}")
