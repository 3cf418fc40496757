"""Table of the capacity experiment: errors of decoding a window."""

from docs.figures.records import record


def table() -> str:
    """A row per model: error over the window, and at its worst delay, for each window."""
    results = record("capacity")["rows"]
    windows = sorted({row["window"] for row in results})
    heads = " | ".join(f"{window:,} steps" for window in windows)
    rows = [f"| model | trained parameters | {heads} |", "|---|--:|" + "--:|" * len(windows)]
    for model in dict.fromkeys(row["model"] for row in results):
        by_window = {row["window"]: row for row in results if row["model"] == model}
        cells = [_error(by_window.get(window)) for window in windows]
        trained = next(iter(by_window.values()))["trained_parameters"]
        rows.append(f"| {model} | {trained:,} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _error(row: dict | None) -> str:
    return "" if row is None else f"{row['mean_nrmse']:.2g} ({max(row['nrmse']):.2g})"
