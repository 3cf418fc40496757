"""How much of its window a memory can tell."""

from docs.figures.records import record


def table() -> str:
    """A row per model: error over the window, and at its worst delay, for each window."""
    found = record("capacity")["rows"]
    windows = sorted({row["window"] for row in found})
    heads = " | ".join(f"{window:,} steps" for window in windows)
    rows = [f"| model | trained parameters | {heads} |", "|---|--:|" + "--:|" * len(windows)]
    for model in dict.fromkeys(row["model"] for row in found):
        mine = {row["window"]: row for row in found if row["model"] == model}
        cells = [_error(mine.get(window)) for window in windows]
        trained = next(iter(mine.values()))["trained_parameters"]
        rows.append(f"| {model} | {trained:,} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _error(row: dict | None) -> str:
    return "" if row is None else f"{row['mean_nrmse']:.2g} ({max(row['nrmse']):.2g})"
