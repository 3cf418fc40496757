"""Write the tables of the README from the committed results: ``python -m benchmarks.tables``."""

import json
import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def where(machine: dict) -> str:
    """The machine, in words."""
    return f"{machine['cpu']}, {machine['threads']} threads, PyTorch {machine['torch']}"


def duration(seconds: float) -> str:
    """Three digits, in the unit that suits them."""
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if seconds * scale >= 0.9995:
            return f"{seconds * scale:#.3g}".rstrip(".") + f" {unit}"
    return f"{seconds * 1e6:#.3g}".rstrip(".") + " µs"


def speed() -> str:
    """A table per machine, with a row per contender of each benchmark case."""
    tables = []
    for folder in sorted((ROOT / "benchmarks" / "results").iterdir()):
        results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
        rows = [f"{where(results[0]['machine'])}:", ""]
        rows += ["| work | time | x ours | peak memory | error |", "|---|--:|--:|--:|--:|"]
        for result in results:
            rows.append(f"| **{result['title']}** | | | | |")
            contenders = result["contenders"]
            ours = next(iter(contenders.values()))["seconds"]
            for name, figures in contenders.items():
                error = "" if figures["error"] is None else f"{figures['error']:.0e}"
                rows.append(
                    f"| {name} | {duration(figures['seconds'])} "
                    f"| {figures['seconds'] / ours:.3g} | {figures['peak_mib']:.0f} MiB | {error} |"
                )
        tables.append("\n".join(rows))
    return "\n\n".join(tables)


def overhead() -> str:
    """A row for Lightning and one for the bare loop."""
    result = json.loads((ROOT / "results" / "training_overhead.json").read_text())
    return "\n".join(
        [
            "| training loop | seconds per epoch of 60,000 digits |",
            "|---|--:|",
            f"| hand-written | {result['bare_seconds']:.2f} |",
            f"| Lightning | {result['lightning_seconds']:.2f} (x {result['ratio']:.2f}) |",
        ]
    )


def psmnist_runs() -> list[dict]:
    """The committed runs."""
    folder = ROOT / "results" / "psmnist"
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


PROTOCOL = ("model", "epochs", "learning_rate", "schedule", "batch_size", "full_train", "precision")


def psmnist() -> str:
    """A row per model and protocol, over its seeds."""
    groups: dict[tuple, list[dict]] = {}
    for run in psmnist_runs():
        if run["config"]["limit"] is not None:
            raise ValueError("a committed run saw only a part of the digits")
        key = (*(run["config"][name] for name in PROTOCOL), run["machine"]["torch_threads"])
        groups.setdefault(key, []).append(run)
    rows = [
        "| model | parameters | recipe | seeds | test accuracy | seconds per epoch (threads) |",
        "|---|--:|---|--:|--:|--:|",
    ]
    largest_first = sorted(groups.items(), key=lambda item: -item[1][0]["parameters"])
    for (model, epochs, rate, schedule, _, full_train, _, threads), group in largest_first:
        accuracy = [100 * run["test_accuracy"] for run in group]
        spread = f" ± {statistics.stdev(accuracy):.2f}" if len(accuracy) > 1 else ""
        pace = statistics.median(s for run in group for s in run["seconds_per_epoch"])
        digits = "60,000" if full_train else "55,000"
        rows.append(
            f"| {model} | {group[0]['parameters']:,} "
            f"| {digits} digits, {epochs} epochs, Adam {rate:g}, {schedule} | {len(group)} "
            f"| {statistics.mean(accuracy):.2f} %{spread} | {pace:.1f} ({threads}) |"
        )
    return "\n".join(rows)


# Test accuracy after each of the first epochs that an earlier PyTorch port publishes.
EARLIER_PORT = (89.4, 93.3, 95.3)


def lmu_curve() -> str:
    """Accuracy of the nonlinear LMU after each epoch, beside that of an earlier port."""
    rows = ["| | epoch 1 | epoch 2 | epoch 3 | test, at the end |", "|---|--:|--:|--:|--:|"]
    for run in psmnist_runs():
        if run["config"]["model"] == "lmu":
            values = [f"{100 * row['val_accuracy']:.1f} %" for row in run["history"][:3]]
            test = f"{100 * run['test_accuracy']:.1f} %"
            rows.append(f"| validation, seed {run['seed']} | {' | '.join(values)} | {test} |")
    values = [f"{value:.1f} %" for value in EARLIER_PORT]
    rows.append(f"| test, an earlier PyTorch port | {' | '.join(values)} | |")
    return "\n".join(rows)


def accuracy() -> str:
    """A row per layer."""
    rows = ["| layer | output | memory |", "|---|--:|--:|"]
    layers = json.loads((ROOT / "results" / "accuracy.json").read_text())["layers"]
    for name, errors in layers.items():
        values = [f"{errors[key]:.1e}" for key in ("output", "memory")]
        rows.append(f"| {name} | {' | '.join(values)} |")
    return "\n".join(rows)


TABLES = {
    "speed": speed,
    "overhead": overhead,
    "psmnist": psmnist,
    "lmu-curve": lmu_curve,
    "accuracy": accuracy,
}


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
