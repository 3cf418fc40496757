"""Write the tables of README and docs from committed results: ``python -m benchmarks.tables``."""

import json
import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = (README, ROOT / "docs" / "engine.md", ROOT / "docs" / "export.md")


def where(machine: dict) -> str:
    """The machine, in words."""
    return f"{machine['cpu']}, {machine['threads']} threads, PyTorch {machine['torch']}"


def duration(seconds: float) -> str:
    """Three digits, in the unit that suits them."""
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if seconds * scale >= 0.9995:
            return f"{seconds * scale:#.3g}".rstrip(".") + f" {unit}"
    return f"{seconds * 1e6:#.3g}".rstrip(".") + " µs"


def results(pattern: str) -> list[list[dict]]:
    """The committed results of each machine whose names match."""
    folder = ROOT / "benchmarks" / "results"
    machines: dict[Path, list[dict]] = {}
    for path in sorted(folder.glob(f"*/{pattern}")):
        machines.setdefault(path.parent, []).append(json.loads(path.read_text()))
    if not machines:
        raise FileNotFoundError(f"a table wants {pattern} in {folder}: run the benchmarks first")
    return list(machines.values())


def speed() -> str:
    """A table per machine, with a row per contender of each benchmark case."""
    tables = []
    for cases in results("lmu*.json"):
        rows = [f"{where(cases[0]['machine'])}:", ""]
        rows += ["| work | time (fastest to slowest) | x ours | peak memory | error |"]
        rows += ["|---|--:|--:|--:|--:|"]
        for case in cases:
            rows.append(f"| **{case['title']}** | | | | |")
            contenders = case["contenders"]
            ours = next(iter(contenders.values()))["seconds"]
            for name, figures in contenders.items():
                error = "" if figures["error"] is None else f"{figures['error']:.0e}"
                spread = f"{duration(figures['fastest'])} to {duration(figures['slowest'])}"
                rows.append(
                    f"| {name} | {duration(figures['seconds'])} ({spread}) "
                    f"| {figures['seconds'] / ours:.3g} | {figures['peak_mib']:.0f} MiB | {error} |"
                )
            if case["flops"] is not None:
                rate, most = case["flops"] / ours / 1e9, case["gemm_rate"] / 1e9
                rows.append(
                    f"| | {rate:.0f} of the machine's {most:.0f} GFLOP/s | {rate / most:.0%} | | |"
                )
        tables.append("\n".join(rows))
    return "\n\n".join(tables)


def scaling() -> str:
    """A table per sweep: time and peak memory of each contender at each point."""
    tables = []
    for sweeps in results("scaling-*.json"):
        for sweep in sweeps:
            points = sorted({row["x"] for rows in sweep["lines"].values() for row in rows})
            rows = [f"{sweep['title']}:", ""]
            rows += [f"| {sweep['axis']} | {' | '.join(f'{x:,}' for x in points)} |"]
            rows += ["|---|" + "--:|" * len(points)]
            for name, line in sweep["lines"].items():
                cells = {
                    row["x"]: f"{duration(row['seconds'])}, {row['peak_mib']:.0f} MiB"
                    for row in line
                }
                rows.append(f"| {name} | {' | '.join(cells.get(x, '') for x in points)} |")
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


PROTOCOL = (
    *("model", "epochs", "learning_rate", "schedule", "batch_size", "full_train", "precision"),
    *("weight_decay", "label_smoothing", "input_dropout"),
)


