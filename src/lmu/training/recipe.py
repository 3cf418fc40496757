"""Recipe: the settings, data set and model of a task."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from torch import nn

from lmu.training.config import RunConfig
from lmu.training.data import DataSet

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from typing_extensions import Self


class Recipe(ABC):
    """A task with its settings; it must define ``data`` and ``build_model``.

    Attributes:
        task: Name of the task, as in ``lmu train``; written into checkpoints.
        config_type: Class of its settings.
        config: The settings.
    """

    task: ClassVar[str]
    config_type: ClassVar[type[RunConfig]]
    config: Any  # of config_type

    @classmethod
    @abstractmethod
    def of(cls, config: Any) -> "Self":
        """Build the recipe from settings.

        Raises:
            ConfigError: A file that they name cannot be read.
        """

    @classmethod
    def restore(cls, config: Any, entry: dict[str, Any]) -> "Self":
        """Build the recipe of a checkpoint from its settings and the result of :meth:`entry`.

        Raises:
            KeyError: An entry is missing.
            ValueError: An entry is wrong; the message begins with its name.
        """
        return cls.of(config)

    def entry(self) -> dict[str, Any]:
        """Return the content of checkpoints besides the settings."""
        return {}

    @property
    @abstractmethod
    def data(self) -> DataSet:
        """The data set."""

    @property
    def input_noise(self) -> float:
        """Standard deviation of noise added to inputs in training."""
        return 0.0

    @abstractmethod
    def build_model(self) -> nn.Module:
        """Build the model, with initial weights.

        Raises:
            ConfigError: The settings do not make a model.
        """

    def check(self) -> None:  # noqa: B027
        """Refuse settings that cannot be trained on this machine, before anything is made.

        Raises:
            ConfigError: The message says why.
        """

    @property
    def title(self) -> str:
        """Title of pictures."""
        return self.task

    def settings(self) -> dict[str, Any]:
        """Return the settings for ``metrics.json``, without paths of this machine."""
        return self.config.shareable()

    def figures(self) -> dict[str, "Figure"]:
        """Draw the task's own pictures, by the names of their files."""
        return {}


R = TypeVar("R", bound=Recipe)
