"""Picture of the Mackey-Glass experiment."""

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.mackey_glass.data import MackeyGlass

SHOWN = 250  # steps of a test series


def draw(rows: list[dict[str, Any]], task: MackeyGlass) -> Figure:
    """Draw a test series with the predictions of each model's first run, and the errors by step.

    Args:
        rows: See :func:`run`.
        task: The series.
    """
    firsts: dict[str, dict[str, Any]] = {}
    for row in rows:
        firsts.setdefault(row["model"], row)
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    panels = figure.subplot_mosaic([["series"] * 2, ["error"] * 2, ["start", "history"]])
    truth = task.test.y[0, :SHOWN, 0].tolist()
    panels["series"].plot(truth, "k", lw=2.4, alpha=0.35, label="truth")
    for name, row in firsts.items():
        prediction, lw = row["prediction"], 0.9
        panels["series"].plot(prediction, lw=lw, label=name)
        wrong = [abs(a - b) for a, b in zip(prediction, truth, strict=True)]
        panels["error"].semilogy(wrong, lw=lw)
        panels["start"].semilogy(row["test_by_step"], lw=1.2)
        panels["history"].semilogy(range(1, 1 + len(row["val_history"])), row["val_history"])
    panels["series"].set(title="a test series, 15 steps ahead", ylabel="tanh(x - 1)")
    figure.legend(loc="outside lower center", ncols=1 + len(firsts))
    panels["error"].set(
        title="error on this series", xlabel="step", ylabel="absolute error", ylim=(1e-5, 1)
    )
    panels["start"].set(xlabel="step", ylabel="NRMSE", title="all test series, by step")
    panels["history"].set(xlabel="epoch", ylabel="NRMSE", title="validation")
    panels["history"].xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in panels.values():
        axes.grid(alpha=0.3)
    return figure
