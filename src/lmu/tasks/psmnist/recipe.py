"""Recipe of permuted sequential MNIST for ``lmu.training``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lmu.models import SequenceClassifier
from lmu.tasks.psmnist.config import PsMNISTConfig
from lmu.tasks.psmnist.data import (
    PsMNIST,
    check_permutation,
    default_permutation,
    load_permutation,
)
from lmu.tasks.psmnist.models import build_model
from lmu.tasks.psmnist.room import check_room
from lmu.training.recipe import Recipe
from lmu.training.saved import LoadedCheckpoint, load_chosen
from lmu.training.settings import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class PsMNISTRecipe(Recipe):
    """Settings and the order of the pixels (784,)."""

    task = "psmnist"
    config_type = PsMNISTConfig

    config: PsMNISTConfig
    permutation: Tensor

    @classmethod
    def of(cls, config: PsMNISTConfig) -> "PsMNISTRecipe":
        """Build the recipe with the order in the file that the settings name, or the usual one."""
        if config.permutation is None:
            return cls(config, default_permutation())
        try:
            return cls(config, load_permutation(config.permutation))
        except ValueError as error:
            raise ConfigError("permutation", str(error)) from error

    @classmethod
    def restore(cls, config: PsMNISTConfig, entry: dict[str, Any]) -> "PsMNISTRecipe":
        """Build the recipe with the order in a checkpoint: the file may be gone."""
        permutation = entry["permutation"]
        try:
            return cls(config, check_permutation(permutation))
        except ValueError as error:
            raise ValueError(f"a wrong order of pixels: {error}") from error

    def entry(self) -> dict[str, Any]:
        """Return the order of the pixels, for checkpoints."""
        return {"permutation": self.permutation}

    @property
    def data(self) -> PsMNIST:
        """Data set of the digits."""
        config = self.config
        return PsMNIST(self.permutation, config.data, config.full_train, config.limit)

    @property
    def input_noise(self) -> float:
        """Standard deviation of the noise on pixels."""
        return self.config.input_noise

    def build_model(self) -> SequenceClassifier:
        """Build the model with initial weights."""
        try:
            return build_model(**self.config.model_arguments())
        except (ValueError, RuntimeError) as error:  # RuntimeError: out of memory
            raise ConfigError("model", str(error)) from error

    def check(self) -> None:
        """Refuse a model or batch that needs more memory than the machine has."""
        check_room(self.config)

    @property
    def title(self) -> str:
        """The model and the task."""
        return f"{self.config.model} on permuted MNIST"

    def settings(self) -> dict[str, Any]:
        """Return the settings with the model's defaults."""
        return self.config.shareable() | self.config.model_arguments()

    def figures(self) -> "dict[str, Figure]":
        """Draw a digit and its decoded window, if the model has a memory."""
        from lmu.tasks.psmnist.figures import draw_window

        arguments, data = self.config.model_arguments(), self.data
        if arguments["memory_size"] is None:
            return {}
        x, _ = data.test_part()
        window = draw_window(x[0], data, arguments["memory_size"], arguments["theta"])
        return {"window.png": window}


def load_classifier(checkpoint: Path) -> LoadedCheckpoint[PsMNISTRecipe]:
    """Load a checkpoint, or the tested one of a run's folder; its ``model()`` is the classifier.

    Raises:
        CheckpointError: There is no such checkpoint, it is damaged, or something else wrote it.
    """
    return load_chosen(checkpoint, PsMNISTRecipe)
