"""Compare exported models with the layers in latency, size and accuracy.

``python -m benchmarks.export``.

A step at batch 1 and a whole sequence are timed in turns, on one thread. The psMNIST classifier of
each ``--checkpoint``, or one that is trained here for five epochs, goes through the exported
streaming step, exact and in int8, with all 10,000 test digits.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor

from benchmarks.machine import machine
from benchmarks.measure import relative_error, spread, take_turns
from lmu import LMU, LMUFFT, Stream
from lmu._files import write_json
from lmu.interop.aoti import export_aoti
from lmu.interop.onnx import export_onnx, quantize_onnx
from lmu.tasks.psmnist.config import PsMNISTConfig
from lmu.tasks.psmnist.recipe import load_classifier
from lmu.tasks.psmnist.run import train

OUTPUT = Path(__file__).parent.parent / "results" / "export.json"
LAYERS: dict[str, Callable[[], Any]] = {
    "LMU 64/64": lambda: LMU(1, 64, 64, 100),
    "LMU 212/256": lambda: LMU(1, 212, 256, 784),
    "LMUFFT 64/64": lambda: LMUFFT(1, 64, 64, 100, 100),
    "LMUFFT 346/468": lambda: LMUFFT(1, 346, 468, 784, 784),
}
Work = Callable[[], object]


def interleave(works: dict[str, Work], rounds: int) -> dict[str, dict[str, float]]:
    """Measure median, fastest and slowest time of each work, in turns."""
    return {key: spread(times) for key, times in take_turns(works, rounds).items()}


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Open a session on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


def run(session: Any, inputs: dict[str, np.ndarray]) -> list[Any]:
    """Return the outputs for some inputs."""
    return session.run(None, inputs)


def zeros(layer: Any, batch: int) -> dict[str, np.ndarray]:
    """Return the state before the first step."""
    sizes = {"h": layer.hidden_size, "m": layer.memory_channels * layer.memory_size}
    return {name: np.zeros((batch, size), np.float32) for name, size in sizes.items()}


def session_step(path: Path, layer: Any) -> Work:
    """Build a step by ``session.run``, NumPy in and out."""
    session, state = open_session(path), zeros(layer, 1)
    x = np.random.default_rng(0).random((1, 1), np.float32)

    def work() -> None:
        _, state["h"], state["m"] = run(session, {"x": x, **state})

    return work


def bound_step(path: Path, layer: Any) -> Work:
    """Build a step whose arrays are bound in advance; the state alternates between two buffers."""
    session = open_session(path)
    values = [
        {k: onnxruntime.OrtValue.ortvalue_from_numpy(v) for k, v in zeros(layer, 1).items()}
        for _ in range(2)
    ]
    x = onnxruntime.OrtValue.ortvalue_from_numpy(np.full((1, 1), 0.5, np.float32))
    bindings = []
    for before, after in (values, values[::-1]):
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", x)
        binding.bind_output("y", "cpu")
        for name in ("h", "m"):
            binding.bind_ortvalue_input(name, before[name])
            binding.bind_ortvalue_output(f"{name}_n", after[name])
        bindings.append(binding)

    def work() -> None:
        session.run_with_iobinding(bindings[0])
        bindings.reverse()

    return work


def package_step(path: Path, layer: Any) -> Work:
    """Build a step by a compiled package, tensors in and out."""
    compiled, x = torch._inductor.aoti_load_package(str(path)), torch.rand(1, 1)
    state = {name: torch.from_numpy(value) for name, value in zeros(layer, 1).items()}

    def work() -> None:
        _, state["h"], state["m"] = compiled(x=x, **state)

    return work


def eager_step(layer: Any) -> Work:
    """Build a step by ``layer.step``."""
    x, state = torch.rand(1, 1), [None]

    def work() -> None:
        with torch.inference_mode():
            _, state[0] = layer.step(x, state[0])

    return work


def steps(layer: Any, folder: Path, rounds: int) -> dict[str, Any]:
    """Time one step at batch 1, and measure the files' sizes."""
    exact = export_onnx(layer, folder / "step.onnx")
    int8 = quantize_onnx(exact, folder / "int8.onnx")
    package = export_aoti(layer, folder / "step.pt2")
    stream, x = Stream(layer), torch.rand(1, 1)
    times = interleave(
        {
            "layer.step": eager_step(layer),
            "Stream": lambda: stream(x),
            "onnxruntime": session_step(exact, layer),
            "onnxruntime, bound": bound_step(exact, layer),
            "onnxruntime, int8, bound": bound_step(int8, layer),
            "AOTInductor": package_step(package, layer),
        },
        rounds,
    )
    files = {"onnx": exact, "int8": int8, "pt2": package}
    return {"times": times, "bytes": {key: path.stat().st_size for key, path in files.items()}}


