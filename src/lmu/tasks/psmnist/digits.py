"""Pictures of a trained model's answers to single digits."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.text import Text
from torch import Tensor

from lmu._arguments import instance
from lmu._extras import require
from lmu.tasks.psmnist.recipe import load_classifier
from lmu.training.settings import check, seed_rule, within

MOST = 10_000  # test digits
MOST_DRAWN = 100  # digits of a picture: Matplotlib takes some 20 ms for each
_BATCH = 100  # LMU's outputs at all steps of all digits would fill the memory
_SHADES = " .:-=+*#%@"


@dataclass(frozen=True)
class Prediction:
    """A test digit and the answer to it.

    Attributes:
        index: Its number in the test part.
        image: The digit (28, 28) in [0, 1].
        label: Its class.
        answer: The class that the model predicts.
        probability: Probability of the answer by the model.
    """

    index: int
    image: Tensor
    label: int
    answer: int
    probability: float

    @property
    def right(self) -> bool:
        """True if the answer is right."""
        return self.answer == self.label


def predict_digits(
    checkpoint: Path, *, count: int, seed: int = 0, data: str | None = None
) -> list[Prediction]:
    """Predict randomly chosen test digits by a checkpoint.

    Args:
        checkpoint: A checkpoint, or the folder of a run, which stands for its tested one.
        count: Number of digits, at most 10,000.
        seed: Seed of the choice, from 0 to 2^32 - 1.
        data: Folder of the MNIST files; that of the run if None.

    Raises:
        CheckpointError: There is no such checkpoint.
        ConfigError: ``count`` or ``seed`` is out of range.
        DataError: The data are missing or damaged.
    """
    instance(int)("count", count)
    check("count", count, within(1, MOST))
    check("seed", seed, seed_rule)
    loaded = load_classifier(checkpoint)
    digits = replace(loaded.recipe.data, data=data or loaded.recipe.config.data, limit=None)
    model, (x, y) = loaded.model(), digits.test_part()
    chosen = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))[:count]
    with torch.inference_mode():
        logits = torch.cat([model(x[part]) for part in chosen.split(_BATCH)])
    probabilities, answers = logits.softmax(1).max(1)
    images = digits.images(x[chosen])
    return [
        Prediction(
            int(chosen[i]), images[i], int(y[chosen[i]]), int(answers[i]), float(probabilities[i])
        )
        for i in range(len(chosen))
    ]


def render_digit(image: Tensor, *, colors: bool) -> Text:
    """Render a digit (28, 28) in [0, 1] for the terminal, two rows of pixels in a line of text.

    Args:
        image: The digit.
        colors: Draw half blocks in greys; else a character as dark as the mean of two pixels.
    """
    lines = [
        _in_colors(*rows) if colors else _in_shades(*rows)
        for rows in zip(image[::2].tolist(), image[1::2].tolist(), strict=True)
    ]
    return Text("\n").join(lines)


def _in_colors(upper: list[float], lower: list[float]) -> Text:
    text = Text()
    for pair in zip(upper, lower, strict=True):
        a, b = (int(255 * value) for value in pair)
        text.append("▀", style=f"rgb({a},{a},{a}) on rgb({b},{b},{b})")
    return text


def _in_shades(upper: list[float], lower: list[float]) -> Text:
    means = [(a + b) / 2 for a, b in zip(upper, lower, strict=True)]
    last = len(_SHADES) - 1
    # Rounded up, so that thin strokes stay visible.
    return Text("".join(_SHADES[min(last, math.ceil(last * mean))] for mean in means))


def draw_predictions(path: Path, predictions: list[Prediction]) -> None:
    """Write the digits with their answers as PNG.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    require("matplotlib", extra="train")
    from matplotlib.figure import Figure

    from lmu.training.pictures import write_figure

    columns = min(5, len(predictions))
    rows = math.ceil(len(predictions) / columns)
    figure = Figure(figsize=(1.8 * columns, 2.1 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes in panels:
        axes.set_axis_off()
    for axes, prediction in zip(panels, predictions, strict=False):
        axes.imshow(prediction.image.numpy(), cmap="gray", vmin=0, vmax=1)
        title = f"{prediction.answer} ({prediction.probability:.0%})"
        title += "" if prediction.right else f", is {prediction.label}"
        axes.set_title(title, color="black" if prediction.right else "red", fontsize=9)
    write_figure(path, figure)
