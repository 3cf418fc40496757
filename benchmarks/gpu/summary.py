"""Summary of the results of all sections as one page of tables."""

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import duration

Rows = list[dict[str, Any]]


def render(folder: Path, names: Sequence[str]) -> str:
    """Render all sections of a folder, in the order of the names."""
    paths = {name: folder / f"gpu-{name}.json" for name in names}
    results = {key: json.loads(p.read_text()) for key, p in paths.items() if p.exists()}
    parts = ["# Measured on this machine"]
    for name, result in results.items():
        if (text := described(result)) not in parts:  # usually one machine
            parts.append(text)
        parts.append(f"## {name}")
        if result["rows"]:
            parts.append(TABLES.get(name, contenders)(result["rows"]))
        for key, title in (("faults", "**Faults**"), ("left_out", "Left out")):
            if items := listed(result[key]):
                parts.append(f"{title}:\n\n{items}")
    return "\n\n".join(parts) + "\n"


def described(result: dict) -> str:
    """Describe the machine and the settings."""
    where = result["machine"]
    quick = "**Tiny sizes, to try the script: no results.** " if result["settings"]["quick"] else ""
    facts = {**where.get("gpu", {}), **{k: v for k, v in where.items() if k != "gpu"}}
    return quick + ", ".join(f"{key} {value}" for key, value in facts.items())


def listed(items: dict[str, str] | list[str]) -> str:
    """Format the lines of a list."""
    lines = [f"{k}: {v}" for k, v in items.items()] if isinstance(items, dict) else items
    return "\n".join(f"- {line}" for line in lines)


def table(head: Sequence[str], rows: list[list[str]]) -> str:
    """Format a table in Markdown."""
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ceilings(rows: Rows) -> str:
    """Table of rates and latencies."""

    def value(row: dict) -> str:
        if row["unit"] == "s":
            return duration(row["value"])
        return f"{row['value'] / 1e9:,.1f} G{row['unit']}"

    return table(("ceiling", "measured"), [[row["name"], value(row)] for row in rows])


def correctness(rows: Rows) -> str:
    """Table of the numbers of tests that passed, failed or were skipped."""
    keys = ("passed", "failed", "errors", "skipped")
    body = [
        [row["tests"], *(str(row[key]) for key in keys), duration(row["seconds"])] for row in rows
    ]
    return table(("tests", *keys, "time"), body)


def contenders(rows: Rows) -> str:
    """Table of times, memory and errors of contenders, and their share of the ceiling if known."""
    body = []
    for row in rows:
        if "contenders" not in row:
            continue
        precision = f", {row['precision']}" if "precision" in row else ""
        body.append([f"**{row['title']}{precision}**", *[""] * 5])
        for name, f in row["contenders"].items():
            if "seconds" not in f:
                body.append([name, f["status"], *[""] * 4])
                continue
            time = (
                f"{duration(f['seconds'])} ({duration(f['fastest'])} to {duration(f['slowest'])})"
            )
            error = f["error"]
            rate = f"{f['flops_per_second'] / 1e9:,.1f}" if "share" in f else ""
            share = f"{f['share']:.1%}" if "share" in f else ""
            off = "" if error is None else f"{error:.0e}"
            body.append([name, time, f"{f['peak_mib']:.0f}", off, rate, share])
    head = ("work", "time (fastest to slowest)", "peak MiB", "error", "GFLOP/s", "of GEMM rate")
    return table(head, body)


def choice(rows: Rows) -> str:
    """Table of the automatic choice and the best method, with the ratio of their times."""
    keys = ("batch", "length", "order", "channels", "rows")
    body = []
    for row in rows:
        figures = row.get("contenders", {})
        times = ", ".join(
            f"{name} {duration(f['seconds']) if 'seconds' in f else f['status']}"
            for name, f in figures.items()
        )
        ratio = row.get("ratio")
        cells = [str(row[key]) for key in keys] + [row["chosen"], row.get("best", "")]
        body.append([*cells, "" if ratio is None else f"{ratio:.2f}", times or row["status"]])
    text = table((*keys, "chosen", "best", "chosen / best", "times"), body)
    ratios = [row["ratio"] for row in rows if row.get("ratio") is not None]
    if ratios:
        right = sum(ratio == 1 for ratio in ratios)
        text += (
            f"\n\nThe best was chosen at {right} of {len(ratios)} points; on average (geometric "
            f"mean) the choice takes {statistics.geometric_mean(ratios):.2f} times the best's "
            f"time, at worst {max(ratios):.2f} times."
        )
    return text


def psmnist(rows: Rows) -> str:
    """Table of epochs."""
    body = [
        [
            f"{row['model']['model']} {row['model']['hidden_size']}/{row['model']['memory_size']}",
            f"{row['digits']:,}",
            duration(row["loop_seconds"]),
            duration(row["train_seconds"]),
            duration(row["extrapolated_epoch"]),
        ]
        for row in rows
    ]
    head = ("model", "digits", "bare loop", "lmu train psmnist", "bare loop, for 60,000 digits")
    return table(head, body)


def peers(rows: Rows) -> str:
    """Table of packages, and times of the installed ones."""
    body = [[row["package"], row["status"]] for row in rows if "package" in row]
    timed = [row for row in rows if "contenders" in row]
    text = table(("package", "version, or why it is not timed"), body)
    return f"{text}\n\n{contenders(timed)}" if timed else text


TABLES: dict[str, Callable[[Rows], str]] = {
    "ceilings": ceilings,
    "correctness": correctness,
    "choice": choice,
    "psmnist": psmnist,
    "peers": peers,
}
