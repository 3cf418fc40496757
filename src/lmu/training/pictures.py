"""Pictures of a run, without a display."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from lmu._files import write_whole


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_whole(path, content.getvalue())


def draw_curves(rows: list[dict[str, Any]], *, chosen: int, title: str) -> Figure:
    """Draw loss, and accuracy or root mean square error, by epoch, with the tested one marked.

    Args:
        rows: See :class:`lmu.training.history.History`.
        chosen: The epoch whose weights were tested, from 1.
        title: Title of the figure.
    """
    figure = Figure(figsize=(9, 3.9), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    score = "accuracy" if "train_accuracy" in rows[0] else "rmse"
    for axes, name in ((left, "loss"), (right, score)):
        for part, label in (("train", "training"), ("val", "validation")):
            if f"{part}_{name}" in rows[0]:
                axes.plot(epochs, [row[f"{part}_{name}"] for row in rows], "o-", ms=3, label=label)
        axes.axvline(chosen, color="gray", ls="--", lw=1, label=f"tested: epoch {chosen}")
        axes.set(xlabel="epoch", ylabel=name, title=f"{name} by epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    if score == "accuracy":
        right.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def draw_confusion(confusion: Tensor, unit: str, names: Sequence[str] = ()) -> Figure:
    """Draw answers by label: right ones in green, mistakes in red, on separate scales.

    Args:
        confusion: Counts (classes, classes), rows by label and columns by answer.
        unit: Name of the samples.
        names: Names of the classes; their indices if empty.
    """
    classes = len(confusion)
    right = torch.eye(classes, dtype=torch.bool)
    figure = Figure(figsize=(7.6, 5.8), layout="constrained")
    axes = figure.subplots()
    dark = torch.zeros(classes, classes, dtype=torch.bool)
    for cells, colors, label in ((right, "Greens", "right answers"), (~right, "Reds", "mistakes")):
        most = max(1, int(confusion[cells].max()))
        shown = confusion.double().masked_fill(~cells, torch.nan).numpy()  # NaN stays blank
        drawn = axes.imshow(shown, cmap=colors, vmin=0, vmax=most)
        bar = figure.colorbar(drawn, ax=axes, label=label, shrink=0.8, pad=0.02)
        bar.locator = MaxNLocator(integer=True)
        bar.update_ticks()
        dark |= cells & (confusion > most / 2)
    total, count = int(confusion.sum()), int(confusion.trace())
    axes.set(xlabel="answer", ylabel="label", title=f"test {unit}: {count:,} of {total:,} right")
    labels = names or [str(i) for i in range(classes)]
    axes.set_xticks(range(classes), labels)
    axes.set_yticks(range(classes), labels)
    for i, j in confusion.nonzero().tolist():
        color = "white" if dark[i, j] else "black"
        axes.text(j, i, str(int(confusion[i, j])), ha="center", va="center", size=8, color=color)
    return figure


def draw_answers(outputs: Tensor, targets: Tensor, unit: str, names: Sequence[str] = ()) -> Figure:
    """Draw predicted against true numbers, a panel for each of at most four.

    Args:
        outputs: Predictions (samples, numbers) or (samples,).
        targets: True numbers, of the same shape.
        unit: Name of the samples.
        names: Names of the numbers; their indices if empty.
    """
    outputs, targets = (values.float().reshape(len(values), -1) for values in (outputs, targets))
    shown = min(4, outputs.shape[1])
    figure = Figure(figsize=(3.6 * shown + 0.6, 3.8), layout="constrained")
    figure.suptitle(f"test {unit}: {len(outputs):,} shown")
    for i, axes in enumerate(figure.subplots(1, shown, squeeze=False)[0]):
        truth = targets[:, i].numpy()
        axes.plot(truth, outputs[:, i].numpy(), ".", ms=3, alpha=0.5)
        axes.axline((float(truth.mean()), float(truth.mean())), slope=1, color="gray", lw=1)
        title = names[i] if i < len(names) else str(i)
        axes.set(xlabel="true", ylabel="predicted", title=title)
        axes.grid(alpha=0.3)
    return figure
