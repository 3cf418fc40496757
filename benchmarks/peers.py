"""Layers of other packages, timed where they are installed.

They compute other functions, or the same with other weights: they are timed, not checked. Their
packages are imported only when a contender is built.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module, metadata
from typing import Any

import torch
from torch import nn

from benchmarks.work import LENGTH, Contender, every, incomparable, pixels

PACKAGES = ("keras-lmu", "s5-pytorch", "mamba-ssm", "mambapy")  # as pip names them
Build = Callable[[], Contender]


def status(device: str = "cpu") -> dict[str, str]:
    """Return the version of each package that takes part, or why it does not.

    KerasLMU is timed on the CPU only, because TensorFlow takes the whole memory of a GPU; mambapy
    on the GPU only ("cuda"), because it stores all its states.
    """
    words = {}
    for package in PACKAGES:
        try:
            words[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            words[package] = "not installed"
    if _takes_part(words["mamba-ssm"]) and not torch.cuda.is_available():
        words["mamba-ssm"] = "left out: it runs on CUDA only"
    if _takes_part(words["keras-lmu"]) and device == "cuda":
        words["keras-lmu"] = "left out: timed on the CPU only"
    if _takes_part(words["mambapy"]) and device != "cuda":
        words["mambapy"] = "left out: timed on the GPU only"
    return words


def _takes_part(word: str) -> bool:
    return word[0].isdigit()


def parallel(
    hidden: int, order: int, batch: int, device: str = "cpu", length: int = LENGTH
) -> dict[str, Build]:
    """Return layers that train in parallel over time, at the sizes of a case of ``LMUFFT``."""
    return _present(
        {
            "keras-lmu": (
                f"keras_lmu.LMUFeedforward {hidden}/{order}",
                partial(keras_feedforward, hidden, order, batch),
            ),
            "s5-pytorch": (
                f"s5.S5({hidden}, {order}) after a linear layer",
                partial(s5, hidden, order, batch, device, length),
            ),
            "mamba-ssm": (
                f"mamba_ssm.Mamba({hidden}) after a linear layer, on CUDA",
                partial(mamba, hidden, batch, length),
            ),
            "mambapy": (
                f"mambapy.Mamba({hidden}) after a linear layer",
                partial(plain_mamba, hidden, batch, device, length),
            ),
        },
        device,
    )


def recurrent(hidden: int, order: int, batch: int, device: str = "cpu") -> dict[str, Build]:
    """Return layers with a nonlinear recurrence, at the sizes of a case of ``LMU``."""
    build = partial(keras_recurrent, hidden, order, batch)
    return _present({"keras-lmu": (f"keras_lmu.LMU {hidden}/{order}", build)}, device)


def _present(builds: dict[str, tuple[str, Build]], device: str) -> dict[str, Build]:
    words = status(device)
    return {label: build for name, (label, build) in builds.items() if _takes_part(words[name])}


def keras_feedforward(hidden: int, order: int, batch: int) -> Contender:
    """Build KerasLMU's parallel layer, whose encoder is linear."""
    tf: Any = _tensorflow()
    layer = import_module("keras_lmu").LMUFeedforward(
        memory_d=1,
        order=order,
        theta=LENGTH,
        hidden_cell=tf.keras.layers.Dense(hidden, activation="relu"),
        input_to_hidden=True,
        use_bias=True,
        return_sequences=True,
    )
    return keras_step(tf, layer, hidden, batch)


def keras_recurrent(hidden: int, order: int, batch: int) -> Contender:
    """Build KerasLMU's layer with the feedback of :class:`lmu.LMU`."""
    tf: Any = _tensorflow()
    layer = import_module("keras_lmu").LMU(
        memory_d=1,
        order=order,
        theta=LENGTH,
        hidden_cell=tf.keras.layers.SimpleRNNCell(hidden, use_bias=False),
        hidden_to_memory=True,
        memory_to_memory=True,
        input_to_hidden=True,
        return_sequences=True,
    )
    return keras_step(tf, layer, hidden, batch)


def _tensorflow() -> Any:
    """Import TensorFlow, for the CPU and with as many threads as PyTorch."""
    tf: Any = import_module("tensorflow")
    tf.config.set_visible_devices([], "GPU")
    tf.config.threading.set_intra_op_parallelism_threads(torch.get_num_threads())
    return tf


def keras_step(tf: Any, layer: Any, hidden: int, batch: int) -> Contender:
    """Build forward and backward of all outputs from a fixed gradient, traced once."""
    x = tf.constant(pixels(batch, torch.float32).numpy())
    gradient = tf.random.stateless_normal((batch, LENGTH, hidden), seed=(0, 1))
    layer.build(x.shape)  # before tracing, as it creates tensors

    @tf.function
    def step(x: Any, gradient: Any) -> Any:
        with tf.GradientTape() as tape:
            output = layer(x, training=True)
        return output, tape.gradient(output, layer.trainable_weights, output_gradients=gradient)

    step(x, gradient)  # traces before it is timed
    return Contender(lambda: step(x, gradient))


class Widened(nn.Module):
    """A layer as wide as its input, after a linear layer that widens this."""

    def __init__(self, width: int, layer: nn.Module) -> None:
        super().__init__()
        self.widen = nn.Linear(1, width)
        self.layer = layer

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        """Return all outputs, (batch, time, width)."""
        return (self.layer(self.widen(x)),)


def _step(layer: nn.Module, hidden: int, batch: int, device: str, length: int) -> Contender:
    widened = Widened(hidden, layer).to(device)
    return incomparable(lambda: widened, every, batch, length)


def s5(hidden: int, order: int, batch: int, device: str, length: int) -> Contender:
    """Build one S5 layer with a state as large as the LMU's memory."""
    return _step(import_module("s5").S5(hidden, order), hidden, batch, device, length)


def mamba(hidden: int, batch: int, length: int) -> Contender:
    """Build one Mamba block with its authors' sizes, on the GPU."""
    layer = import_module("mamba_ssm").Mamba(d_model=hidden)
    return _step(layer, hidden, batch, "cuda", length)


def plain_mamba(hidden: int, batch: int, device: str, length: int) -> Contender:
    """Build one Mamba block of PyTorch's operations, by a parallel scan."""
    package = import_module("mambapy.mamba")
    layer = package.Mamba(package.MambaConfig(d_model=hidden, n_layers=1))
    return _step(layer, hidden, batch, device, length)
