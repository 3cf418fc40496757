"""Random layers and calls of them, as plain data that a seed draws again."""

from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from lmu import LMU, LMUFFT, Bidirectional, LegendreMemory, LMUCell, LMUStack
from lmu.models import SequenceClassifier
from lmu.theory import least_theta
from tests.fuzz.equations import system_of
from tests.variants import shifted

KINDS = {"LMU": 9, "LMUFFT": 7, "LMUCell": 3, "LMUStack": 3, "Bidirectional": 2,
         "SequenceClassifier": 2, "LegendreMemory": 4, "memory": 3}  # fmt: skip
CELLS = ("own", "own", "own", None, "linear", "sequential", "rnn", "gru", "lstm")
RECURRENT = ("own", "rnn", "gru", "lstm")
FUSED = ("tanh", "relu", "sigmoid", "identity")
HIDDEN = (*FUSED, "gelu", "shifted", "prelu")
LAYOUTS = ("plain", "plain", "transposed", "strided", "expanded")

Conf = dict[str, Any]


def draw_dynamics(rng: Random) -> Conf:
    """Order, channels, windows, discretizer, and what of them is learned."""
    order, channels = rng.choice([rng.randint(1, 12), rng.randint(1, 64)]), 1
    if rng.random() < 0.4:
        channels = rng.randint(2, 5)
    discretizer = rng.choice(["zoh"] * 4 + ["bilinear", "euler", "euler-unchecked"])
    # Where Euler's method is stable; what lies below is refused, or explodes.
    least = 1.01 * least_theta(order, "euler") if discretizer.startswith("euler") else 0.3
    thetas = [
        max(least, 10 ** rng.uniform(-0.5, rng.choice([1.0, 2.5, 6.0]))) for _ in range(channels)
    ]
    several = channels > 1 and rng.random() < 0.5
    learned = rng.random()
    conf = {
        "memory_size": order,
        "memory_channels": channels,
        "theta": thetas if several else thetas[0],
        "discretizer": discretizer,
        "learn_a": 0.6 < learned < 0.75,
        "learn_b": 0.7 < learned < 0.8,
        "learn_theta": learned > 0.8,
    }
    return draw_system(rng, conf) if rng.random() < 0.15 else conf


def draw_system(rng: Random, conf: Conf) -> Conf:
    """Another system than Legendre's, continuous or discrete."""
    system = rng.choice(["fourier", "discrete"])
    conf |= {"system": system, "learn_theta": False, "discretizer": None}
    if system == "fourier":
        conf["discretizer"] = rng.choice(["zoh", "bilinear"])
        conf["memory_size"] |= 1  # odd
        conf["theta"] = max(conf["theta"]) if isinstance(conf["theta"], list) else conf["theta"]
    return conf


def draw_layer(rng: Random, kind: str, input_size: int | None = None) -> Conf:
    """A layer of one kind; of composed ones with their parts."""
    if kind == "SequenceClassifier":
        inner = draw_layer(rng, rng.choice(["LMU", "LMUFFT", "LMUStack", "Bidirectional"]))
        return {"kind": kind, "layer": inner, "classes": rng.randint(2, 5), "dropout": 0.3}
    if kind == "Bidirectional":
        return draw_both_ways(rng, input_size)
    if kind == "LMUStack":
        return draw_stack(rng, input_size)
    if kind == "LegendreMemory":
        return draw_legendre(rng)
    k = rng.randint(1, 5) if input_size is None else input_size
    conf = {
        "kind": kind,
        "input_size": k,
        "hidden_size": rng.choice([rng.randint(1, 8), rng.randint(1, 40)]),
        **draw_dynamics(rng),
        "input_to_hidden": rng.random() < 0.7,
        "encode_input": rng.random() < 0.8,
        "activation": None,
        "dropout": rng.choice([0.0, 0.0, 0.3]),
        "return_sequences": rng.random() < 0.8,
        "method": "auto",
    }
    if not conf["encode_input"]:
        conf["memory_channels"] = k
        if isinstance(conf["theta"], list):
            conf["theta"] = (conf["theta"] * k)[:k]
    return draw_parallel(rng, conf) if kind == "LMUFFT" else draw_nonlinear(rng, conf)


