"""Picture of the capacity experiment."""

from typing import Any

from matplotlib.figure import Figure


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Draw error against delay, one panel for each length of the window."""
    windows = sorted({row["window"] for row in rows})
    figure = Figure(figsize=(3.2 * len(windows) + 0.6, 3.2), layout="constrained")
    panels = figure.subplots(1, len(windows), sharey=True, squeeze=False)[0]
    for axes, window in zip(panels, windows, strict=True):
        for row in rows:
            if row["window"] == window:
                delays = [delay / window for delay in row["delays"]]
                style = "--" if row["trained_parameters"] else "-"
                axes.semilogy(delays, row["nrmse"], style, label=row["model"])
        axes.set(title=f"{window:,} steps", xlabel="delay / window")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("error / signal")
    handles = {line.get_label(): line for axes in panels for line in axes.lines}
    panels[-1].legend(handles.values(), handles.keys(), fontsize=7)
    return figure
