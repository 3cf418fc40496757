"""Tables of times, peak memory and errors of the benchmarks."""

import json
from pathlib import Path

from benchmarks.measure import duration
from docs.figures.records import ROOT, record


def where(machine: dict) -> str:
    """Describe the machine."""
    return f"{machine['cpu']}, {machine['threads']} threads, PyTorch {machine['torch']}"


def results(pattern: str) -> list[list[dict]]:
    """Read the committed results of each machine whose names match."""
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
            first = next(iter(contenders.values()))["seconds"]
            for name, figures in contenders.items():
                error = "" if figures["error"] is None else f"{figures['error']:.0e}"
                spread = f"{duration(figures['fastest'])} to {duration(figures['slowest'])}"
                rows.append(
                    f"| {name} | {duration(figures['seconds'])} ({spread}) "
                    f"| {figures['seconds'] / first:.3g} "
                    f"| {figures['peak_mib']:.0f} MiB | {error} |"
                )
            if case["flops"] is not None:
                rate, most = case["flops"] / first / 1e9, case["gemm_rate"] / 1e9
                rows.append(
                    f"| | {rate:.0f} GFLOP/s of the equations; large products of PyTorch's: "
                    f"{most:.0f} | | | |"
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
    result = record("training_overhead")
    return "\n".join(
        [
            "| training loop | seconds per epoch of 60,000 digits |",
            "|---|--:|",
            f"| hand-written | {result['bare_seconds']:.2f} |",
            f"| Lightning | {result['lightning_seconds']:.2f} (x {result['ratio']:.2f}) |",
        ]
    )


def accuracy() -> str:
    """A row per layer and precision."""
    rows = ["| layer | precision | output | memory |", "|---|---|--:|--:|"]
    layers = record("accuracy")["layers"]
    for name, precisions in layers.items():
        for precision, errors in precisions.items():
            values = [f"{errors[key]:.1e}" for key in ("output", "memory")]
            rows.append(f"| {name} | {precision} | {' | '.join(values)} |")
    return "\n".join(rows)
