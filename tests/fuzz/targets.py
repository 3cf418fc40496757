"""Right calls of everything public, of which :mod:`tests.fuzz.calls` makes wrong ones.

``TARGETS`` maps the name of what is called to a function that gives it and right arguments.
"""

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lmu
from experiments.capacity import data as capacity
from experiments.capacity import models as memories
from experiments.mackey_glass import data as mackey_glass
from experiments.series import data as series
from lmu import (
    LMU,
    LMUFFT,
    Bidirectional,
    LegendreMemory,
    LMUCell,
    LMUStack,
    Stream,
    ops,
    theory,
)
from lmu.models import GaussianNoise, SequenceClassifier
from lmu.tasks import mnist
from lmu.tasks.psmnist import data as psmnist
from lmu.tasks.psmnist import models

Target = Callable[[], tuple[Callable[..., Any], dict[str, Any]]]
TARGETS: dict[str, Target] = {}
# Records, tables and constants that nothing is called with; and what only others subclass.
NOT_CALLED = {
    "lmu.__version__", "lmu.native_status",
    "lmu.ops.LMU_METHODS", "lmu.ops.MEMORY_METHODS", "lmu.ops.READOUT_METHODS",
    "lmu.ops.MethodChoice", "lmu.ops.MemoryMethod", "lmu.ops.ReadoutMethod", "lmu.ops.LMUMethod",
    "lmu.ops.Cost", "lmu.ops.BlockDynamics", "lmu.ops.LMUWeights",
    "lmu.theory.DISCRETIZERS", "experiments.mackey_glass.data.Part",
    "experiments.mackey_glass.data.MackeyGlass",
    "lmu.tasks.mnist.DataError", "lmu.tasks.mnist.default_cache", "lmu.tasks.psmnist.config.Preset",
    "lmu.tasks.psmnist.data.default_permutation", "experiments.series.data.Recordings",
    "experiments.series.data.Windows", "experiments.series.data.sunspots",
}  # fmt: skip


def target(_name: str, _function: Any, /, **given: Any) -> None:
    """Add a call whose arguments are plain values."""
    TARGETS[_name] = lambda: (_function, dict(given))


def lazily(name: str, make: Target) -> None:
    """Add a call whose arguments are made anew each time."""
    TARGETS[name] = make


def rand(*shape: int) -> Tensor:
    return torch.randn(shape)


# Layers.

SIZES = {"input_size": 3, "hidden_size": 7, "memory_size": 6, "theta": 12.0}
FLAGS = {"learn_a": False, "learn_b": False, "learn_theta": False, "memory_channels": 1,
         "dropout": 0.0, "initializers": None, "discretizer": "zoh", "system": None,
         "device": "cpu", "dtype": torch.float32, "encode_input": True,
         "input_to_hidden": True}  # fmt: skip
NONLINEAR = {"hidden_cell": "rnn", "hidden_activation": "tanh",
             "hidden_to_memory": True, "memory_to_memory": True,
             "encoder_activation": None, "memory_bias": False, "hidden_bias": False,
             "recurrent_dropout": 0.0}  # fmt: skip
target("lmu.LMUCell", LMUCell, **SIZES, **FLAGS, **NONLINEAR)
target("lmu.LMU", LMU, **SIZES, **FLAGS, **NONLINEAR, return_sequences=True, method="auto")
target("lmu.LMUFFT", LMUFFT, **SIZES, **FLAGS, seq_len=9, encoder_activation="auto",
       hidden_activation="relu",
       return_sequences=True, method="auto")  # fmt: skip

target("lmu.LegendreMemory", LegendreMemory, memory_size=6, theta=12.0, channels=2,
       learn_a=False, learn_b=False, learn_theta=False, discretizer="zoh", system=None,
       method="auto", device="cpu", dtype=torch.float32)  # fmt: skip