def draw_legendre(rng: Random) -> Conf:
    """A memory alone, and how its states are read."""
    conf = draw_dynamics(rng)
    channels, order = conf["memory_channels"], conf["memory_size"]
    return {"kind": "LegendreMemory", **conf, "input_size": channels, "return_sequences": True,
            "hidden_size": channels * order, "rows": rng.randint(1, 9),
            "activation": rng.choice(["identity", "identity", "relu", "gelu", "shifted"]),
            "method": rng.choice(["auto", "auto", "naive", "recurrent", "fft", "chunked"]),
            }  # fmt: skip


def draw_parallel(rng: Random, conf: Conf) -> Conf:
    """What only the parallel layer has."""
    conf["seq_len"] = rng.choice([None, rng.randint(1, 400)])
    conf["activation"] = rng.choice(["relu", "relu", "relu", None, "tanh", "prelu", "gelu"])
    conf["hidden_activation"] = rng.choice(["relu"] * 4 + [*HIDDEN])
    conf["method"] = rng.choice(["auto", "auto", "fft", "chunked", "states"])
    return conf


def draw_nonlinear(rng: Random, conf: Conf) -> Conf:
    """What only the nonlinear layer and its cell have."""
    cell = rng.choice(CELLS)
    if cell is None:
        size = conf["memory_channels"] * conf["memory_size"]
        conf["hidden_size"] = size + conf["input_size"] * conf["input_to_hidden"]
    conf |= {
        "cell": cell,
        "activation": rng.choice([None] * 6 + ["tanh", "relu", "sigmoid", "shifted"]),
        "hidden_activation": rng.choice(["tanh"] * 5 + [*HIDDEN]) if cell == "own" else "tanh",
        "hidden_to_memory": cell is not None and rng.random() < 0.6,
        "memory_to_memory": rng.random() < 0.5,
        "memory_bias": rng.random() < 0.3,
        "hidden_bias": cell == "own" and rng.random() < 0.3,
        "recurrent_dropout": 0.0,
    }
    if conf["hidden_to_memory"] or conf["memory_to_memory"]:
        conf["recurrent_dropout"] = rng.choice([0.0, 0.0, 0.0, 0.2])
    conf["method"] = rng.choice(methods_of(conf)) if conf["kind"] == "LMU" else "auto"
    return conf


def methods_of(conf: Conf) -> list[str]:
    """Those that this layer does not refuse."""
    bent = conf["memory_channels"] > 1 or conf["activation"] is not None
    bent = bent or conf["recurrent_dropout"] > 0
    coupled = conf["hidden_to_memory"] or (conf["memory_to_memory"] and bent)
    plain = conf["cell"] == "own" and conf["activation"] is None
    methods = ["auto", "auto", "loop"]
    fused = conf["hidden_activation"] in FUSED
    methods += ["blocks"] * (plain and fused and not conf["recurrent_dropout"])
    return methods + ["parallel"] * (not coupled and not conf["recurrent_dropout"])


def draw_both_ways(rng: Random, input_size: int | None) -> Conf:
    """One layer forwards and one backwards, that give all steps or the last alike."""
    k = rng.randint(1, 5) if input_size is None else input_size
    parts = [draw_layer(rng, rng.choice(["LMU", "LMUFFT"]), k) for _ in range(2)]
    whole = input_size is not None or rng.random() < 0.8
    for part in parts:
        part["return_sequences"] = whole
    size = sum(part["hidden_size"] for part in parts)
    return {"kind": "Bidirectional", "layers": parts, "input_size": k, "hidden_size": size,
            "return_sequences": whole}  # fmt: skip


def draw_stack(rng: Random, input_size: int | None) -> Conf:
    """One to three layers, of which the last may give its last step alone."""
    norm = rng.choice(["layer", "rms", None])
    k = rng.randint(2, 5) if input_size is None else input_size
    parts: list[Conf] = []
    for _ in range(rng.randint(1, 3)):
        size = parts[-1]["hidden_size"] if parts else k
        if parts:
            parts[-1]["return_sequences"] = True
        part = draw_layer(rng, rng.choice(["LMU", "LMU", "LMUFFT", "Bidirectional"]), size)
        if part["kind"] == "Bidirectional" and rng.random() < 0.5:
            part = draw_layer(rng, "LMU", size)
        parts.append(part)
    # One feature is refused; of two, normalized, little is left but a sign, and of its gradient
    # little but rounding.
    if min(part["input_size"] for part in parts) <= 2 or parts[-1]["hidden_size"] <= 2:
        norm = None
    return {"kind": "LMUStack", "layers": parts, "norm": norm, "residual": rng.random() < 0.6,
            "input_size": k, "hidden_size": parts[-1]["hidden_size"],
            "return_sequences": parts[-1]["return_sequences"]}  # fmt: skip


