"""Export of a layer's memory to NIR, the Neuromorphic Intermediate Representation.

NIR describes systems in continuous time, of linear maps, integrators and spiking neurons. The
memory is such a system; the smooth nonlinearities around it (tanh, relu) have no node in NIR, so a
layer's encoder and read-out are not exported.
"""

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmu._extras import require
from lmu._files import write_whole
from lmu.layers import LegendreMemory
from lmu.layers._base import MemoryLayer


def export_nir(layer: nn.Module, path: str | Path, *, dt: float = 1.0) -> Path:
    r"""Write the memory of a layer as a NIR graph: :math:`\dot m = A m + B u`.

    The nodes are ``input`` (u, a value for each memory channel), ``B`` and ``A`` (``nir.Linear``),
    ``memory`` (``nir.I``, an integrator) and ``output`` (m); the edge from ``A`` back to ``memory``
    closes the loop. Per channel, A is (order, order) and B (order, 1), in float64; channels are
    blocks on a diagonal. A learned window has its present length.

    An input that is constant during each step gives, at the ends of steps, exactly the states of a
    layer with ``discretizer="zoh"``; other discretizers approximate the same system.

    Only the memory is written. ``tanh`` and ``relu`` have no node in NIR: add encoder and feedback
    (``e_x``, ``e_h``, ``e_m``; ``W_u``) and read-out (``W_h``, ...) where the file is read.

    Args:
        layer: :class:`lmu.LegendreMemory`, or a layer with one: :class:`lmu.LMU`,
            :class:`lmu.LMUCell` or :class:`lmu.LMUFFT`.
        path: The file (HDF5), which is written atomically.
        dt: Seconds of a time step of the layer, as NIR counts time in seconds.

    Returns:
        The path.

    Raises:
        ImportError: The package of the extra ``nir`` is missing.
        TypeError: The layer is of another kind, such as a whole model.
        ValueError: Its discrete matrices are learned (``learn_a``, ``learn_b``), assigned or
            passed, so that there is no continuous system; or ``dt`` is not positive.

    Source: Voelker et al., NeurIPS 2019, equations 1 and 2.
    """
    require("nir", extra="nir")
    import nir
    import numpy as np

    A, B = _continuous(layer)
    if not 0 < dt < float("inf"):
        raise ValueError(f"dt must be a positive number of seconds, got {dt}")
    size, channels = B.shape
    nodes = {
        "input": nir.Input({"input": np.array([channels])}),
        "B": nir.Linear((B / dt).numpy()),
        "A": nir.Linear((A / dt).numpy()),
        "memory": nir.I(np.ones(size)),
        "output": nir.Output({"output": np.array([size])}),
    }
    edges = [
        ("input", "B"),
        ("B", "memory"),
        ("memory", "A"),
        ("A", "memory"),
        ("memory", "output"),
    ]
    content: Any = io.BytesIO()  # in memory, as HDF5 locks files
    nir.write(content, nir.NIRGraph(nodes, edges))
    write_whole(Path(path), content.getvalue())
    return Path(path)


def _continuous(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Return ``A`` and ``B`` per time step, of all channels as one system."""
    memory = layer.memory if isinstance(layer, MemoryLayer) else layer
    if not isinstance(memory, LegendreMemory):
        raise TypeError(
            f"export_nir writes the memory of an LMU, LMUCell, LMUFFT or LegendreMemory, got "
            f"{type(layer).__name__}: pass the layer of a model, such as model.layer"
        )
    if memory.learn_a or memory.learn_b:
        raise ValueError(
            "learn_a and learn_b train the discrete matrices freely, and NIR wants a continuous "
            "system: train the window instead (learn_theta=True)"
        )
    systems = memory._continuous()
    A = torch.block_diag(*(A for A, _ in systems))
    return A, torch.block_diag(*(B[:, None] for _, B in systems))
