"""Tables of exported models."""

from benchmarks.measure import duration
from docs.figures.records import record


def _exported() -> dict:
    """Read the committed results of exported models."""
    return record("export")


def step() -> str:
    """A row per layer: a step by each runtime."""
    layers = _exported()["step"]
    names = list(next(iter(layers.values()))["times"])
    rows = [f"| layer | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
    for layer, figures in layers.items():
        cells = [duration(figures["times"][name]["seconds"]) for name in names]
        rows.append(f"| {layer} | {' | '.join(cells)} |")
    return "\n".join(rows)


def sequence() -> str:
    """A row per layer: a sequence by each runtime, and the errors."""
    layers = _exported()["sequence"]
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


def int8() -> str:
    """A row per psMNIST model and stored form of its step."""
    rows = ["| model | stored as | size | right of the test digits |", "|---|---|--:|--:|"]
    for model, figures in _exported()["psmnist"].items():
        config = figures["config"]
        name = f"{model} {config['hidden_size']}/{config['memory_size']}"
        for kind, results in figures["steps"].items():
            size = f"{results['bytes'] / 1e6:.2f} MB" if "bytes" in results else ""
            stored = "PyTorch, not exported" if kind == "layer" else kind
            rows.append(f"| {name} | {stored} | {size} | {results['right']:,} |")
    return "\n".join(rows)
