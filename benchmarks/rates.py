"""Fit the choice of methods to the grid: ``python -m benchmarks.rates [grid.json ...]``.

Writes ``src/lmu/ops/rates.json``: a table for each device, number of threads, and with or without
the compiled core, from the JSON of ``python -m benchmarks.grid``. Tables of other conditions stay.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.grid.cases import FFT, LMU, MEMORY
from benchmarks.grid.summary import best_method, describe
from lmu._files import read_json, write_json
from lmu.ops import LMU_METHODS, MEMORY_METHODS, READOUT_METHODS, Problem, rates
from lmu.ops.cost import Machine, compare
from lmu.ops.fit import Sample, fit_rates

ROOT = Path(__file__).parents[1]
# In this order: read-outs from all states take the memory's estimate.
FAMILIES: dict[str, tuple[str, Any]] = {
    "memory": (MEMORY, MEMORY_METHODS),
    "readout": (FFT, READOUT_METHODS),
    "lmu": (LMU, LMU_METHODS),
}
Row = dict[str, Any]
Table = dict[str, Any]


def main() -> None:
    """Fit a table to each grid, write all, and print how the choice would fare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rates", description=__doc__)
    parser.add_argument("grids", nargs="*", type=Path, default=[ROOT / "results" / "grid.json"])
    parser.add_argument("--output", type=Path, default=rates.FITTED)
    args = parser.parse_args()
    content = read_json(args.output) if args.output.exists() else {"tables": []}
    for path in args.grids:
        grid = read_json(path)
        table = fit(grid)
        content["tables"] = [t for t in content["tables"] if key(t) != key(table)] + [table]
        content["tables"].sort(key=lambda t: (t["device"], t["core"], t["threads"]))
        write_json(args.output, content)
        with rates.using(content["tables"]):
            print(f"{path.name}: {len(grid['cases'])} cases")
            print(report(grid))


def key(table: Table) -> tuple[Any, ...]:
    """Return the conditions of a table."""
    return table["device"], table["threads"], table["core"]


def fit(grid: dict[str, Any], some: list[Row] | None = None) -> Table:
    """Fit a table to the cases of a grid, or to some of them."""
    rows: list[Row] = grid["cases"] if some is None else some
    where = grid["machine"]
    table: Table = {
        "device": where["device"], "threads": where["threads"], "core": where["core"] is not None,
        "source": {k: where.get(k) for k in ("cpu", "torch", "date", "commit")},
        "cases": len(rows), "rates": {},
    }  # fmt: skip
    for family, (layer, methods) in FAMILIES.items():
        here = [row for row in rows if row["layer"] == layer]
        with rates.using([table]):
            machine = Machine(table["threads"], table["core"], rates.version())
            samples = {
                name: samples_of(here, name, method.terms, machine, where)
                for name, method in methods.items()
                if method.terms
            }
        table["rates"][family] = {
            name: fit_rates(times, trust=1e-4) for name, times in samples.items() if times
        }
    return table


def problem_of(row: Row, device: str) -> Problem:
    """Return the sizes of a case."""
    return Problem(row["length"], row["order"], row["units"], row["batch"], row["channels"], device)


def samples_of(
    rows: list[Row], name: str, terms: Callable[..., Any], machine: Machine, where: dict[str, Any]
) -> list[Sample]:
    """Return the times of a method; those that are far from the fastest matter less."""
    return [
        Sample(
            terms(problem_of(row, where["device"]), machine),
            row["fastest"][name],
            (min(row["fastest"].values()) / row["fastest"][name]) ** 0.5,
        )
        for row in rows
        if name in row["fastest"]
    ]


def regrets(grid: dict[str, Any], rows: list[Row], family: str) -> list[tuple[float, Row, str]]:
    """Return seconds of the method that the present rates choose over those of the best."""
    layer, methods = FAMILIES[family]
    where = grid["machine"]
    machine = Machine(where["threads"], where["core"] is not None, rates.version())
    result = []
    for row in rows:
        if row["layer"] != layer:
            continue
        seconds = compare(family, methods, problem_of(row, where["device"]), machine)
        name = next(name for name in seconds if name in row["fastest"])
        best = best_method(row | {"seconds": row["fastest"]})[1]
        result.append((row["fastest"][name] / best, row, name))
    return result


def report(grid: dict[str, Any]) -> str:
    """Say how the choice fares on the cases it was fitted to, and on those left out of a fit."""
    lines = []
    rows = grid["cases"]
    for family in FAMILIES:
        seen = regrets(grid, rows, family)
        if not seen:
            continue
        unseen = []
        for half in (0, 1):
            with rates.using([fit(grid, rows[half::2])]):
                unseen += regrets(grid, rows[1 - half :: 2], family)
        for label, found in (("fitted", seen), ("unseen", unseen)):
            d = describe([r for r, *_ in found], high=False)
            lines.append(
                f"  {family:8} {label}: {d['cases']:.0f} cases, chosen / best {d['mean']:.3f}, "
                f"worst {d['worst']:.2f}, above 1.05 in {d['wrong']:.0%}"
            )
        for ratio, row, name in sorted(seen, key=lambda item: -item[0])[:5]:
            times = ", ".join(f"{k} {t * 1e3:.3g}" for k, t in row["fastest"].items())
            sizes = [row[k] for k in ("batch", "length", "order", "units", "channels")]
            lines.append(f"    {ratio:.2f} b, T, d, n, c {sizes} {name}: {times}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
