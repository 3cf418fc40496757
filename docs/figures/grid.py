"""Pictures of the grid of users' sizes: who wins where, and how far ahead."""

import math
from typing import Any

from benchmarks.grid.cases import CHANNELS, FFT, LMU
from benchmarks.grid.summary import ahead_of, best_method, over_best, ratios
from docs.figures import style
from docs.figures.records import ROOT, record

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LAYERS = {FFT: "LMUFFT", LMU: "LMU"}


def pictures() -> None:
    """Draw the map of each layer's fastest methods, and the distributions of ratios."""
    if not (ROOT / "results" / "grid.json").exists():
        print("no results/grid.json: run python -m benchmarks.grid first")
        return
    rows = record("grid")["cases"]
    wins(rows)
    distributions(rows)


def wins(rows: list[dict[str, Any]]) -> None:
    """Draw the fastest method of each case of the parallel layer, a panel for each channels."""
    here = [row for row in rows if row["layer"] == FFT and row["channels"] in CHANNELS]
    names = sorted({best_method(row)[0] for row in here})
    figure = style.new(10, 3.8)
    panels = figure.subplots(1, len(CHANNELS), sharex=True, sharey=True)
    for axes, channels in zip(panels, CHANNELS, strict=True):
        for number, name in enumerate(names):
            points = [
                _place(row)
                for row in here
                if row["channels"] == channels and best_method(row)[0] == name
            ]
            x, y = zip(*points, strict=True) if points else ((), ())
            marker = MARKERS[number % len(MARKERS)]
            axes.scatter(x, y, s=16, marker=marker, label=name, alpha=0.8)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(f"{channels} channel{'s' if channels > 1 else ''}")
        axes.set_xlabel("time steps x batch")
    panels[0].set_ylabel("order")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=8)
    _save(figure, "grid-wins")


def _place(row: dict[str, Any]) -> tuple[float, float]:
    """Time steps and order; cases that differ in hidden units alone lie beside each other."""
    aside = math.log2(row["units"]) - 6
    return row["length"] * row["batch"] * 1.12**aside, row["order"] * 1.1**aside


def distributions(rows: list[dict[str, Any]]) -> None:
    """Draw the share of cases up to each ratio: the choice to the best, others to the choice."""
    figure = style.new(10, 3.6)
    left, right = figure.subplots(1, 2)
    for layer, name in LAYERS.items():
        here = [row for row in rows if row["layer"] == layer]
        _steps(left, ratios(here, over_best), name)
        for other in ("textbook", "nn.GRU", "nn.LSTM"):
            _steps(right, ratios(here, ahead_of(other)), f"{other} / {name}")
    left.set_xlabel("chosen method's time / best method's")
    right.set_xlabel("another's time / ours")
    right.set_xscale("log")
    right.axvline(1, color="gray", linewidth=0.8)
    for axes in (left, right):
        axes.set_ylabel("share of cases")
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, "grid-ratios")


def _steps(axes: Any, values: list[float], label: str) -> None:
    """Draw the share of values up to each."""
    if values:
        shares = [(i + 1) / len(values) for i in range(len(values))]
        axes.step(sorted(values), shares, where="post", label=label)


def _save(figure: Any, name: str) -> None:
    path = style.IMAGES / f"{name}.svg"
    style.save(figure, path)
    print(f"wrote {path.relative_to(ROOT)}")
