"""Settings of every run."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from lmu.training.settings import (
    ConfigError,
    check_settings,
    lies_in,
    not_negative,
    positive,
    seed_rule,
    setting,
    share,
    within,
)

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SCHEDULES", "ConfigError", "RunConfig", "Schedule"]

Schedule = Literal["constant", "cosine"]
SCHEDULES: tuple[Schedule, ...] = ("constant", "cosine")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Settings of a run; a task adds those of its model and data.

    The options of ``lmu train`` are made of the fields and their help texts.

    Raises:
        ConfigError: A setting is out of range.
    """

    epochs: int = setting(15, "Passes over the training part.", within(1, 1_000_000))
    max_seconds: float | None = setting(
        None,
        "Seconds after which training stops, whatever --epochs says.",
        lies_in(0.1, 1e9, "0.1 to 1e9"),
    )
    batch_size: int = setting(
        100, "Samples per step, of all processes together.", within(1, 1_000_000)
    )
    learning_rate: float = setting(1e-3, "Of Adam.", positive, option="--lr")
    gradient_clip: float | None = setting(
        None, "Largest norm of the gradient. Default: any.", positive
    )
    weight_decay: float = setting(0.0, "Of matrices, as in AdamW.", not_negative)
    label_smoothing: float = setting(0.0, "Of the training loss.", share)
    schedule: Schedule = setting("cosine", "Course of the learning rate.", choices=SCHEDULES)
    patience: int = setting(
        0, "Epochs without improvement after which to stop; 0: never.", within(0, 1_000_000)
    )
    seed: int = setting(0, "Seed of everything random.", seed_rule)
    full_train: bool = setting(
        False,
        "Train on all training samples, without validation, and test the last epoch's weights.",
        section="data",
    )
    limit: int | None = setting(
        None,
        "Most samples of each part, for a quick trial.",
        within(1, 1_000_000_000),
        section="data",
    )
    accelerator: str = setting(
        "auto",
        "auto, cpu, gpu, ...",
        section="place",
        may_change=True,
        known=("auto", "cpu", "gpu", "cuda", "mps", "tpu"),
    )
    devices: str = setting(
        "auto",
        "How many, or which (0,1), per machine.",
        section="place",
        may_change=True,
        known=("auto",),
    )
    num_nodes: int = setting(
        1, "Number of machines.", within(1, 10_000), section="place", may_change=True, known=()
    )
    strategy: str = setting(
        "auto",
        "How processes work together.",
        section="place",
        may_change=True,
        known=("auto", "ddp", "ddp_spawn", "fsdp", "deepspeed"),
    )
    precision: str = setting(
        "32-true",
        "32-true, bf16-mixed, ...",
        section="place",
        known=("32-true", "16-mixed", "bf16-mixed", "64-true", "16-true", "bf16-true"),
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.full_train and self.patience:
            raise ConfigError(
                "patience", "early stopping needs the validation part, which --full-train gives up"
            )

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> "Self":
        """Build settings from a command's options; those without a default may be None."""
        return cls(**options)

    def changed(self, changes: dict[str, Any]) -> "Self":
        """Return the settings with some replaced; None leaves one as it is.

        Raises:
            ConfigError: A change is out of range.
        """
        new = {name: value for name, value in changes.items() if value is not None}
        return type(self)(**(asdict(self) | new))

    def shareable(self) -> dict[str, Any]:
        """Return the settings without paths of this machine."""
        return asdict(self)
