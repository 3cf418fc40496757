"""What rounding does to a memory."""

from benchmarks.tables._shared import record


def steps() -> str:
    """A row per memory: error of the state, by how a step is done in float32."""
    found = record("numerics")["rows"]
    rows = ["| order | theta | `m += (Ad - I) m + Bd u` | `m = Ad m + Bd u` "]
    rows[0] += "| the same, discretized in float32 |"
    rows += ["|--:|--:|--:|--:|--:|"]
    for row in found:
        errors = [f"{error:.0e}" for error in row["errors"].values()]
        rows.append(f"| {row['order']} | {row['theta']:,} | {' | '.join(errors)} |")
    return "\n".join(rows)
