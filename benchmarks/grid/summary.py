"""Numbers that sum up the grid: the choice against the best method, the textbook and others."""

from collections.abc import Callable, Iterable
from math import exp, log
from statistics import mean
from typing import Any

from benchmarks.grid.cases import FFT, LMU, MEMORY
from benchmarks.grid.contenders import AUTO, TEXTBOOK

Row = dict[str, Any]
OTHERS = (TEXTBOOK, "nn.GRU", "nn.LSTM", "nn.RNN")
LEVEL = 0.95  # below which a contender is faster for sure


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean."""
    return exp(mean(map(log, values)))


def best_method(row: Row) -> tuple[str, float]:
    """Return the fastest method and its seconds."""
    methods = {k: t for k, t in row["seconds"].items() if k not in {AUTO, *OTHERS}}
    return min(methods.items(), key=lambda item: item[1])


def over_best(row: Row) -> float:
    """Seconds of the chosen method over those of the best, both as methods.

    That the choice is the best method then gives 1 exactly, and its own overhead is in ``textbook``
    over ``auto``.
    """
    return row["seconds"][row["chosen"]] / best_method(row)[1]


def auto_over_best(row: Row) -> float:
    """Seconds of ``auto`` as measured over those of the best method."""
    return row["seconds"][AUTO] / best_method(row)[1]


def ahead_of(name: str) -> Callable[[Row], float | None]:
    """Return a function: seconds of a contender over those of ``auto``; None if not measured."""

    def ratio(row: Row) -> float | None:
        other = row["seconds"].get(name)
        return None if other is None else other / row["seconds"][AUTO]

    return ratio


def ratios(rows: list[Row], of: Callable[[Row], float | None]) -> list[float]:
    """Return the ratios of the rows that have one."""
    return [r for r in map(of, rows) if r is not None]


def describe(values: list[float], *, high: bool) -> dict[str, float]:
    """Return number, geometric mean, worst, and the share on the wrong side.

    Args:
        values: Ratios.
        high: True if large ones are good, as of another's time over ours.
    """
    wrong = [v < LEVEL if high else v > 1 / LEVEL for v in values]
    return {
        "cases": len(values),
        "mean": geometric_mean(values),
        "worst": min(values) if high else max(values),
        "wrong": sum(wrong) / len(wrong),
    }


def summary(rows: list[Row]) -> dict[str, dict[str, dict[str, float]]]:
    """Return by layer and comparison the numbers of :func:`describe`."""
    result: dict[str, dict[str, dict[str, float]]] = {}
    for layer in (FFT, LMU, MEMORY):
        here = [row for row in rows if row["layer"] == layer]
        if not here:
            continue
        result[layer] = {
            "auto / best method": describe(ratios(here, auto_over_best), high=False),
            "chosen / best method": describe(ratios(here, over_best), high=False),
        }
        for name in OTHERS:
            for label, some in (("", here), (", T >= 64", [r for r in here if r["length"] >= 64])):
                if values := ratios(some, ahead_of(name)):
                    result[layer][f"{name} / auto{label}"] = describe(values, high=True)
    return result


def text(rows: list[Row]) -> str:
    """Return the summary as lines."""
    lines = []
    for layer, comparisons in summary(rows).items():
        lines.append(layer)
        for name, d in comparisons.items():
            lines.append(
                f"  {name:28} {d['cases']:4.0f} cases, geometric mean {d['mean']:.2f}, "
                f"worst {d['worst']:.2f}, slower in {d['wrong']:.0%}"
            )
    return "\n".join(lines)


def worst(rows: list[Row], of: Callable[[Row], float | None], number: int, *, high: bool) -> str:
    """Return the cases with the worst ratios as lines."""
    rated = [(r, row) for row in rows if (r := of(row)) is not None]
    rated.sort(key=lambda item: item[0], reverse=not high)
    return "\n".join(
        f"  {r:5.2f} {row['layer']} batch {row['batch']} T {row['length']} order {row['order']} "
        f"units {row['units']} channels {row['channels']}: chosen {row['chosen']}, "
        + ", ".join(f"{k} {t * 1e3:.3g}" for k, t in row["seconds"].items())
        for r, row in rated[:number]
    )