_memory = {"u": rand(2, 5, 2), "m_0": rand(2, 12)}
_lengths = {"lengths": torch.tensor([5, 3])}
_memories = {
    "forward": _memory | _lengths,
    "final": _memory | _lengths,
    "readout": _memory | {"W": rand(4, 12), "bias": rand(4), "method": "auto"},
    "step": {"u": rand(2, 2), "m": rand(2, 12)},
    "decode": {"m": rand(2, 12), "delays": torch.tensor([0.0, 3.0])},
    "explain": {"length": 9, "batch_size": 2, "initial_state": False},
}
for _name, _given in _memories.items():
    lazily(f"lmu.LegendreMemory.{_name}", lambda name=_name, given=_given: (
        getattr(LegendreMemory(6, 12.0, 2), name), dict(given)))  # fmt: skip


def small(kind: str) -> Any:
    if kind == "LMU":
        return LMU(3, 7, 6, 12.0)
    if kind == "LMUCell":
        return LMUCell(3, 7, 6, 12.0)
    if kind == "LMU-lstm":
        cell = nn.LSTMCell(9, 7)
        return LMU(3, 7, 6, 12.0, hidden_cell=cell, hidden_to_memory=False)
    if kind == "LMUStack":
        return LMUStack([LMU(3, 3, 6, 12.0), LMUFFT(3, 7, 6, 9, 12.0)])
    if kind == "Bidirectional":
        return Bidirectional(LMU(3, 4, 6, 12.0), LMUFFT(3, 3, 6, 9, 12.0))
    return LMUFFT(3, 7, 6, 9, 12.0)


