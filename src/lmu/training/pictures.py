"""Pictures of a run, drawn without a display."""

import io
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lmu._files import write_whole
from lmu.tasks.psmnist import PsMNIST
from lmu.theory import decode_window, discretize, impulse_response, legt


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_whole(path, content.getvalue())


def draw_curves(rows: list[dict[str, Any]]) -> Figure:
    """Loss and accuracy by epoch.

    Args:
        rows: See :class:`lmu.training.history.History`.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    for axes, name in ((left, "loss"), (right, "accuracy")):
        for part, label in (("train", "training"), ("val", "validation")):
            if f"{part}_{name}" in rows[0]:
                axes.plot(epochs, [row[f"{part}_{name}"] for row in rows], "o-", ms=3, label=label)
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def draw_confusion(confusion: Tensor) -> Figure:
    """Answers by label, mistakes shaded.

    Args:
        confusion: Counts (classes, classes), rows by label and columns by answer.
    """
    mistakes = confusion.clone().fill_diagonal_(0)
    figure = Figure(figsize=(6, 5.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(mistakes.numpy(), cmap="Reds")
    axes.set(xlabel="answer", ylabel="label", title="test digits")
    axes.set_xticks(range(len(confusion)))
    axes.set_yticks(range(len(confusion)))
    for i, j in confusion.nonzero().tolist():
        dark = mistakes[i, j] > mistakes.max() / 2
        color = "white" if dark else "black"
        axes.text(j, i, str(int(confusion[i, j])), ha="center", va="center", size=8, color=color)
    return figure


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
    """A digit, its permuted pixels, and both as the memory reconstructs them at the last pixel.

    Args:
        sequence: Permuted pixels (784, 1) in [0, 1].
        task: Knows the permutation.
        order: Order of the memory.
        theta: Length of its window, in pixels.
    """
    decoded = reconstruct(sequence[:, 0], order, theta)
    figure = Figure(figsize=(10, 5.2), layout="constrained")
    panels = figure.subplot_mosaic(
        [["digit", "permuted"], ["digit2", "window"]], width_ratios=(1, 3)
    )
    titles = ("digit", "read from the memory"), ("permuted pixels", "window of the memory")
    for row, values in enumerate((sequence[:, 0], decoded)):
        image = task.images(values[None, :, None])[0]
        picture = panels[("digit", "digit2")[row]]
        picture.imshow(image.numpy(), cmap="gray", vmin=0, vmax=1)
        picture.set(title=titles[0][row], xticks=[], yticks=[])
        line = panels[("permuted", "window")[row]]
        line.plot(values.numpy(), lw=0.6)
        line.set(title=titles[1][row], xlim=(0, len(values)), ylim=(-0.3, 1.3), ylabel="pixel")
    panels["window"].set_xlabel(f"step (order {order}, window of {theta:g} steps)")
    return figure
