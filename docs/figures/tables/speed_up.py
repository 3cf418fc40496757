"""Table of training times of the parallel LMU and of recurrences."""

from benchmarks.measure import duration
from docs.figures.records import record


def table() -> str:
    """A row per model."""
    rows = [
        "| model | parameters | step of training (fastest to slowest) | x LMUFFT | epoch |",
        "|---|--:|--:|--:|--:|",
    ]
    for row in record("speed-up")["rows"]:
        spread = f"{duration(row['fastest'])} to {duration(row['slowest'])}"
        rows.append(
            f"| {row['model']} | {row['parameters']:,} | {duration(row['seconds'])} ({spread}) "
            f"| {row['ratio']:.3g} | {duration(row['epoch_seconds'])} |"
        )
    return "\n".join(rows)