def whole(kind: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    layer, x = small(kind), rand(2, 5, 3)
    state = layer(x, **getattr(layer, "with_state", {}))[1]
    given = {"x": x, "state": state, "lengths": torch.tensor([5, 3])}
    if kind in {"LMU", "LMUFFT", "LMU-lstm"}:
        given["resets"] = torch.zeros(2, 5, dtype=torch.bool)
    return layer, given


def stepped(kind: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    layer, x = small(kind), rand(2, 3)
    if kind == "LMUCell":
        return layer, {"x": x, "state": layer(x)}
    return layer.step, {"x": x, "state": layer.step(x)[1]}


def recorded() -> tuple[Callable[..., Any], dict[str, Any]]:
    call, given = whole("LMU")
    del given["resets"]
    assert isinstance(call, LMU)
    return call.record, given


for _kind in ("LMU", "LMU-lstm", "LMUFFT", "LMUStack", "Bidirectional"):
    lazily(f"lmu.{_kind}.forward", lambda kind=_kind: whole(kind))
for _kind in ("LMUCell", "LMU", "LMU-lstm", "LMUFFT", "LMUStack"):
    lazily(f"lmu.{_kind}.step", lambda kind=_kind: stepped(kind))
lazily("lmu.LMU.record", recorded)
for _kind in ("LMUCell", "LMU", "LMUFFT"):
    lazily(f"lmu.{_kind}.decode", lambda kind=_kind: (
        small(kind).decode, {"m": rand(2, 6), "delays": torch.tensor([0.0, 3.0])}))  # fmt: skip
lazily("lmu.LMU.explain", lambda: (small("LMU").explain, {"length": 9, "batch_size": 2}))
lazily("lmu.LMUFFT.explain", lambda: (
    small("LMUFFT").explain, {"length": 9, "batch_size": 2, "initial_state": False}))  # fmt: skip
lazily("lmu.LMUStack", lambda: (LMUStack, {
    "layers": [small("LMU"), LMU(7, 3, 4, 9.0)], "norm": "layer", "residual": True,
    "dropout": 0.0}))  # fmt: skip
lazily("lmu.Bidirectional", lambda: (
    Bidirectional, {"forward_layer": small("LMU"), "backward_layer": small("LMUFFT")}))  # fmt: skip
lazily("lmu.detach_state", lambda: (lmu.detach_state, {"state": (rand(2, 3), (rand(2), rand(2)))}))
lazily("lmu.Stream", lambda: (Stream, {"layer": small("LMU"), "batch_size": 2}))


def streamed(kind: str, part: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    stream = Stream(small(kind), 3)
    stream(rand(3, 3))
    if part == "call":
        return stream, {"x": rand(3, 3)}
    if part == "some":
        return stream, {"x": rand(2, 3), "streams": torch.tensor([0, 2])}
    if part == "reset":
        return stream.reset, {"streams": torch.tensor([0, 2])}
    return (lambda state: setattr(stream, "state", state)), {"state": stream.state}


for _kind in ("LMU", "LMUFFT", "LMUStack"):
    for _part in ("call", "some", "reset", "state"):
        lazily(f"lmu.Stream.{_part} of {_kind}", lambda k=_kind, p=_part: streamed(k, p))

lazily("lmu.models.SequenceClassifier", lambda: (
    SequenceClassifier, {"layer": small("LMU"), "num_classes": 3, "dropout": 0.0}))  # fmt: skip
lazily("lmu.models.SequenceClassifier.forward", lambda: (
    SequenceClassifier(small("LMU"), 3),
    {"x": rand(2, 5, 3), "lengths": torch.tensor([5, 3])}))  # fmt: skip
lazily("lmu.models.SequenceClassifier of LSTM", lambda: (
    SequenceClassifier(nn.LSTM(3, 7, batch_first=True), 3),
    {"x": rand(2, 5, 3), "lengths": torch.tensor([5, 3])}))  # fmt: skip
target("lmu.models.GaussianNoise", GaussianNoise, std=0.1)
lazily("lmu.models.GaussianNoise.forward", lambda: (GaussianNoise(0.1), {"x": rand(2, 3)}))
lazily("lmu.models.SequenceClassifier.from_pretrained", lambda: (
    partial(SequenceClassifier.from_pretrained, local_files_only=True),
    {"pretrained_model_name_or_path": Path("no/such/folder/here")}))  # fmt: skip

# Operations.

A, B = theory.discretize(*theory.legt(4, 9.0))


def memory_arguments(last: bool) -> tuple[Callable[..., Any], dict[str, Any]]:
    given = {"u": rand(2, 5, 3), "Ad": A.clone(), "Bd": B.clone(), "m_0": rand(2, 3, 4),
             "method": "auto", "H": theory.impulse_response(A, B, 5).float()}  # fmt: skip
    return (ops.final_memory if last else ops.memory), given


def lmu_weights() -> ops.LMUWeights:
    E, Bd = ops.join_channels(A - torch.eye(4), B, 1)
    return ops.LMUWeights(rand(1, 3), rand(1, 5), rand(1, 4), rand(5, 3), rand(5, 5), rand(5, 4),
                          E.float(), Bd.float())  # fmt: skip


lazily("lmu.ops.memory", lambda: memory_arguments(False))
lazily("lmu.ops.final_memory", lambda: memory_arguments(True))
lazily("lmu.ops.final_state", lambda: (ops.final_state, {
    "u": rand(2, 5, 3), "system": ops.System(A, B, constant=True), "m_0": rand(2, 3, 4),
    "likely": 5}))  # fmt: skip
lazily("lmu.ops.System", lambda: (ops.System, {"Ad": A.clone(), "Bd": B.clone(), "constant": True}))
lazily("lmu.ops.System.response", lambda: (
    ops.System(A, B, constant=True).response,
    {"length": 5, "dtype": torch.float32, "likely": 5}))  # fmt: skip
lazily("lmu.ops.System.block_dynamics", lambda: (
    ops.System(A, B, constant=True).block_dynamics,
    {"channels": 2, "steps": 5, "dtype": torch.float32}))  # fmt: skip
lazily("lmu.ops.System.advance", lambda: (
    ops.System(A, B, constant=True).advance, {"m": rand(2, 3, 4), "steps": 5}))  # fmt: skip
lazily("lmu.ops.memory_step", lambda: (ops.memory_step, {
    "u": rand(2, 3), "m": rand(2, 3, 4), "E": A.float(), "Bd": B.float()}))  # fmt: skip
lazily("lmu.ops.readout", lambda: (ops.readout, {
    "u": rand(2, 5, 3), "x": rand(2, 5, 2), "Ad": A.clone(), "Bd": B.clone(), "W_m": rand(6, 12),
    "W_x": rand(6, 2), "bias": rand(6), "m_0": rand(2, 3, 4), "method": "auto"}))  # fmt: skip
lazily("lmu.ops.lmu_sequence", lambda: (ops.lmu_sequence, {
    "x": rand(2, 9, 3), "h": rand(2, 5), "m": rand(2, 4), "weights": lmu_weights(),
    "method": "auto", "feedback": True}))  # fmt: skip
lazily("lmu.ops.lmu_step", lambda: (ops.lmu_step, {
    "u_x": rand(2, 1), "h_x": rand(2, 5), "h": rand(2, 5), "m": rand(2, 4),
    "weights": lmu_weights()}))  # fmt: skip
target("lmu.ops.Problem", ops.Problem, length=5, order=4, rows=3, batch=2, channels=1, device="cpu")
target(
    "lmu.ops.choose_memory",
    ops.choose_memory,
    problem=ops.Problem(5, 4),
    all_states=True,
    initial_state=False,
)
target("lmu.ops.choose_lmu", ops.choose_lmu, problem=ops.Problem(5, 4, 3), feedback=True)
target(
    "lmu.ops.choose_readout", ops.choose_readout, problem=ops.Problem(5, 4, 3), initial_state=False
)
target("lmu.ops.explain_memory", ops.explain_memory, problem=ops.Problem(5, 4),
       all_states=True, initial_state=False)  # fmt: skip
target("lmu.ops.explain_lmu", ops.explain_lmu, problem=ops.Problem(5, 4, 3), feedback=True)
target("lmu.ops.explain_readout", ops.explain_readout, problem=ops.Problem(5, 4, 3),
       initial_state=False)  # fmt: skip
target("lmu.ops.block_length", ops.block_length, hidden=5, channels=1)
lazily("lmu.ops.block_dynamics", lambda: (
    ops.block_dynamics, {"E": A.clone(), "Bd": B[:, None].clone(), "steps": 5}))  # fmt: skip
lazily("lmu.ops.join_channels", lambda: (
    ops.join_channels, {"E": A.clone(), "Bd": B.clone(), "channels": 2}))  # fmt: skip

# Theory.

target("lmu.theory.legt", theory.legt, order=4, theta=9.0)
lazily("lmu.theory.discretize", lambda: (
    theory.discretize, {**dict(zip("AB", theory.legt(4, 9.0), strict=True)),
                        "method": "zoh"}))  # fmt: skip
lazily("lmu.theory.discretize by Euler", lambda: (
    theory.discretize, {**dict(zip("AB", theory.legt(4, 90.0), strict=True)),
                        "method": "euler"}))  # fmt: skip
lazily("lmu.theory.discretize_theta", lambda: (theory.discretize_theta, {
    "order": 4, "theta": torch.tensor(9.0, dtype=torch.float64), "method": "zoh"}))  # fmt: skip
target("lmu.theory.least_theta", theory.least_theta, order=4, method="euler")
lazily("lmu.theory.noise_gain", lambda: (
    theory.noise_gain, {"Ad": A.clone(), "Bd": B.clone(), "theta": 9.0}))  # fmt: skip
lazily("lmu.theory.legendre", lambda: (theory.legendre, {"order": 4, "x": rand(3).tanh()}))
lazily("lmu.theory.decode_window", lambda: (
    theory.decode_window, {"m": rand(2, 4), "r": torch.rand(3)}))  # fmt: skip
lazily("lmu.theory.impulse_response", lambda: (
    theory.impulse_response, {"Ad": A.clone(), "Bd": B.clone(), "length": 5}))  # fmt: skip
target("lmu.theory.fourier", theory.fourier, order=5, theta=9.0)
lazily("lmu.theory.fourier_basis", lambda: (
    theory.fourier_basis, {"order": 5, "r": torch.linspace(0, 1, 4)}))  # fmt: skip
lazily("lmu.theory.krylov", lambda: (
    theory.krylov, {"Ad": A.clone(), "X": rand(4, 2), "length": 5}))  # fmt: skip
lazily("lmu.theory.apply_power", lambda: (
    theory.apply_power, {"Ad": A.clone(), "X": rand(4, 2), "exponent": 5}))  # fmt: skip
lazily(
    "lmu.theory.apply_powers",
    lambda: (
        theory.apply_powers,
        {"Ad": A.clone(), "X": rand(4, 2), "exponents": torch.tensor([0, 5]), "largest": 5},
    ),
)

# Tasks.

target("experiments.capacity.data.band_limited_noise", capacity.band_limited_noise, length=50,
       theta=20.0, seed=0, cutoff=5.0, batch=2)  # fmt: skip
lazily("experiments.capacity.models.decoding_error", lambda: (memories.decoding_error, {
    "memory": LegendreMemory(4, 9.0), "signal": rand(2, 40), "delays": torch.tensor([0, 3]),
    "reads": 5}))  # fmt: skip
target("experiments.capacity.models.DelayLine", memories.DelayLine, hidden_size=3, delays=2)
lazily("experiments.capacity.models.DelayLine.forward", lambda: (
    memories.DelayLine(3, 2), {"x": rand(2, 5, 1)}))  # fmt: skip
lazily("experiments.mackey_glass.data.mackey_glass", lambda: (mackey_glass.mackey_glass, {
    "history": torch.tensor([1.1, 1.2]), "steps": 30, "tau": 17.0, "beta": 0.2, "gamma": 0.1,
    "n": 10.0, "substeps": 10}))  # fmt: skip
target("experiments.mackey_glass.data.make_task", mackey_glass.make_task, series=(1, 1, 1),
       length=20, ahead=3, seed=0)  # fmt: skip
lazily(
    "experiments.mackey_glass.data.nrmse",
    lambda: (
        mackey_glass.nrmse,
        {"prediction": rand(3, 4), "target": rand(3, 4), "centered": False},
    ),
)
target("lmu.tasks.mnist.locate", mnist.locate, data=Path("no/such/folder"))
target("lmu.tasks.mnist.read_bytes", mnist.read_bytes, name=next(iter(mnist.FILES)),
       path=Path("no/such/file"))  # fmt: skip
target("lmu.tasks.mnist.verify", mnist.verify, paths={n: Path("no") for n in mnist.FILES})
target("lmu.tasks.mnist.load", mnist.load, paths={n: Path("no") for n in mnist.FILES},
       part="train")  # fmt: skip
target("lmu.tasks.psmnist.models.build_model", models.build_model, model="deep", hidden_size=4,
       memory_size=3, theta=9.0, dropout=0.1, input_dropout=0.0, layers=2,
       hidden_noise=0.1)  # fmt: skip
target("lmu.tasks.psmnist.models.build_model of LSTM", models.build_model, model="lstm",
       hidden_size=4, memory_size=None, theta=9.0, dropout=0.1)  # fmt: skip
target(
    "lmu.tasks.psmnist.data.load_permutation", psmnist.load_permutation, path=Path("no/such/file")
)
lazily("lmu.tasks.psmnist.data.check_permutation", lambda: (psmnist.check_permutation, {
    "permutation": psmnist.default_permutation(), "name": "permutation"}))  # fmt: skip
target("lmu.tasks.psmnist.data.split_indices", psmnist.split_indices, full_train=False)
lazily("lmu.tasks.psmnist.data.PsMNIST", lambda: (psmnist.PsMNIST, {
    "permutation": psmnist.default_permutation(), "data": "no/such/folder", "full_train": False,
    "limit": 3}))  # fmt: skip
lazily(
    "lmu.tasks.psmnist.data.PsMNIST.sequences",
    lambda: (psmnist.PsMNIST().sequences, {"images": torch.zeros(2, 28, 28, dtype=torch.uint8)}),
)
lazily("lmu.tasks.psmnist.data.PsMNIST.images", lambda: (
    psmnist.PsMNIST().images, {"sequences": torch.rand(2, 784, 1)}))  # fmt: skip


def recordings() -> series.Recordings:
    return series.as_recordings([rand(5, 2), rand(3, 2), rand(4, 2)], ["a", "b", "a"])


target("experiments.series.data.load_recordings", series.load_recordings, name="no such",
       part="train")  # fmt: skip
lazily("experiments.series.data.as_recordings", lambda: (series.as_recordings, {
    "series": [rand(5, 2), rand(3, 2)], "labels": ["a", "b"]}))  # fmt: skip
lazily(
    "experiments.series.data.as_recordings, one series",
    lambda: (lambda one: series.as_recordings([rand(3, 2), one], ["a", "b"]), {"one": rand(5, 2)}),
)
lazily("experiments.series.data.Recordings.select", lambda: (
    recordings().select, {"chosen": torch.tensor([0, 2])}))  # fmt: skip
lazily("experiments.series.data.normalize", lambda: (
    series.normalize, {"data": recordings(), "training": recordings()}))  # fmt: skip
lazily("experiments.series.data.held_out", lambda: (
    series.held_out, {"data": recordings(), "fold": 0, "folds": 2}))  # fmt: skip
lazily("experiments.series.data.windows", lambda: (series.windows, {
    "series": rand(30), "window": 5, "horizon": 3, "first": 4, "end": 20}))  # fmt: skip
lazily("experiments.series.data.rmse", lambda: (
    series.rmse, {"forecasts": rand(4, 3), "truth": rand(4, 3)}))  # fmt: skip
lazily(
    "experiments.series.data.accuracy",
    lambda: (series.accuracy, {"answers": torch.tensor([1, 2]), "labels": torch.tensor([1, 0])}),
)


# Training, whose packages may be missing.


def later(full: str, name: str, /, **given: Any) -> None:
    """Add a call of a function that is imported only when it is called."""
    lazily(f"{full}.{name}", lambda: (getattr(importlib.import_module(full), name), dict(given)))


CONFIG = {"model": "lmufft", "hidden_size": 3, "memory_size": 3, "layers": 2, "theta": 9.0,
          "dropout": 0.1, "input_dropout": 0.0, "input_noise": 0.0, "hidden_noise": 0.0,
          "epochs": 1, "max_seconds": 5.0, "batch_size": 10, "learning_rate": 0.1,
          "gradient_clip": 1.0, "weight_decay": 0.0, "label_smoothing": 0.0, "schedule": "cosine",
          "patience": 0, "seed": 0, "full_train": False, "limit": 5, "data": "no/such/folder",
          "permutation": None, "devices": "1", "num_nodes": 1}  # fmt: skip
later("lmu.tasks.psmnist.config", "PsMNISTConfig", **CONFIG)
later("lmu.training.saved", "resolve_checkpoint", path=Path("no/such/file"), preferred=("a.ckpt",))
later("lmu.tasks.psmnist.recipe", "load_classifier", checkpoint=Path("no/such/file"))
later("lmu.tasks.psmnist.digits", "predict_digits", checkpoint=Path("no/such/file"), count=3,
      seed=0, data=None)  # fmt: skip
later("lmu.tasks.psmnist.run", "evaluate", checkpoint=Path("no/such/file"))
later("lmu.tasks.psmnist.run", "resume_config", path=Path("no/such/file"))
later("lmu.tasks.psmnist.run", "train", config=None, resume=None)
later("lmu.tasks.psmnist.figures", "reconstruct", sequence=torch.ones(9), order=3, theta=5.0)
later("lmu.training.seeds", "derive_seed", seed=0)
