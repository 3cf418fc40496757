"""Everything that determines a run."""

import math
import numbers
import reprlib
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lmu.tasks.psmnist import PRESETS

Schedule = Literal["constant", "cosine"]
SCHEDULES: tuple[Schedule, ...] = ("constant", "cosine")

# Beyond these a number is a slip of the keyboard, which would be found out when the memory is full.
MOST = {
    "hidden_size": 100_000,
    "memory_size": 2_000,  # the sequences have 784 steps
    "layers": 1_000,
    "epochs": 1_000_000,
    "batch_size": 60_000,
    "limit": 60_000,
    "num_nodes": 10_000,
    "patience": 1_000_000,
}


class ConfigError(ValueError):
    """A setting is wrong.

    Attributes:
        setting: Its name, mostly of a field of :class:`RunConfig`; None if it may be any of those
            that are passed to Lightning.
    """

    def __init__(self, setting: str | None, message: str) -> None:
        super().__init__(message)
        self.setting = setting


@dataclass(frozen=True)
class RunConfig:
    """Settings of a run on permuted sequential MNIST.

    Attributes:
        model: ``"lmufft"`` or ``"lmu"``, the published ones, ``"deep"``, ours, or for comparison
            ``"lstm"`` or ``"gru"``.
        hidden_size: Number of hidden units; that of the published model if None.
        memory_size: Order of the memory; that of the published model if None.
        layers: Hidden layers of the deep model.
        theta: Length of the window, in pixels.
        dropout: Before the classifier, in [0, 1); 0 for lmu and 0.5 for the others if None.
        input_dropout: Of pixels, in [0, 1).
        input_noise: Standard deviation of what is added to pixels in training, at least 0.
        hidden_noise: Likewise, in the deep model after each batch normalization.
        epochs: Passes over the training part.
        max_seconds: Stop training after so much time, in the middle of an epoch if need be.
        batch_size: Digits per step, of all processes together.
        learning_rate: Of Adam.
        gradient_clip: Largest norm of the gradient, which is scaled down to it; None: any.
        weight_decay: Of matrices, decoupled from the gradient, at least 0.
        label_smoothing: Share of the target that is spread over all classes in training, in [0, 1).
        schedule: Course of the learning rate, ``"cosine"`` or ``"constant"``.
        patience: Stop after so many epochs without a better validation accuracy; 0 never stops.
        seed: Seed of weights, order of the digits and dropout, from 0 to 2^32 - 1.
        full_train: Train on all 60,000 digits and test the last epoch's weights.
        limit: Use at most so many digits of each part; all if None.
        data: Folder of the MNIST files; None looks in the usual places.
        permutation: File with the order of the pixels; None for the usual one.
        accelerator: Passed to Lightning, as are the following.
        devices: Number or list of devices, or ``"auto"``.
        num_nodes: Number of machines.
        strategy: How processes work together.
        precision: Of the arithmetic, such as ``"32-true"`` or ``"bf16-mixed"``.

    Raises:
        ConfigError: A setting is out of range.
    """

    model: str = "lmufft"
    hidden_size: int | None = None
    memory_size: int | None = None
    layers: int = 2
    theta: float = 784.0
    dropout: float | None = None
    input_dropout: float = 0.0
    input_noise: float = 0.0
    hidden_noise: float = 0.0
    epochs: int = 15
    max_seconds: float | None = None
    batch_size: int = 100
    learning_rate: float = PRESETS["lmufft"].learning_rate
    gradient_clip: float | None = None
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    schedule: Schedule = "cosine"
    patience: int = 0
    seed: int = 0
    full_train: bool = False
    limit: int | None = None
    data: str | None = None
    permutation: str | None = None
    accelerator: str = "auto"
    devices: str = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"

    def __post_init__(self) -> None:
        _check_types(self)
        _one_of("model", self.model, tuple(PRESETS))
        _one_of("schedule", self.schedule, SCHEDULES)
        for name, most in MOST.items():
            check_within(name, getattr(self, name), name != "patience", most)
        for name in ("theta", "learning_rate"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(name, f"must be a positive number, got {value}")
        if not 1 <= self.theta <= 1e6:  # of 784 steps such a window holds nothing
            raise ConfigError("theta", f"must lie in 1 to 1e6 pixels, got {self.theta}")
        for name in ("dropout", "input_dropout", "label_smoothing"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ConfigError(name, f"must lie in [0, 1), got {value}")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError("weight_decay", f"must be at least 0, got {self.weight_decay}")
        for name in ("input_noise", "hidden_noise"):
            if not 0 <= getattr(self, name) <= 1_000:  # of pixels in [0, 1], and of normal numbers
                raise ConfigError(name, f"must lie in 0 to 1,000, got {getattr(self, name)}")
        if self.gradient_clip is not None and not 0 < self.gradient_clip < math.inf:
            raise ConfigError(
                "gradient_clip", f"must be a positive number, got {self.gradient_clip}"
            )
        if self.max_seconds is not None and not 0.1 <= self.max_seconds <= 1e9:
            raise ConfigError("max_seconds", f"must lie in 0.1 to 1e9, got {self.max_seconds}")
        check_seed(self.seed)
        if self.full_train and self.patience:
            raise ConfigError(
                "patience", "early stopping needs the validation part, which --full-train gives up"
            )

    def model_arguments(self) -> dict[str, Any]:
        """Arguments of :func:`lmu.tasks.psmnist.build_model`, defaults filled in."""
        preset = PRESETS[self.model]
        return {
            "model": self.model,
            "hidden_size": preset.hidden_size if self.hidden_size is None else self.hidden_size,
            "memory_size": preset.memory_size if self.memory_size is None else self.memory_size,
            "theta": self.theta,
            "layers": self.layers,
            "dropout": preset.dropout if self.dropout is None else self.dropout,
            "input_dropout": self.input_dropout,
            "hidden_noise": self.hidden_noise,
        }


def read_config(settings: Any) -> RunConfig:
    """The settings that a file holds, whatever someone made of it.

    Raises:
        ConfigError: They are no settings, or one is unknown or out of range.
    """
    if not isinstance(settings, dict):
        raise ConfigError(None, f"must be a table of settings, got {_short(settings)}")
    unknown = settings.keys() - {field.name for field in fields(RunConfig)}
    if unknown:
        names = ", ".join(sorted(map(_short, unknown)))
        raise ConfigError(None, f"there is no setting {names}")
    return RunConfig(**settings)


def check_seed(seed: int) -> None:
    """Refuse a seed that is not in 0 to 2^32 - 1 with a :class:`ConfigError`."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ConfigError("seed", f"must lie in 0 to 2^32 - 1, got {seed}")


def check_within(name: str, value: int | None, least: int, most: int) -> None:
    """Refuse a number out of ``least`` to ``most`` with a :class:`ConfigError`; None passes."""
    if value is not None and value < least:
        raise ConfigError(name, f"must be at least {int(least)}, got {_short(value)}")
    if value is not None and value > most:
        raise ConfigError(name, f"must be at most {most:,}, got {_short(value)}")


_KINDS: dict[Any, Any] = {int: numbers.Integral, float: numbers.Real, type(None): type(None)}


def _check_types(config: RunConfig) -> None:
    """Refuse what is not of a setting's type, and integers too large for a float."""
    for name, hint in get_type_hints(RunConfig).items():
        value = getattr(config, name)
        kinds = [str] if get_origin(hint) is Literal else get_args(hint) or [hint]
        right = any(isinstance(value, _KINDS.get(kind, kind)) for kind in kinds)
        if not right or (isinstance(value, bool) and bool not in kinds):
            names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
            wanted = " or ".join(names.get(kind, "none") for kind in kinds)
            raise ConfigError(name, f"must be {wanted}, got {_short(value)}")
        if float in kinds and isinstance(value, numbers.Integral) and abs(value) >= 2**31:
            raise ConfigError(name, f"must be less than 2^31, got {_short(value)}")


def _short(value: Any) -> str:
    return reprlib.repr(value)


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(name, f"must be one of {', '.join(choices)}, got {value!r}")