def holds(conf: Conf, kind: str) -> bool:
    """Whether a layer is or has one of a kind."""
    parts = conf.get("layers", []) + ([conf["layer"]] if "layer" in conf else [])
    return conf["kind"] == kind or any(holds(part, kind) for part in parts)


def build_cell(conf: Conf, dtype: torch.dtype) -> Any:
    """The hidden cell by its name."""
    name, n = conf["cell"], conf["hidden_size"]
    read = conf["memory_channels"] * conf["memory_size"]
    read += conf["input_size"] * conf["input_to_hidden"]
    kinds = {"rnn": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell, "linear": nn.Linear}
    if name in kinds:
        return kinds[name](read, n, dtype=dtype)
    if name == "sequential":
        return nn.Sequential(nn.Linear(read, n, dtype=dtype), nn.Sigmoid())
    return "rnn" if name == "own" else None


def activation(name: str | None, dtype: torch.dtype) -> Any:
    """The argument of a layer that stands for a name of :mod:`tests.fuzz.equations`."""
    if name == "prelu":
        return nn.PReLU(dtype=dtype)
    return shifted if name == "shifted" else name


def build(conf: Conf, dtype: torch.dtype) -> Any:
    """The layer; its parameters are PyTorch's draw from the global generator."""
    kind = conf["kind"]
    if kind == "SequenceClassifier":
        return SequenceClassifier(build(conf["layer"], dtype), conf["classes"], conf["dropout"])
    if kind in {"Bidirectional", "LMUStack"}:
        parts = [build(part, dtype) for part in conf["layers"]]
        if kind == "Bidirectional":
            return Bidirectional(*parts)
        return LMUStack(parts, norm=conf["norm"], residual=conf["residual"], dropout=0.2)
    given = {k: v for k, v in conf.items() if k not in {"kind", "cell", "activation"}}
    given |= {"dtype": dtype, "system": system_of(conf)}
    if kind == "LegendreMemory":
        left_out = {"input_size", "hidden_size", "rows", "return_sequences", "memory_channels"}
        given = {k: v for k, v in given.items() if k not in left_out}
        return LegendreMemory(channels=conf["memory_channels"], **given)
    given["encoder_activation"] = activation(conf["activation"], dtype)
    given["hidden_activation"] = activation(conf["hidden_activation"], dtype)
    if kind == "LMUFFT":
        return LMUFFT(**given)
    given["hidden_cell"] = build_cell(conf, dtype)
    if kind == "LMU":
        return LMU(**given)
    return LMUCell(**{k: v for k, v in given.items() if k not in {"return_sequences", "method"}})


def randomize(layer: nn.Module, g: torch.Generator) -> None:
    """Parameters of order one where rounding is not amplified from step to step."""
    gains = {"W_h": 0.5, "e_h": 0.3, "weight_hh": 0.5}
    with torch.no_grad():
        for name, p in layer.named_parameters():
            last = name.rsplit(".", 1)[-1]
            if last in {"Ad", "Bd", "log_theta"}:
                continue
            width = p.shape[-1]
            gain = 0.3 / width**0.5 if last == "e_m" else gains.get(last, 1.0)
            p.copy_(torch.randn(p.shape, dtype=torch.float64, generator=g) * gain / width**0.5)


