"""Picture of a digit and of the memory's window."""

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lmu._arguments import checked, number, tensor, whole
from lmu.tasks.psmnist.data import PsMNIST
from lmu.theory import decode_window, discretize, impulse_response, legt


@checked(sequence=tensor("time", filled=True), order=whole(1), theta=number(above=0))
def reconstruct(sequence: Tensor, order: int, theta: float) -> Tensor:
    """Decode the window of a Legendre memory at the end of a sequence.

    Args:
        sequence: Input (time,).
        order: Order of the memory.
        theta: Length of its window, in steps.

    Returns:
        The decoded input (time,) in float64; NaN before the window.
    """
    steps = len(sequence)
    H = impulse_response(*discretize(*legt(order, theta)), steps)
    m = H.flip(1) @ sequence.to(H)
    # The hold delays by half a step: the input k steps ago is at (k + 1/2) / theta.
    r = (torch.arange(steps, dtype=H.dtype).flip(0) + 0.5) / theta
    mask = r <= 1
    decoded = torch.full((steps,), torch.nan, dtype=H.dtype)
    decoded[mask] = decode_window(m, r[mask])
    return decoded


def draw_window(sequence: Tensor, task: PsMNIST, order: int, theta: float) -> Figure:
    """Draw a digit and its permuted pixels, and both as decoded from the memory at the last pixel.

    Args:
        sequence: Permuted pixels (784, 1) in [0, 1].
        task: The data set, for its permutation.
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
