"""Write the tables of the README from the committed results: ``python -m benchmarks.tables``."""

import json
import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def speed() -> str:
    """A row per contender of each benchmark case."""
    rows = ["| work | time | x ours | peak memory | error |", "|---|--:|--:|--:|--:|"]
    for path in sorted((ROOT / "benchmarks" / "results").glob("*/*.json")):
        result = json.loads(path.read_text())
        rows.append(f"| **{result['title']}** | | | | |")
        contenders = result["contenders"]
        ours = next(iter(contenders.values()))["seconds"]
        for name, figures in contenders.items():
            error = "" if figures["error"] is None else f"{figures['error']:.0e}"
            rows.append(
                f"| {name} | {figures['seconds'] * 1e3:.3g} ms | {figures['seconds'] / ours:.3g} "
                f"| {figures['peak_mib']:.0f} MiB | {error} |"
            )
    return "\n".join(rows)


def psmnist() -> str:
    """A row per model and protocol, over its seeds."""
    runs: dict[tuple, list[dict]] = {}
    for path in sorted((ROOT / "results" / "psmnist").glob("*.json")):
        run = json.loads(path.read_text())
        key = (run["config"]["model"], run["parameters"], run["config"]["epochs"])
        runs.setdefault(key, []).append(run)
    rows = ["| model | parameters | epochs | seeds | test accuracy | seconds per epoch |"]
    rows.append("|---|--:|--:|--:|--:|--:|")
    for (model, parameters, epochs), group in runs.items():
        accuracy = [100 * run["test_accuracy"] for run in group]
        spread = f" ± {statistics.stdev(accuracy):.2f}" if len(accuracy) > 1 else ""
        pace = statistics.median(s for run in group for s in run["seconds_per_epoch"])
        rows.append(
            f"| {model} | {parameters:,} | {epochs} | {len(group)} "
            f"| {statistics.mean(accuracy):.2f} %{spread} | {pace:.1f} |"
        )
    return "\n".join(rows)


TABLES = {"speed": speed, "psmnist": psmnist}


def render(text: str) -> str:
    """The text with what stands between its table marks written anew."""
    for name, table in TABLES.items():
        mark = f"<!-- table: {name} -->"
        text = re.sub(
            f"{mark}.*?<!-- end -->",
            lambda _, mark=mark, table=table: f"{mark}\n{table()}\n<!-- end -->",
            text,
            flags=re.DOTALL,
        )
    return text


if __name__ == "__main__":
    README.write_text(render(README.read_text()))
    sys.stdout.write(f"wrote the tables of {README.name}\n")
