"""Pictures of docs/concepts.md, drawn into docs/images."""

from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.concepts import memory
from docs.figures import style
from docs.figures.records import ROOT, record
from experiments.capacity.data import band_limited_noise
from lmu.plots import plot_window
from lmu.theory import discretize, impulse_response, legendre, legt

THETA = 200


def _signal() -> Tensor:
    """Return three windows of a smooth signal (1, time, 1)."""
    return band_limited_noise(6 * THETA, THETA, seed=6, cutoff=4)[:, : 3 * THETA, None]


def signal_and_window() -> Figure:
    """Draw a signal, and the window that a memory holds at three moments."""
    signal = _signal()
    figure = style.new(6.4, 2.6)
    axes = figure.subplots()
    axes.plot(signal[0, :, 0], color="#9aa2ad", lw=1.2)
    layer = memory(24, THETA)
    for number, now in enumerate((200, 400, 600)):
        m = layer.final(signal[:, :now])
        held = layer.decode(m)[0, :, 0].flip(0)
        axes.plot(torch.arange(now - THETA, now), held, color=f"C{number}", lw=3, alpha=0.8)
        axes.axvline(now - 1, color=f"C{number}", lw=1, ls=":")
        axes.annotate(
            "now", (now - 1, 1), xycoords=("data", "axes fraction"),
            ha="right", va="top", fontsize=9, color=f"C{number}", xytext=(-3, 0),
            textcoords="offset points",
        )  # fmt: skip
    axes.set(xlabel="time step", ylabel="u", ylim=(-2.3, 2.6))
    axes.grid(alpha=0.2)
    return figure


def orders() -> Figure:
    """Draw the same window, held by 6, 12 and 24 polynomials."""
    signal = _signal()[:, :590]
    figure = style.new(6.4, 5.0)
    panels = figure.subplots(3, 1, sharex=True, sharey=True)
    for number, (axes, order) in enumerate(zip(panels, (6, 12, 24), strict=True)):
        layer = memory(order, THETA)
        m = layer.final(signal)
        plot_window(layer, m[0], signal[0], axes=axes)
        held, inputs = axes.lines
        held.set_color(f"C{number}")
        inputs.set(color="#9aa2ad", alpha=1, markersize=3.5)
        held.set_zorder(3)
        axes.get_legend().remove()
        axes.set(title=f"{order} polynomials", ylabel="u")
        if axes is not panels[-1]:
            axes.set_xlabel("")
    return figure


def polynomials() -> Figure:
    """Draw the polynomials over the window that a memory's coefficients weigh."""
    figure = style.new(6.4, 2.8)
    axes = figure.subplots()
    delay = torch.linspace(0, 1, 400, dtype=torch.float64)
    values = legendre(5, 2 * delay - 1)
    for i in range(5):
        axes.plot(-delay, values[:, i], label=f"i = {i}")
    axes.set_xticks([-1, -0.5, 0], ["θ steps ago", "θ/2", "now"])
    axes.set_ylabel("polynomial i")
    axes.grid(alpha=0.2)
    _legend_beside(axes)
    return figure


def by_order(result: dict[str, Any]) -> Figure:
    """Draw the error of sines against their frequency, a line for each order."""
    figure = style.new(6.4, 3.2)
    axes = figure.subplots()
    for order, figures in result["orders"].items():
        axes.loglog(result["cycles"], figures["errors"], label=order)
    axes.set(xlabel="cycles in the window", ylabel="error / signal", ylim=(5e-7, 2))
    axes.grid(alpha=0.2)
    _legend_beside(axes, "order")
    return figure


def of_noise(result: dict[str, Any]) -> Figure:
    """Draw the error of white noise against the order."""
    figure = style.new(6.4, 3.0)
    axes = figure.subplots()
    at = [row["order"] / result["theta"] for row in result["rows"]]
    for key, label, mark in (
        ("decoded", "layer.decode", "o-"),
        ("best", "best linear read-out", "o-"),
        ("least", "least possible with\nso many numbers", ":"),
    ):
        axes.plot(at, [row[key] for row in result["rows"]], mark, ms=4, label=label)
    axes.set(xlabel="order / θ", ylabel="error / signal", ylim=(0, 1.03), xlim=(0, 1.02))
    axes.grid(alpha=0.2)
    _legend_beside(axes)
    return figure


def by_discretizer(result: dict[str, Any]) -> Figure:
    """Draw the error of a slow sine against the steps in a window."""
    figure = style.new(6.4, 3.0)
    axes = figure.subplots()
    for name, errors in result["lines"].items():
        known = [(t, e) for t, e in zip(result["theta"], errors, strict=True) if e is not None]
        axes.loglog(*zip(*known, strict=True), "o-", ms=4, label=name)
    least = result["least_theta_of_euler"][str(result["order"])]
    axes.axvline(least, color="C2", ls=":", lw=1.2)
    axes.annotate(
        "euler accepted from here", (least, 1), xycoords=("data", "axes fraction"),
        va="top", fontsize=9, color="C2", xytext=(4, 4), textcoords="offset points",
    )  # fmt: skip
    axes.set(xlabel="θ, steps in a window", ylabel="error / signal", ylim=(3e-7, 3))
    axes.grid(alpha=0.2)
    _legend_beside(axes)
    return figure


def rows(order: int = 64) -> Figure:
    """Draw the weights of the past in coefficients, beside their polynomials."""
    H = impulse_response(*discretize(*legt(order, THETA)), 3 * THETA // 2)
    r = (torch.arange(THETA, dtype=torch.float64) + 0.5) / THETA
    values = legendre(order, 2 * r - 1)
    figure = style.new(6.4, 3.2)
    axes = figure.subplots()
    ago = -torch.arange(H.shape[1])
    for number, i in enumerate((0, 1, 4)):
        axes.plot(ago, H[i] * THETA / (2 * i + 1), color=f"C{number}", label=f"weights of m[{i}]")
    for number, i in enumerate((0, 1, 4)):
        label = "polynomials" if number == 0 else None
        axes.plot(ago[:THETA], values[:, i], "--", color="#9aa2ad", lw=1.2, label=label, zorder=1)
    axes.axvline(-THETA, color="#9aa2ad", lw=1, ls=":")
    axes.set_xticks([-THETA, -THETA // 2, 0], ["θ steps ago", "θ/2", "now"])
    axes.set_ylabel("weight · θ / (2i + 1)")
    axes.grid(alpha=0.2)
    _legend_beside(axes)
    return figure


def _legend_beside(axes: Axes, title: str | None = None) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title=title, title_fontsize="small")


def pictures() -> None:
    """Draw all pictures, those of errors from the committed results."""
    measured = record("concepts")
    figures = {
        "signal": signal_and_window(),
        "orders": orders(),
        "polynomials": polynomials(),
        "frequency": by_order(measured["frequency"]),
        "noise": of_noise(measured["noise"]),
        "discretizers": by_discretizer(measured["discretizers"]),
        "rows": rows(),
    }
    for name, figure in figures.items():
        path = style.IMAGES / f"concepts-{name}.svg"
        style.save(figure, path)
        print(f"wrote {path.relative_to(ROOT)}")
