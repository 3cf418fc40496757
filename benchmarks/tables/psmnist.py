"""The runs on permuted sequential MNIST."""

import json
import statistics

from benchmarks.tables._shared import ROOT


def _committed() -> list[dict]:
    """The committed runs."""
    folder = ROOT / "results" / "psmnist"
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


PROTOCOL = (
    *("model", "epochs", "learning_rate", "schedule", "batch_size", "full_train", "precision"),
    *("weight_decay", "label_smoothing", "input_dropout"),
)


def runs() -> str:
    """A row per model and protocol, over its seeds."""
    groups: dict[tuple, list[dict]] = {}
    for run in _committed():
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
    for run in _committed():
        if run["config"]["model"] == "lmu":
            values = [f"{100 * row['val_accuracy']:.1f} %" for row in run["history"][:3]]
            test = f"{100 * run['test_accuracy']:.1f} %"
            rows.append(f"| validation, seed {run['seed']} | {' | '.join(values)} | {test} |")
    values = [f"{value:.1f} %" for value in EARLIER_PORT]
    rows.append(f"| test, an earlier PyTorch port | {' | '.join(values)} | |")
    return "\n".join(rows)
