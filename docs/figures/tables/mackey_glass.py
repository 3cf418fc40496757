"""Table of the models on the Mackey-Glass series."""

import statistics

from docs.figures.records import record

COLUMNS = ("test_nrmse", "test_nrmse_after_100")


def table() -> str:
    """A row per model, over its seeds."""
    models: dict[str, list[dict]] = {}
    for row in record("mackey-glass")["rows"]:
        models.setdefault(row["model"], []).append(row)
    rows = [
        "| model | parameters | seeds | test NRMSE | after 100 steps | seconds of training |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for model, group in models.items():
        errors = " | ".join(_spread([row[name] for row in group]) for name in COLUMNS)
        seconds = statistics.median(row["cpu_seconds"] for row in group)
        rows.append(
            f"| {model} | {group[0]['parameters']:,} | {len(group)} | {errors} | {seconds:.0f} |"
        )
    return "\n".join(rows)


def _spread(values: list[float]) -> str:
    text = f"{statistics.mean(values):.4f}"
    return text if len(values) == 1 else f"{text} ± {statistics.stdev(values):.4f}"
