"""Recipes: the settings, data set and model of a task, put together for training."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from torch import nn

from lmu.training.config import RunConfig
from lmu.training.data import DataSet

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from typing_extensions import Self


class Recipe(ABC):
    """A task with its settings; ``data`` and ``build_model`` are what it must have.

    Attributes:
        task: Name of the task, as ``lmu train`` has it; written into checkpoints.
        config_type: Class of its settings.
        config: The settings.
    """

    task: ClassVar[str]
    config_type: ClassVar[type[RunConfig]]
    config: Any  # of config_type

    @classmethod
    @abstractmethod
    def of(cls, config: Any) -> "Self":
        """The recipe of settings.

        Raises:
            ConfigError: A file that they name cannot be read.
        """

    @classmethod
    def restore(cls, config: Any, entry: dict[str, Any]) -> "Self":
        """The recipe of a checkpoint: its settings and what :meth:`entry` wrote.

        Raises:
            KeyError: Something is missing.
            ValueError: Something is wrong; the message begins with what.
        """
        return cls.of(config)

    def entry(self) -> dict[str, Any]:
        """Content of checkpoints beside the settings."""
        return {}

    @property
    @abstractmethod
    def data(self) -> DataSet:
        """The data set."""

    @property
    def input_noise(self) -> float:
        """Standard deviation of what is added to inputs in training."""
        return 0.0

    @abstractmethod
    def build_model(self) -> nn.Module:
        """The model, with fresh weights.

        Raises:
            ConfigError: The settings do not make a model.
        """

    def check(self) -> None:  # noqa: B027
        """Refuse what cannot be trained here, before anything is made.

        Raises:
            ConfigError: The message says why.
        """

    @property
    def title(self) -> str:
        """Title of pictures."""
        return self.task

    def settings(self) -> dict[str, Any]:
        """The settings for ``metrics.json``, without paths of this machine."""
        return self.config.shareable()

    def figures(self) -> dict[str, "Figure"]:
        """Pictures of the task beside those of every run, by the name of their file."""
        return {}


R = TypeVar("R", bound=Recipe)
