"""Tracing of a graph for any batch size and any length."""

import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from lmu.interop._graph import build_graph
from lmu.interop._layers import take_apart
from lmu.interop._loops import Loop

Shape = tuple[str, ...]

# Unusual numbers: PyTorch would take equal sizes of the traced example for one.
_BATCH, _LENGTH = 7, 97


def trace(
    model: nn.Module, form: str, loop: Loop, device: torch.device | str | None = None
) -> ExportedProgram:
    """Trace a model's step or sequence with ``torch.export``; batch and time stay variable.

    The graph is made for ``device``, or for the model's if None.

    Raises:
        ImportError: PyTorch is too old.
        TypeError: The model is of a kind that cannot be exported.
        ValueError: The form is unknown, or the layer's hidden cell cannot be exported.
    """
    if not can_export():
        raise ImportError(
            f"PyTorch {torch.__version__} cannot export a model whose batch and time are variable: "
            "upgrade it (pip install -U torch)"
        )
    graph = build_graph(model, form, loop)
    device = graph.parts.layer._like().device if device is None else device
    inputs, _ = signature(model, form)
    sizes = {"batch": _BATCH, "time": _LENGTH}
    example = {
        name: torch.zeros([sizes.get(axis) or int(axis) for axis in shape], dtype=graph.parts.dtype)
        for name, shape in inputs.items()
    }
    axes = {name: Dim(name, min=1) for name in sizes}
    with torch.no_grad():
        return torch.export.export(
            graph.to(device),
            (),
            {name: value.to(device) for name, value in example.items()},
            dynamic_shapes={
                name: {i: axes[axis] for i, axis in enumerate(shape) if axis in axes}
                for name, shape in inputs.items()
            },
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def can_export() -> bool:
    """True if this PyTorch exports graphs of variable sizes; 2.6 does not."""
    arguments = inspect.signature(torch.export.export).parameters
    return "prefer_deferred_runtime_asserts_over_guards" in arguments


def signature(model: nn.Module, form: str) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """Return inputs and outputs of a model's graph; axes are numbers, ``"batch"`` or ``"time"``."""
    parts = take_apart(model)
    layer = parts.layer
    time = ("time",) if form == "sequence" else ()
    h = ("batch", str(layer.hidden_size))
    m = ("batch", str(layer.memory_channels * layer.memory_size))
    y = ("batch", *(() if parts.last_only else time), h[1])
    if "W_y" in parts.weights:
        y = ("batch", str(parts.weights["W_y"].shape[1]))
    x = {"x": ("batch", *time, str(layer.input_size))}
    return x if time else x | {"h": h, "m": m}, {"y": y, "h_n": h, "m_n": m}


@contextmanager
def quiet() -> Iterator[None]:
    """Silence notes inside PyTorch's exporters, on deprecations and absent packages."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript", "root")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*treespec, LeafSpec", FutureWarning)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
