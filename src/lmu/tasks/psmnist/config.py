"""Settings of a run on permuted sequential MNIST."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lmu.training.config import RunConfig
from lmu.training.settings import lies_in, positive, setting, share, within

DATA_HELP = (
    "Folder of the MNIST files, raw or gzipped. "
    "Default: data/mnist here or in a folder above, the cache, or a download."
)


@dataclass(frozen=True)
class Preset:
    """A model's hidden units, order of the memory (None: it has none), dropout, learning rate."""

    hidden_size: int
    memory_size: int | None
    dropout: float
    learning_rate: float


# Chilkuri & Eliasmith, ICML 2021 (166,092 parameters); Voelker et al., 2019 (102,027 parameters).
# The learning rate of the first was chosen among 3e-3, 5e-3 and 8e-3 on validation digits, 3 seeds.
# "deep" is not published: as many polynomials as pixels, read by layers with batch normalization.
# "lstm" and "gru" have about as many parameters as the first, 166,036 and 165,890.
PRESETS = {
    "lmufft": Preset(346, 468, 0.5, 8e-3),
    "lmu": Preset(212, 256, 0.0, 1e-3),
    "deep": Preset(512, 784, 0.5, 2e-3),
    "lstm": Preset(201, None, 0.0, 1e-3),
    "gru": Preset(232, None, 0.0, 1e-3),
}

# Options without an effect on a model; refused where a command has them.
_NO_STACK = ("layers", "hidden_noise")
_NO_MEMORY = ("memory_size", "theta", "input_dropout")
UNUSED = {
    "lmufft": _NO_STACK,
    "lmu": _NO_STACK,
    "deep": (),
    "lstm": _NO_MEMORY + _NO_STACK,
    "gru": _NO_MEMORY + _NO_STACK,
}


def _theta_rule(value: Any) -> str | None:
    # Sequences have 784 steps: a longer window holds nothing more.
    return positive(value) or lies_in(1, 1e6, "1 to 1e6 pixels")(value)


_noise = lies_in(0, 1_000, "0 to 1,000")  # of pixels in [0, 1], and of normalized numbers


@dataclass(frozen=True, kw_only=True)
class PsMNISTConfig(RunConfig):
    """Settings of a run on permuted sequential MNIST, in addition to those of every run.

    Sizes, dropout and rates that are None take the values of the published model.

    Raises:
        ConfigError: A setting is out of range.
    """

    model: str = setting(
        "lmufft",
        "lmufft, lmu: published. deep: not published. lstm, gru: for comparison.",
        choices=tuple(PRESETS),
        section="model",
    )
    hidden_size: int | None = setting(
        None,
        "Hidden units. Default: 346 (lmufft), 212 (lmu), 512 (deep), ...",
        within(1, 100_000),
        section="model",
    )
    memory_size: int | None = setting(
        None,
        "Order of the memory. Default: 468 (lmufft), 256 (lmu), 784 (deep).",
        within(1, 2_000),
        section="model",
    )
    layers: int = setting(2, "Hidden layers of deep.", within(1, 1_000), section="model")
    theta: float = setting(784.0, "Length of the window in pixels.", _theta_rule, section="model")
    dropout: float | None = setting(
        None,
        "Before the classifier. Default: 0.5 (lmufft, deep), 0 (the others).",
        share,
        section="model",
    )
    input_dropout: float = setting(0.0, "Of pixels.", share, section="model")
    input_noise: float = setting(
        0.0, "Added to pixels in training: its standard deviation.", _noise, section="model"
    )
    hidden_noise: float = setting(
        0.0, "Likewise in deep, after each normalization.", _noise, section="model"
    )
    learning_rate: float = setting(
        PRESETS["lmufft"].learning_rate,
        "Of Adam. Default: 0.008 (lmufft), 0.002 (deep), 0.001.",
        positive,
        option="--lr",
        unset=True,
    )
    data: str | None = setting(None, DATA_HELP, section="data", may_change=True)
    permutation: str | None = setting(
        None, "File with the order of the 784 pixels: text, .npy or .pt.", section="data"
    )

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> "PsMNISTConfig":
        """Build settings from a command's options; the learning rate may be None."""
        if options["learning_rate"] is None:
            options = options | {"learning_rate": PRESETS[options["model"]].learning_rate}
        return cls(**options)

    def model_arguments(self) -> dict[str, Any]:
        """Return arguments of :func:`lmu.tasks.psmnist.models.build_model`, with defaults."""
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

    def shareable(self) -> dict[str, Any]:
        """Return the settings without paths of this machine."""
        settings = asdict(self)
        del settings["data"]
        if self.permutation is not None:
            settings["permutation"] = Path(self.permutation).name
        return settings