def psmnist() -> str:
    """A row per model and protocol, over its seeds."""
    groups: dict[tuple, list[dict]] = {}
    for run in psmnist_runs():
        if run["config"]["limit"] is not None:
            raise ValueError("a committed run saw only a part of the digits")
        settings = [run["config"].get(name, 0.0) for name in PROTOCOL]
        key = (*settings, run["machine"]["torch_threads"])
        groups.setdefault(key, []).append(run)
    rows = [
        "| model | parameters | recipe | seeds | test accuracy | seconds per epoch (threads) |",
        "|---|--:|---|--:|--:|--:|",
    ]
    largest_first = sorted(groups.items(), key=lambda item: -item[1][0]["parameters"])
    for key, group in largest_first:
        model, epochs, rate, schedule, batch, full_train, _, *rest = key
        *extras, threads = rest
        recipe = f"{epochs} epochs of batches of {batch}, Adam {rate:g}, {schedule}"
        for name, value in zip(PROTOCOL[-3:], extras, strict=True):
            recipe += f", {name.replace('_', ' ')} {value:g}" if value else ""
        accuracy = [100 * run["test_accuracy"] for run in group]
        spread = f" ± {statistics.stdev(accuracy):.2f}" if len(accuracy) > 1 else ""
        pace = statistics.median(s for run in group for s in run["seconds_per_epoch"])
        digits = "60,000" if full_train else "55,000"
        rows.append(
            f"| {model} | {group[0]['parameters']:,} "
            f"| {digits} digits, {recipe} | {len(group)} "
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
    """A row per layer and precision."""
    rows = ["| layer | precision | output | memory |", "|---|---|--:|--:|"]
    layers = json.loads((ROOT / "results" / "accuracy.json").read_text())["layers"]
    for name, precisions in layers.items():
        for precision, errors in precisions.items():
            values = [f"{errors[key]:.1e}" for key in ("output", "memory")]
            rows.append(f"| {name} | {precision} | {' | '.join(values)} |")
    return "\n".join(rows)


def exported() -> dict:
    """The committed results of exported models."""
    return json.loads((ROOT / "results" / "export.json").read_text())


def export_step() -> str:
    """A row per layer: a step by each runtime."""
    layers = exported()["step"]
    names = list(next(iter(layers.values()))["times"])
    rows = [f"| layer | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
    for layer, figures in layers.items():
        cells = [duration(figures["times"][name]["seconds"]) for name in names]
        rows.append(f"| {layer} | {' | '.join(cells)} |")
    return "\n".join(rows)


def export_sequence() -> str:
    """A row per layer: a sequence by each runtime, and the errors."""
    layers = exported()["sequence"]
    first = next(iter(layers.values()))
    names, steps = list(first["times"]), list(first["errors"])
    heads = [*names, *(f"error after {step}: ours, onnxruntime" for step in steps)]
    rows = [f"| layer | {' | '.join(heads)} |", "|---|" + "--:|" * len(heads)]
    for layer, figures in layers.items():
        cells = [duration(figures["times"][name]["seconds"]) for name in names]
        for step in steps:
            errors = figures["errors"][step]
            cells.append(f"{errors['layer']:.0e}, {errors['onnxruntime']:.0e}")
        rows.append(f"| {layer} | {' | '.join(cells)} |")
    return "\n".join(rows)


def export_int8() -> str:
    """A row per psMNIST model and way to store its step."""
    rows = ["| model | stored as | size | right of the test digits |", "|---|---|--:|--:|"]
    for model, figures in exported()["psmnist"].items():
        config = figures["config"]
        name = f"{model} {config['hidden_size']}/{config['memory_size']}"
        for kind, found in figures["steps"].items():
            size = f"{found['bytes'] / 1e6:.2f} MB" if "bytes" in found else ""
            stored = "PyTorch, not exported" if kind == "layer" else kind
            rows.append(f"| {name} | {stored} | {size} | {found['right']:,} |")
    return "\n".join(rows)


TABLES = {
    "export-step": export_step,
    "export-sequence": export_sequence,
    "export-int8": export_int8,
    "speed": speed,
    "scaling": scaling,
    "overhead": overhead,
    "psmnist": psmnist,
    "lmu-curve": lmu_curve,
    "accuracy": accuracy,
}


def render(text: str) -> str:
    """The text with what stands between its table marks written anew."""
    for name, table in TABLES.items():
        mark = f"<!-- table: {name} -->"
        if mark not in text:
            continue
        text = re.sub(
            f"{mark}.*?<!-- end -->",
            lambda _, mark=mark, table=table: f"{mark}\n{table()}\n<!-- end -->",
            text,
            flags=re.DOTALL,
        )
    return text


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(render(page.read_text()))
        sys.stdout.write(f"wrote the tables of {page.name}\n")