def draw_call(rng: Random, conf: Conf) -> Conf:
    """How the layer is called."""
    kind = conf["kind"]
    time = rng.choice([rng.randint(1, 20), rng.randint(1, 300), rng.choice([97, 127, 211, 293])])
    batch = rng.choice([0, 1, 1, 2, 3, 4, 5])
    call: Conf = {"time": time, "batch": batch, "dtype": rng.choice(["float32", "float64"]),
                  "layout": rng.choice(LAYOUTS), "training": rng.random() < 0.3,
                  "gradients": rng.random() < 0.35, "lengths": None, "resets": None,
                  "state": rng.choice([None, None, "each", "one"]), "padding": "nan"}  # fmt: skip
    call["way"] = rng.choice(ways_of(conf))
    if kind not in {"LMUCell", "memory"} and call["way"] not in {"steps", "record", "readout"}:
        draw_lengths(rng, conf, call)
    anew = kind in {"LMU", "LMUFFT"} and call["way"] in {"whole", "split", "stream"}
    if anew and rng.random() < 0.2:
        rate = rng.choice([0.02, 0.2])
        call["resets"] = [[rng.random() < rate for _ in range(time)] for _ in range(batch)]
    if kind == "SequenceClassifier":
        call["state"] = None
    if call["way"] in {"stream", "steps"}:
        call["time"] = time = min(time, 60)
        call["batch"] = max(1, batch)
        call["gradients"] &= call["way"] != "stream"
        for name in ("lengths", "resets"):
            call[name] = refit(call[name], time)
    return call


def refit(values: Any, time: int) -> Any:
    """Lengths or resets of a batch that has been made shorter; None of one that was empty."""
    if not values:
        return None
    if isinstance(values[0], list):
        return [row[:time] for row in values]
    return [min(v, time) for v in values]


def ways_of(conf: Conf) -> list[str]:
    """Ways to run this layer over a sequence."""
    kind = conf["kind"]
    if kind == "memory":
        return ["all", "final"]
    if kind == "LMUCell":
        return ["steps"]
    if kind == "LegendreMemory":
        return ["whole", "whole", "packed", "split", "steps", "final", "readout"]
    if kind in {"SequenceClassifier", "Bidirectional"}:
        return ["whole", "whole", "packed"]
    ways = ["whole", "whole", "whole", "packed", "split", "split", "steps", "stream"]
    if kind == "LMUStack" and holds(conf, "Bidirectional"):
        return ways[:4]
    return ways + ["record"] * (kind == "LMU")


def draw_lengths(rng: Random, conf: Conf, call: Conf) -> None:
    """Lengths of the sequences; a packed sequence has no empty ones."""
    packed = call["way"] == "packed"
    composed = conf["kind"] == "LMUStack" and call["way"] in {"stream", "split"}
    if packed:
        call["batch"] = max(1, call["batch"])
    if not packed and rng.random() > 0.35:
        return
    least = 1 if packed or composed else 0
    call["lengths"] = [rng.randint(least, call["time"]) for _ in range(call["batch"])]
    if packed:
        call["time"] = max(call["lengths"])


def draw_memory(rng: Random) -> Conf:
    """Arguments of :func:`lmu.ops.memory` and :func:`lmu.ops.final_memory`."""
    conf = draw_dynamics(rng)
    names = ("learn_a", "learn_b", "learn_theta")
    return {"kind": "memory", **conf, **dict.fromkeys(names, False),
            "method": rng.choice(["auto", "naive", "fft", "chunked", "recurrent", "final",
                                  "chunked_final"]),
            "response": rng.random() < 0.3}  # fmt: skip


def draw(seed: int, number: int) -> Conf:
    """Configuration ``number`` of a seed."""
    rng = Random(f"{seed} configuration {number}")
    kind = rng.choices(list(KINDS), weights=list(KINDS.values()))[0]
    conf = draw_memory(rng) if kind == "memory" else draw_layer(rng, kind)
    return {"seed": seed, "number": number, "layer": conf, "call": draw_call(rng, conf)}


def signal(call: Conf, features: int, dtype: torch.dtype, g: torch.Generator) -> Tensor:
    """An input (batch, time, features), in one layout or another of memory."""
    batch, time = call["batch"], call["time"]

    def make(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=g).to(dtype)

    layout = call["layout"]
    if layout == "transposed":
        return make(batch, features, time).mT
    if layout == "strided":
        return make(batch, 2 * time, features + 1)[:, ::2, 1:]
    if layout == "expanded":
        return make(1, time, features).expand(batch, -1, -1)
    return make(batch, time, features)