@torch.inference_mode()
def sequences(layer: Any, folder: Path, rounds: int) -> dict[str, Any]:
    """Time 784 steps at batch 1; measure errors against float64 there and after 5,000 steps."""
    path = export_onnx(layer, folder / "sequence.onnx", form="sequence")
    package = export_aoti(layer, folder / "sequence.pt2", form="sequence")
    session = open_session(path)
    compiled = torch._inductor.aoti_load_package(str(package))
    short, long = torch.rand(1, 784, 1), torch.rand(1, 5000, 1)
    times = interleave(
        {
            "layer": lambda: layer(short),
            "onnxruntime": lambda: run(session, {"x": short.numpy()}),
            "AOTInductor": lambda: compiled(x=short),
        },
        rounds,
    )
    single = {len(x[0]): layer(x)[0] for x in (short, long)}
    layer.double()
    errors = {}
    for x in (short, long):
        exact = layer(x.double())[0]
        got = torch.from_numpy(run(session, {"x": x.numpy()})[0])
        errors[f"{x.shape[1]} steps"] = {
            "onnxruntime": (got - exact).abs().max().item(),
            "layer": (single[x.shape[1]] - exact).abs().max().item(),
        }
    layer.float()
    return {"times": times, "errors": errors, "bytes": path.stat().st_size}


def round_memory(source: Path, target: Path) -> Path:
    """Copy a file with its memory matrix rounded to 8 bits by columns, computing in float32."""
    proto = onnx.load(source)
    for weight in proto.graph.initializer:
        if weight.name == "E":
            E = numpy_helper.to_array(weight)
            scale = np.abs(E).max(axis=0) / 127
            weight.CopyFrom(numpy_helper.from_array(np.round(E / scale) * scale, "E"))
    target.write_bytes(proto.SerializeToString())
    return target


def logits(path: Path, layer: Any, x: Tensor, batch: int) -> Tensor:
    """Compute logits of an exported step after the last pixel."""
    session, parts = open_session(path), []
    for part in x.split(batch):
        y, state = np.empty(0), zeros(layer, len(part))
        for x_t in part.numpy().swapaxes(0, 1):
            y, state["h"], state["m"] = run(session, {"x": x_t, **state})
        parts.append(torch.from_numpy(y))
    return torch.cat(parts)


def psmnist(checkpoint: Path, folder: Path, singles: int, limit: int | None) -> dict[str, Any]:
    """Measure accuracy and size of the exported steps of a trained classifier."""
    loaded = load_classifier(checkpoint)
    config, model = loaded.recipe.config, loaded.model()
    x, labels = replace(loaded.recipe.data, limit=limit).test_part()
    exact = export_onnx(model, folder / "exact.onnx")
    files = {
        "float32": exact,
        "int8": quantize_onnx(exact, folder / "int8.onnx"),
        "int8, memory too": quantize_onnx(exact, folder / "memory.onnx", memory=True),
        "memory's matrix rounded": round_memory(exact, folder / "rounded.onnx"),
    }
    with torch.inference_mode():
        reference = torch.cat([model(part) for part in x.split(1000)])
    figures: dict[str, Any] = {"layer": {"right": int((reference.argmax(1) == labels).sum())}}
    for name, path in files.items():
        together = logits(path, model.layer, x, 1000)
        alone = logits(path, model.layer, x[:singles], 1)
        figures[name] = {
            "bytes": path.stat().st_size,
            "right": int((together.argmax(1) == labels).sum()),
            "right_alone": int((alone.argmax(1) == labels[:singles]).sum()),
            "error": relative_error(together, reference),
        }
        print(f"{config.model}, {name}: {figures[name]}", flush=True)
    return {"digits": len(x), "digits_alone": singles, "config": config.model_arguments(),
            "steps": figures}  # fmt: skip


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, action="append", help="of lmu train psmnist")
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each contender")
    parser.add_argument("--singles", type=int, default=1000, help="digits that also run alone")
    parser.add_argument("--limit", type=int, help="most test digits to use")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where to write the JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoints = options.checkpoint
        if checkpoints is None:
            config = PsMNISTConfig(epochs=5, accelerator="cpu", limit=options.limit)
            checkpoints = [train(config, output=folder).folder]
        where = machine() | {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__}
        result: dict[str, Any] = {"machine": where, "step": {}, "sequence": {}, "psmnist": {}}
        for key, build in LAYERS.items():
            result["step"][key] = steps(build(), folder, options.rounds)
            result["sequence"][key] = sequences(build(), folder, options.rounds)
            print(key, json.dumps([result["step"][key], result["sequence"][key]], indent=1))
            sys.stdout.flush()
        for checkpoint in checkpoints:
            row = psmnist(checkpoint, folder, options.singles, options.limit)
            result["psmnist"][row["config"]["model"]] = row
    write_json(options.output, result)


if __name__ == "__main__":
    main()
