"""Draw the sweeps of ``benchmarks.scaling``: ``python -m benchmarks.plots`` into docs/images."""

import json
from pathlib import Path

from benchmarks import style

ROOT = Path(__file__).parent.parent


def draw(result: dict, path: Path) -> None:
    """Two panels against the sweep's axis: time of a call, and the memory it needs."""
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


def main() -> None:
    """Draw every committed sweep that has more than one point."""
    for source in sorted((ROOT / "benchmarks" / "results").glob("*/scaling-*.json")):
        result = json.loads(source.read_text())
        if any(len(rows) > 1 for rows in result["lines"].values()):
            path = style.IMAGES / f"{source.stem}.svg"
            draw(result, path)
            print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
