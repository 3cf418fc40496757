"""Tables of the runs on permuted sequential MNIST."""

import json
import statistics

from docs.figures.records import ROOT
from lmu.tasks.psmnist.config import PRESETS


def _committed() -> list[tuple[str, dict]]:
    """Read the names and contents of the committed runs."""
    folder = ROOT / "results" / "psmnist"
    return [(path.stem, json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]


def runs() -> str:
    """A row per model and recipe, over its seeds."""
    groups: dict[str, list[dict]] = {}
    for name, run in _committed():
        if run["config"]["limit"] is not None:
            raise ValueError("a committed run saw only a part of the digits")
        groups.setdefault(name.rpartition("-seed")[0], []).append(run)
    rows = [
        "| name | parameters | model and recipe | seeds | test accuracy | training (threads) |",
        "|---|--:|---|--:|--:|--:|",
    ]
    for name, group in groups.items():
        configs = [run["config"] | {"seed": None} for run in group]
        threads = {run["machine"]["torch_threads"] for run in group}
        if any(config != configs[0] for config in configs) or len(threads) > 1:
            raise ValueError(f"the committed runs of {name} differ by more than their seeds")
        accuracy = [100 * run["test_accuracy"] for run in group]
        spread = f" ± {statistics.stdev(accuracy):.2f}" if len(accuracy) > 1 else ""
        seconds = statistics.median(sum(run["seconds_per_epoch"]) for run in group)
        rows.append(
            f"| {name} | {group[0]['parameters']:,} "
            f"| {_model(configs[0])}; {_recipe(configs[0], group)} | {len(group)} "
            f"| {statistics.mean(accuracy):.2f} %{spread} | {seconds:,.0f} s ({threads.pop()}) |"
        )
    best_first = sorted(rows[2:], key=lambda row: row.split(" | ")[4], reverse=True)
    return "\n".join(rows[:2] + best_first)


def _model(config: dict) -> str:
    """Format the options that build the model, and its sizes."""
    preset = PRESETS[config["model"]]
    options = f"--model {config['model']}"
    for name in ("hidden_size", "memory_size"):
        if config[name] != getattr(preset, name):
            options += f" --{name.replace('_', '-')} {config[name]}"
    order = "" if config["memory_size"] is None else f", order {config['memory_size']}"
    layers = f" x {config['layers']}" if config["model"] == "deep" else ""
    return f"`{options}`{order}, {config['hidden_size']}{layers} units"


def _recipe(config: dict, group: list[dict]) -> str:
    epochs = f"{config['epochs']} epochs"
    if config["max_seconds"] is not None:
        epochs = f"{config['max_seconds']:.0f} s, ended in epoch {len(group[0]['history'])},"
    recipe = f"{epochs} of batches of {config['batch_size']}, Adam {config['learning_rate']:g}"
    recipe += f", {config['schedule']}"
    extras = ("dropout", "input_dropout", "input_noise", "hidden_noise", "weight_decay")
    for name in (*extras, "label_smoothing", "gradient_clip"):
        recipe += f", {name.replace('_', ' ')} {config[name]:g}" if config[name] else ""
    return recipe + (", all 60,000 digits" if config["full_train"] else "")


# Test accuracy after each of the first epochs that an earlier PyTorch port publishes.
EARLIER_PORT = (89.4, 93.3, 95.3)


def lmu_curve() -> str:
    """Accuracy of the nonlinear LMU after each epoch, beside that of an earlier port."""
    rows = ["| | epoch 1 | epoch 2 | epoch 3 | test, at the end |", "|---|--:|--:|--:|--:|"]
    for _, run in _committed():
        if run["config"]["model"] == "lmu":
            values = [f"{100 * row['val_accuracy']:.1f} %" for row in run["history"][:3]]
            test = f"{100 * run['test_accuracy']:.1f} %"
            rows.append(f"| validation, seed {run['seed']} | {' | '.join(values)} | {test} |")
    values = [f"{value:.1f} %" for value in EARLIER_PORT]
    rows.append(f"| test, an earlier PyTorch port | {' | '.join(values)} | |")
    return "\n".join(rows)
