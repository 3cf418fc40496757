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


def psmnist_runs() -> list[dict]:
    """The committed runs."""
    folder = ROOT / "results" / "psmnist"
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def psmnist() -> str:
    """A row per model and protocol, over its seeds."""
    groups: dict[tuple, list[dict]] = {}
    for run in psmnist_runs():
        config = run["config"]
        key = (config["model"], run["parameters"], config["epochs"])
        groups.setdefault(key, []).append(run)
    rows = ["| model | parameters | epochs | seeds | test accuracy | seconds per epoch |"]
    rows.append("|---|--:|--:|--:|--:|--:|")
    for (model, parameters, epochs), group in groups.items():
        accuracy = [100 * run["test_accuracy"] for run in group]
        spread = f" ± {statistics.stdev(accuracy):.2f}" if len(accuracy) > 1 else ""
        pace = statistics.median(s for run in group for s in run["seconds_per_epoch"])
        rows.append(
            f"| {model} | {parameters:,} | {epochs} | {len(group)} "
            f"| {statistics.mean(accuracy):.2f} %{spread} | {pace:.1f} |"
        )
    return "\n".join(rows)


def lmu_curve() -> str:
    """Validation accuracy of the nonlinear LMU by epoch."""
    rows = ["| seed | " + " | ".join(f"epoch {n}" for n in (1, 2, 3)) + " |", "|--:|--:|--:|--:|"]
    for run in psmnist_runs():
        if run["config"]["model"] == "lmu":
            values = [f"{100 * row['val_accuracy']:.2f} %" for row in run["history"][:3]]
            rows.append(f"| {run['seed']} | {' | '.join(values)} |")
    return "\n".join(rows)


def accuracy() -> str:
    """A row per layer."""
    rows = ["| layer | output | memory | gradients |", "|---|--:|--:|--:|"]
    layers = json.loads((ROOT / "results" / "accuracy.json").read_text())["layers"]
    for name, errors in layers.items():
        values = [f"{errors[key]:.1e}" for key in ("output", "memory", "gradients")]
        rows.append(f"| {name} | {' | '.join(values)} |")
    return "\n".join(rows)


TABLES = {"speed": speed, "psmnist": psmnist, "lmu-curve": lmu_curve, "accuracy": accuracy}


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
