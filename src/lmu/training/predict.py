"""Show what a trained model takes single digits for."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.text import Text
from torch import Tensor

from lmu.tasks.psmnist import PsMNIST
from lmu.training.checkpoint import BEST, LAST, load_checkpoint, resolve_checkpoint
from lmu.training.config import check_at_least, check_seed
from lmu.training.pictures import write_figure


@dataclass(frozen=True)
class Prediction:
    """A test digit and the answer to it.

    Attributes:
        index: Its number in the test part.
        image: The digit (28, 28) in [0, 1].
        label: What it is.
        answer: What the model takes it for.
        probability: Of the answer, as the model sees it.
    """

    index: int
    image: Tensor
    label: int
    answer: int
    probability: float

    @property
    def right(self) -> bool:
        """Whether the answer is right."""
        return self.answer == self.label


def predict_digits(
    checkpoint: Path, *, count: int, seed: int = 0, data: str | None = None
) -> list[Prediction]:
    """Let a checkpoint answer to randomly chosen test digits.

    Args:
        checkpoint: A checkpoint, or the folder of a run, whose chosen one is taken.
        count: How many digits; no more than there are.
        seed: Of the choice, from 0 to 2^32 - 1.
        data: Folder of the MNIST files; that of the run if None.

    Raises:
        CheckpointError: There is no such checkpoint.
        ConfigError: ``count`` or ``seed`` is out of range.
        DataError: The data are missing or damaged.
    """
    check_at_least("count", count, 1)
    check_seed(seed)
    loaded = load_checkpoint(resolve_checkpoint(checkpoint, (BEST, LAST)))
    config = loaded.config
    model = loaded.model()
    task = PsMNIST(loaded.permutation, data or config.data)
    x, y = task.test_part()
    chosen = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))[:count]
    with torch.inference_mode():
        probabilities, answers = model(x[chosen]).softmax(1).max(1)
    images = task.images(x[chosen])
    return [
        Prediction(
            int(chosen[i]), images[i], int(y[chosen[i]]), int(answers[i]), float(probabilities[i])
        )
        for i in range(len(chosen))
    ]


def render_digit(image: Tensor) -> Text:
    """A digit (28, 28) in [0, 1] for the terminal, two rows of pixels in a line of text."""
    levels = (image * 255).int().tolist()
    text = Text()
    for upper, lower in zip(levels[::2], levels[1::2], strict=True):
        for a, b in zip(upper, lower, strict=True):
            text.append("▀", style=f"rgb({a},{a},{a}) on rgb({b},{b},{b})")
        text.append("\n")
    return text


def draw_predictions(path: Path, predictions: list[Prediction]) -> None:
    """Write the digits with their answers as PNG."""
    columns = min(5, len(predictions))
    rows = math.ceil(len(predictions) / columns)
    figure = Figure(figsize=(1.8 * columns, 2.1 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes in panels:
        axes.set_axis_off()
    for axes, prediction in zip(panels, predictions, strict=False):
        axes.imshow(prediction.image.numpy(), cmap="gray", vmin=0, vmax=1)
        title = f"{prediction.answer} ({prediction.probability:.0%})"
        title += "" if prediction.right else f", is {prediction.label}"
        axes.set_title(title, color="black" if prediction.right else "red", fontsize=9)
    write_figure(path, figure)
