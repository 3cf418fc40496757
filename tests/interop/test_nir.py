"""NIR files, read back and integrated, against the layers' memory."""

from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import nn

from lmu import LMU, LMUFFT, LMUCell
from lmu.interop.nir import export_nir
from lmu.models import SequenceClassifier

F64 = torch.float64


def integrate(graph: Any, u: np.ndarray, step: float, parts: int) -> np.ndarray:
    """The integrator's states at the ends of steps, by the classical Runge-Kutta method.

    Follows the edges of the graph: what flows into a node is the sum of what its sources give.
    u (time, channels) is held for ``step`` seconds each, which are cut in ``parts``.
    """
    v = np.zeros(graph.nodes["memory"].output_type["output"])

    def value(name: str, held: np.ndarray, v: np.ndarray) -> np.ndarray:
        node = graph.nodes[name]
        if isinstance(node, nir.Input):
            return held
        return v if isinstance(node, nir.I) else node.weight @ flow(name, held, v)

    def flow(name: str, held: np.ndarray, v: np.ndarray) -> np.ndarray:
        return np.sum([value(a, held, v) for a, b in graph.edges if b == name], axis=0)

    h, states = step / parts, []
    for held in u:
        for _ in range(parts):
            slopes = []
            for at in (0.0, 0.5, 0.5, 1.0):
                point = v + at * h * slopes[-1] if slopes else v
                slopes.append(graph.nodes["memory"].r * flow("memory", held, point))
            a, b, c, d = slopes
            v = v + h / 6 * (a + 2 * b + 2 * c + d)
        states.append(v)
    return np.stack(states)


@pytest.mark.parametrize("dt", [1.0, 0.01])
@pytest.mark.parametrize(
    "layer",
    [
        LMUFFT(2, 5, 6, None, 12.0, dtype=F64, encoder_activation=None, encode_input=False,
               memory_channels=2),
        LMUFFT(2, 5, 6, None, (12.0, 5.0), dtype=F64, encoder_activation=None, encode_input=False,
               memory_channels=2),
        LMUFFT(1, 5, 6, None, 12.0, dtype=F64, encoder_activation=None, encode_input=False,
               learn_theta=True),
    ],
    ids=["channels", "thetas", "learned"],
)  # fmt: skip
def test_integrated_graph_is_the_memory(layer: LMUFFT, dt: float, tmp_path: Path) -> None:
    if layer.learn_theta:
        with torch.no_grad():
            layer.memory.log_theta.fill_(np.log(9.0))
    graph = nir.read(export_nir(layer, tmp_path / "memory.nir", dt=dt))
    assert isinstance(graph.nodes["memory"], nir.I)
    assert ("A", "memory") in graph.edges
    u = torch.randn(25, layer.memory_channels, dtype=F64)
    got = torch.from_numpy(integrate(graph, u.numpy(), dt, 200))
    with torch.no_grad():
        for length in (1, 7, 25):
            _, (_, m) = layer(u[None, :length], return_state=True)
            torch.testing.assert_close(got[length - 1], m[0], rtol=0, atol=1e-8)


@pytest.mark.parametrize("layer", [LMU(3, 4, 6, 12.0), LMUCell(3, 4, 6, 12.0)], ids=["LMU", "cell"])
def test_nonlinear_layers_have_the_same_memory(layer: nn.Module, tmp_path: Path) -> None:
    graph: Any = nir.read(export_nir(layer, tmp_path / "a.nir"))
    other: Any = nir.read(export_nir(LMUFFT(3, 4, 6, None, 12.0), tmp_path / "b.nir"))
    for name in ("A", "B"):
        assert np.array_equal(graph.nodes[name].weight, other.nodes[name].weight)
    assert graph.nodes["B"].weight.shape == (6, 1)


def test_what_nir_cannot_say(tmp_path: Path) -> None:
    path = tmp_path / "memory.nir"
    with pytest.raises(TypeError, match=r"got SequenceClassifier: pass .* model\.layer"):
        export_nir(SequenceClassifier(LMU(1, 2, 3, 4.0), 2), path)
    for layer in (LMU(1, 2, 3, 4.0, learn_a=True), LMU(1, 2, 3, 4.0, learn_b=True)):
        with pytest.raises(ValueError, match="learn_theta=True"):
            export_nir(layer, path)
    for dt in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="dt must be a positive number"):
            export_nir(LMU(1, 2, 3, 4.0), path, dt=dt)
    assert not path.exists()


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmu._extras.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "nir>='):
        export_nir(LMU(1, 2, 3, 4.0), tmp_path / "memory.nir")
