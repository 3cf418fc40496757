"""Error of the layers against float64, also under autocast: ``python -m benchmarks.accuracy``."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from benchmarks.machine import machine
from benchmarks.measure import relative_error
from lmu import LMU, LMUFFT
from lmu._files import write_json

OUTPUT = Path(__file__).parent.parent / "results" / "accuracy.json"
LAYERS = {
    "LMU": lambda: LMU(1, 212, 468, 784),
    "LMUFFT, all outputs": lambda: LMUFFT(1, 346, 468, 784, 784),
    "LMUFFT, last output": lambda: LMUFFT(1, 346, 468, 784, 784, return_sequences=False),
}
PRECISIONS = {
    "float32": None,
    "bfloat16 autocast": torch.bfloat16,
    "float16 autocast": torch.float16,
}


@torch.no_grad()
def errors(layer: nn.Module, x: torch.Tensor) -> dict[str, dict[str, float]]:
    """Compute relative errors of the output and of the last memory state, in each precision."""
    kwargs = {"return_state": True} if isinstance(layer, LMUFFT) else {}

    def run(x: torch.Tensor) -> dict[str, torch.Tensor]:
        output, (_, m_n) = layer(x, **kwargs)
        return {"output": output, "memory": m_n}

    results = {}
    for precision, dtype in PRECISIONS.items():
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            results[precision] = run(x)
    layer.double()
    exact = run(x.double())
    return {
        precision: {key: relative_error(value, exact[key]) for key, value in result.items()}
        for precision, result in results.items()
    }


def main() -> None:
    """Measure all layers over five draws of weights and input, and keep the largest errors."""
    layers: dict[str, dict[str, dict[str, float]]] = {}
    for name, build in LAYERS.items():
        draws = []
        for seed in range(5):
            torch.manual_seed(seed)
            layer = build()
            draws.append(errors(layer, torch.rand(8, 784, 1)))
        layers[name] = {
            precision: {key: max(draw[precision][key] for draw in draws) for key in figures}
            for precision, figures in draws[0].items()
        }
    write_json(OUTPUT, {"machine": machine(), "layers": layers})
    sys.stdout.write(json.dumps(layers, indent=2) + "\n")


if __name__ == "__main__":
    main()
