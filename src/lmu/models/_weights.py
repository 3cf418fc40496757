"""Loading of ``.safetensors`` files, compared with a model first."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lmu.layers._foreign import present_name

_NAMES: dict[Any, Any] = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
_NAMES |= {"I64": torch.int64}  # counts of batches, in normalizations


def read_shapes(path: Path) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Read the shapes and dtypes of the tensors in a file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: (tuple(s.get_shape()), _NAMES.get(s.get_dtype(), s.get_dtype()))
                for name, s in slices.items()
            }
    except (SafetensorError, OSError, ValueError, OverflowError) as error:
        raise _damaged(path, error) from error


def check_fit(model: nn.Module, path: Path, strict: bool) -> None:
    """Refuse a file whose tensors are not those of a model, which may be on ``"meta"``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or a tensor is missing, not expected, or of another shape or
            dtype.
    """
    own = model.state_dict(keep_vars=True)
    held = {present_name(name, own): shape for name, shape in read_shapes(path).items()}
    shared: dict[int, list[str]] = defaultdict(list)  # of which a file has one name
    for name, tensor in own.items():
        shared[id(tensor)].append(name)
    missing = [names[0] for names in shared.values() if not held.keys() & set(names)]
    unknown = sorted(held.keys() - own.keys())
    for title, names in (("lacks", missing), ("has, beyond those of the model,", unknown)):
        if names and strict:
            raise ValueError(
                f"{path} {title} {', '.join(names[:5])}: it does not belong to its config.json; "
                "save the model again"
            )
    for name in held.keys() & own.keys():
        expected = tuple(own[name].shape), own[name].dtype
        if held[name] != expected:
            raise ValueError(
                f"{path} has {name} {held[name][0]} of {held[name][1]}, the model in config.json "
                f"wants {expected[0]} of {expected[1]}: save the model again"
            )


def load(model: nn.Module, path: Path, strict: bool) -> None:
    """Load tensors that fit into a model.

    Raises:
        ValueError: The file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    try:
        load_model(model, str(path), strict=strict)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} cannot be read as safetensors ({error}): it is damaged. Copy it again, or save "
        "the model again"
    )
