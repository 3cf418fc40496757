"""Pictures of a run, drawn without a display."""

import io
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from lmu._arguments import checked, number, tensor, whole
from lmu._files import write_whole
from lmu.tasks.psmnist import PsMNIST
from lmu.theory import decode_window, discretize, impulse_response, legt


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_whole(path, content.getvalue())


def draw_curves(rows: list[dict[str, Any]], *, chosen: int, title: str) -> Figure:
    """Loss and accuracy by epoch, the tested one marked.

    Args:
        rows: See :class:`lmu.training.history.History`.
        chosen: The epoch whose weights were tested, from 1.
        title: What was trained.
    """
    figure = Figure(figsize=(9, 3.9), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    for axes, name in ((left, "loss"), (right, "accuracy")):
        for part, label in (("train", "training"), ("val", "validation")):
            if f"{part}_{name}" in rows[0]:
                axes.plot(epochs, [row[f"{part}_{name}"] for row in rows], "o-", ms=3, label=label)
        axes.axvline(chosen, color="gray", ls="--", lw=1, label=f"tested: epoch {chosen}")
        axes.set(xlabel="epoch", ylabel=name, title=f"{name} by epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    right.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def draw_confusion(confusion: Tensor) -> Figure:
    """Answers by label: right ones in green, mistakes in red, each on a scale of its own.

    Args:
        confusion: Counts (classes, classes), rows by label and columns by answer.
    """
    classes = len(confusion)
    right = torch.eye(classes, dtype=torch.bool)
    figure = Figure(figsize=(7.6, 5.8), layout="constrained")
    axes = figure.subplots()
    dark = torch.zeros(classes, classes, dtype=torch.bool)
    for cells, colors, label in ((right, "Greens", "right answers"), (~right, "Reds", "mistakes")):
        most = max(1, int(confusion[cells].max()))
        shown = confusion.double().masked_fill(~cells, torch.nan).numpy()  # nan is left blank
        drawn = axes.imshow(shown, cmap=colors, vmin=0, vmax=most)
        bar = figure.colorbar(drawn, ax=axes, label=label, shrink=0.8, pad=0.02)
        bar.locator = MaxNLocator(integer=True)
        bar.update_ticks()
        dark |= cells & (confusion > most / 2)
    total, count = int(confusion.sum()), int(confusion.trace())
    axes.set(xlabel="answer", ylabel="label", title=f"test digits: {count:,} of {total:,} right")
    axes.set_xticks(range(classes))
    axes.set_yticks(range(classes))
    for i, j in confusion.nonzero().tolist():
        color = "white" if dark[i, j] else "black"
        axes.text(j, i, str(int(confusion[i, j])), ha="center", va="center", size=8, color=color)
    return figure


@checked(sequence=tensor("time", filled=True), order=whole(1), theta=number(above=0))
def reconstruct(sequence: Tensor, order: int, theta: float) -> Tensor:
    """What the state of a bare Legendre memory still tells of the sequence it has read.

    Args:
        sequence: Input (time,).
        order: Order of the memory.
        theta: Length of its window, in steps.

    Returns:
        The decoded input (time,) in float64; NaN where the window does not reach.
    """
    steps = len(sequence)
    H = impulse_response(*discretize(*legt(order, theta)), steps)
    m = H.flip(1) @ sequence.to(H)
    # The hold delays by half a step: the input k steps ago is found at (k + 1/2) / theta.
    r = (torch.arange(steps, dtype=H.dtype).flip(0) + 0.5) / theta
    inside = r <= 1
    decoded = torch.full((steps,), torch.nan, dtype=H.dtype)
    decoded[inside] = decode_window(m, r[inside])
    return decoded


def draw_window(sequence: Tensor, task: PsMNIST, order: int, theta: float) -> Figure:
    """A digit and its permuted pixels, with both as the memory holds them at the last pixel.

    Args:
        sequence: Permuted pixels (784, 1) in [0, 1].
        task: Knows the permutation.
        order: Order of the memory.
        theta: Length of its window, in pixels.
    """
    decoded = reconstruct(sequence[:, 0], order, theta)
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    figure.suptitle(f"a memory of order {order} and a window of {theta:g} steps, at the last pixel")
    panels = figure.subplot_mosaic(
        [["digit", "all"], ["read from the memory", "end"]], width_ratios=(1, 3)
    )
    for title, values in (("digit", sequence[:, 0]), ("read from the memory", decoded)):
        image = task.images(values[None, :, None])[0]
        panels[title].imshow(image.numpy(), cmap="gray", vmin=0, vmax=1)
        panels[title].set(title=title, xticks=[], yticks=[])
    steps = torch.arange(len(decoded))
    for name, shown, marker in (("all", len(decoded), ""), ("end", 100, ".")):
        axes, x = panels[name], steps[-shown:]
        axes.plot(x, sequence[-shown:, 0], "0.6", marker=marker, lw=1.6, label="permuted pixels")
        axes.plot(x, decoded[-shown:], "C0", lw=0.9, label="the memory's window")
        axes.set(xlim=(int(x[0]), int(x[-1])), ylim=(-0.3, 1.3), ylabel="pixel")
    panels["all"].set_title("what it was told, and what it holds")
    panels["all"].legend(loc="upper right", ncols=2, fontsize=8)
    panels["end"].set(title="the last 100 steps", xlabel="step")
    return figure
