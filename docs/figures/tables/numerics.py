"""Tables of rounding errors of a memory."""

from docs.figures.records import record


def steps() -> str:
    """A row per memory: error of the state, for each form of a step in float32."""
    results = record("numerics")["rows"]
    rows = ["| order | theta | `m += (Ad - I) m + Bd u` | `m = Ad m + Bd u` "]
    rows[0] += "| the same, discretized in float32 |"
    rows += ["|--:|--:|--:|--:|--:|"]
    for row in results:
        errors = [f"{error:.0e}" for error in row["errors"].values()]
        rows.append(f"| {row['order']} | {row['theta']:,} | {' | '.join(errors)} |")
    return "\n".join(rows)


def euler() -> str:
    """A row per memory discretized by Euler: the figures that decide whether it is accepted."""
    rows = ["| order | theta | spectral radius | noise gain | largest \\|z\\| | accepted |"]
    rows += ["|--:|--:|--:|--:|--:|---|"]
    for row in record("numerics")["euler"]:
        radius, largest = f"{row['radius']:.4f}", _times(row["largest"])
        accepted = "yes" if row["accepted"] else "no"
        cells = f"{row['order']} | {row['theta']:,} | {radius} | {_times(row['gain'])}"
        rows.append(f"| {cells} | {largest} | {accepted} |")
    return "\n".join(rows)


def windows() -> str:
    """A row per algorithm: error of the memory for each length of the window."""
    results = record("long_windows")["windows"]
    thetas = list(results[0]["errors"])
    rows = ["| | " + " | ".join(f"theta {int(theta):,}" for theta in thetas) + " |"]
    rows += ["|---|" + "--:|" * len(thetas)]
    for row in results:
        errors = ["" if error is None else f"{error:.0e}" for error in row["errors"].values()]
        rows.append(f"| {row['way']} | {' | '.join(errors)} |")
    return "\n".join(rows)


def silence() -> str:
    """A row per algorithm: microseconds a step in a signal and in silence."""
    rows = ["| | signal | silence | ratio |", "|---|--:|--:|--:|"]
    for row in record("long_windows")["silence"]:
        times = [f"{row[name]:.0f} µs" for name in ("signal_us", "silence_us")]
        rows.append(f"| {row['way']} | {' | '.join(times)} | {row['ratio']:.2f} |")
    return "\n".join(rows)


def _times(value: float | None) -> str:
    if value is None:
        return "over a million"
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
