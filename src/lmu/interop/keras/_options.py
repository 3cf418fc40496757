"""Arguments of KerasLMU's layers, checked against each other and the weights."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from lmu.interop.keras._arguments import check_form, name_of, policy_of, read, warn_left_out
from lmu.interop.keras._hidden import units_of
from lmu.theory import discretize, legt, noise_gain
from lmu.theory.euler import GAIN_LIMIT, describe_gain

Config = Mapping[str, Any]
Options = dict[str, Any]

_CLASSES = ("LMU", "LMUFeedforward", "LMUCell", "RNN")
_CONV_MODES = ("fft", "raw")
_LARGEST = 2048  # order and channels
_FREE = 1 << 20  # weights that any layer may have; they are compared with its arrays later
_MOST = 1 << 28  # weights that a layer may have if there are no arrays
_DEFAULTS = {
    "hidden_cell": None,
    "trainable_theta": False,
    "hidden_to_memory": False,
    "memory_to_memory": False,
    "input_to_hidden": False,
    "discretizer": "zoh",
    "kernel_initializer": "glorot_uniform",
    "use_bias": False,
    "dropout": 0,
    "recurrent_dropout": 0,
    "return_sequences": False,
    "conv_mode": "fft",
    "truncate_ir": 1e-4,
    "input_d": None,
}


def read_options(
    config: Config,
    rows: int | None,
    input_size: int | None,
    theta: float | None,
    numbers: int | None = None,
) -> Options:
    """Read the arguments, and ``name``, ``class_name``, ``units``, ``input_size`` and ``frozen``.

    Args:
        config: A layer as Keras serializes it.
        rows: Height of its kernel, if it is known.
        input_size: Number of input features, if it is known.
        theta: A trained window to be loaded, if there is one.
        numbers: Count of numbers in the layer's arrays, if there are any.
    """
    config = check_form(config, "config")
    name, inner = name_of(config), _inner(config)
    o = read(inner["config"], name, memory_d=..., order=..., theta=..., **_DEFAULTS)
    o |= {
        "name": name,
        "class_name": config["class_name"],
        "units": units_of(o["hidden_cell"], name),
    }
    o["return_sequences"] = bool(config["config"].get("return_sequences", False))
    _check_convolution(o)
    o["input_size"] = _input_size(
        o, rows, [("input_size", input_size), *_declared(config, inner, o)]
    )
    _check_sizes(o, numbers)
    o |= {"method": "auto"} | _method(o, theta)
    parts = [config, inner] if inner is not config else [config]
    o["frozen"] = not all(part["config"].get("trainable", True) for part in parts)
    _compare_parts([*parts, o["hidden_cell"]], name)
    return o


def _inner(config: Config) -> Config:
    """Return the layer, or the cell in an RNN."""
    name, kind = name_of(config), config["class_name"]
    if kind not in _CLASSES:
        raise ValueError(f"layer {name!r} is a {kind}, not one of {', '.join(_CLASSES)}")
    if kind != "RNN":
        return config
    cell = read(config["config"], name, cell=..., return_sequences=False)["cell"]
    if isinstance(cell, Mapping):
        cell = check_form(cell, f"layer {name!r}, cell")
    if not isinstance(cell, Mapping) or cell["class_name"] != "LMUCell":
        raise ValueError(f"layer {name!r}: only an RNN around an LMUCell can be imported")
    return cell


def _check_convolution(o: Options) -> None:
    if o["conv_mode"] not in _CONV_MODES:
        raise ValueError(
            f"layer {o['name']!r}: conv_mode must be one of {', '.join(_CONV_MODES)}, got "
            f"{o['conv_mode']!r}"
        )
    if o["conv_mode"] == "raw" and o["truncate_ir"] is not None:
        warnings.warn(
            f"layer {o['name']!r} cuts off its impulse response "
            f"(truncate_ir={o['truncate_ir']:g}); here it is exact, so that outputs "
            "differ by about as much",
            stacklevel=4,
        )


def _declared(config: Config, inner: Config, o: Options) -> list[tuple[str, int | None]]:
    """Return the numbers of input features in a config, with their sources."""
    sizes: list[tuple[str, int | None]] = [("input_d", o["input_d"])]
    for part in (config, inner):
        built = part.get("build_config")
        shape = built.get("input_shape") if isinstance(built, Mapping) else None
        last = shape[-1] if isinstance(shape, Sequence) and shape else None
        known = isinstance(last, int) and 0 < last < 1 << 31
        sizes.append(("build_config", last if known else None))
    return sizes


def _check_sizes(o: Options, numbers: int | None) -> None:
    """Refuse a layer much larger than its arrays, before anything is allocated."""
    where, channels, order = f"layer {o['name']!r}", o["memory_d"], o["order"]
    for key in ("memory_d", "order"):
        if o[key] > _LARGEST:
            raise ValueError(
                f"{where}: {key}={o[key]} is imported up to {_LARGEST} only, as the memory's "
                "matrices grow with its square: build the layer, and fill it by load_weights"
            )
    units, memory = o["units"], channels * order
    count = channels * (o["input_size"] + units) + 4 * units * (memory + o["input_size"] + units)
    count += memory * channels if o["memory_to_memory"] else 0
    if count > (_MOST if numbers is None else max(_FREE, 8 * numbers)):
        held = f"at most {_MOST:,} are built" if numbers is None else f"there are {numbers:,}"
        raise ValueError(
            f"{where}: units={units}, memory_d={channels}, order={order} and input_size="
            f"{o['input_size']} want some {count:,} weights, but {held}: correct the sizes, or "
            "save the model again"
        )


def _input_size(o: Options, rows: int | None, declared: list[tuple[str, int | None]]) -> int:
    """Return the input size by the height of the kernel, minus a fed back state, or as declared."""
    where = f"layer {o['name']!r}"
    if o["kernel_initializer"] is None:
        rows = o["memory_d"]  # the input of the memory is [x; h] itself
    known = {source: size for source, size in declared if size is not None}
    if rows is not None:
        fed_back = o["units"] if o["hidden_to_memory"] else 0
        known = {"the kernel": rows - fed_back} | known
        if set(known.values()) != {rows - fed_back} or rows <= fed_back:
            said = ", ".join(f"{source}={size}" for source, size in list(known.items())[1:])
            raise ValueError(
                f"{where}: a kernel of {rows} rows, {fed_back} of them for the hidden state, does "
                f"not fit {said or 'input_size of at least 1'}"
            )
    if not known:
        raise ValueError(f"{where}: input_size must be given, no kernel and no input_d tells it")
    if len(set(known.values())) > 1:
        said = ", ".join(f"{source}={size}" for source, size in known.items())
        raise ValueError(f"{where}: the number of input features must be one, got {said}")
    return next(iter(known.values()))


def _method(o: Options, theta: float | None) -> dict[str, str]:
    """Return the arguments ``discretizer`` and ``method`` of lmu's layers.

    ``"euler"`` becomes ``"euler-unchecked"``, with a warning, where it would be refused. If powers
    of ``Ad`` explode, the layer must run step by step, as forming powers by doubling amplifies
    rounding errors.
    """
    if o["discretizer"] != "euler":
        return {"discretizer": o["discretizer"]}
    gains = {
        window: noise_gain(*discretize(*legt(o["order"], window), "euler-unchecked"), window)
        for window in (o["theta"], theta)
        if window is not None and 0 < window < math.inf  # others are refused when they are used
    }
    window = max(gains, key=lambda window: gains[window], default=None)
    if window is None or gains[window] <= GAIN_LIMIT:
        return {"discretizer": "euler"}
    warnings.warn(
        f"layer {o['name']!r}: {describe_gain(o['order'], window, gains[window])}. It is built as "
        "KerasLMU computes it, with discretizer='euler-unchecked'; its states may overflow in long "
        "sequences. Use 'zoh' and train again for a memory that holds its window",
        stacklevel=4,
    )
    steps = {"method": "loop"} if math.isinf(gains[window]) else {}
    return {"discretizer": "euler-unchecked"} | steps


def _compare_parts(parts: list[Config | None], name: str) -> None:
    """Warn of training-only arguments, and of parts that compute in another precision."""
    known = [part for part in parts if part is not None]
    for part in known:
        warn_left_out(part["config"], name if part is parts[0] else f"{name}/{name_of(part)}")
    policies = {policy_of(part, name) for part in known} - {None}
    if len(policies) > 1:
        warnings.warn(
            f"layer {name!r}: its parts have the dtypes {', '.join(sorted(map(str, policies)))}; "
            "here they all have the one of the layer",
            stacklevel=4,
        )
