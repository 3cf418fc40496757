"""Picture of the experiment on real series."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.series.data import HORIZON, YEARS, sunspots

Rows = list[dict[str, Any]]


def draw(rows: Rows) -> Figure:
    """Draw accuracies of each run, and the forecasts with their errors by year ahead."""
    classified = [name for name in dict.fromkeys(row["data"] for row in rows) if name != "sunspots"]
    forecast = [row for row in rows if row["data"] == "sunspots"]
    figure = Figure(figsize=(10, 3.2 * (bool(classified) + bool(forecast))), layout="constrained")
    parts = figure.subfigures(bool(classified) + bool(forecast), 1, squeeze=False)[:, 0].tolist()
    if forecast:
        left, right = parts.pop().subplots(1, 2, width_ratios=(1, 1.8))
        _draw_errors(left, forecast)
        _draw_forecasts(right, [row for row in forecast if row["seed"] == 0])
    if classified:
        panels = parts.pop().subplots(1, len(classified), squeeze=False)[0]
        for axes, name in zip(panels, classified, strict=True):
            _draw_accuracies(axes, name, [row for row in rows if row["data"] == name])
    return figure


def _draw_accuracies(axes: Axes, name: str, rows: Rows) -> None:
    models = list(dict.fromkeys(row["model"] for row in rows))
    for row in rows:
        axes.plot(100 * row["test"], models.index(row["model"]), "o", color="C0", alpha=0.5)
    axes.set_yticks(range(len(models)), models)
    axes.set(title=name, xlabel="test accuracy of each run, %")
    axes.invert_yaxis()
    axes.grid(alpha=0.3)


def _draw_errors(axes: Axes, rows: Rows) -> None:
    ahead = range(1, HORIZON + 1)
    for i, model in enumerate(dict.fromkeys(row["model"] for row in rows)):
        errors = [row["by_horizon"] for row in rows if row["model"] == model]
        mean = [sum(column) / len(errors) for column in zip(*errors, strict=True)]
        axes.plot(ahead, mean, "o-", ms=3, color=f"C{i}", label=model)
    axes.set(title="sunspots: error of forecasts", xlabel="years ahead", ylabel="RMSE")
    axes.grid(alpha=0.3)  # the panel beside it has the legend


def _draw_forecasts(axes: Axes, rows: Rows) -> None:
    years, counts = sunspots()
    shown = years >= YEARS[1] - HORIZON
    axes.plot(years[shown].numpy(), counts[shown].numpy(), "k", lw=1, label="truth")
    for i, row in enumerate(rows):
        for block, values in enumerate(row["forecasts"]):
            start = YEARS[1] + block * HORIZON
            label = row["model"] if block == 0 else None
            axes.plot(range(start, start + HORIZON), values, color=f"C{i}", lw=1.2, label=label)
    for start in range(YEARS[1], int(years[-1]) + 1, HORIZON):
        axes.axvline(start - 0.5, color="gray", lw=0.6, ls=":")
    axes.set(title=f"forecasts of {HORIZON} years from each dotted line", ylabel="sunspot number")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
