"""Reading of JSON from files that may be damaged or malicious."""

import json
import math
from pathlib import Path
from typing import Any

_LARGEST = 16 << 20  # bytes: the config of a model of a thousand layers has about two million
_DEEPEST = 64  # configs nest about a dozen levels
_WRONG = ": it is damaged, or no model was saved here; save the model again"


def read_object(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        OSError: The file cannot be read.
        ValueError: As for :func:`parse_json`.
    """
    with path.open("rb") as file:
        return parse_json(file.read(_LARGEST + 1), str(path))


def parse_json(content: bytes, where: str) -> dict[str, Any]:
    """Parse the content of a JSON file that holds an object.

    Args:
        content: The whole file.
        where: Its name in messages.

    Raises:
        ValueError: It is no JSON object in UTF-8, larger than 16 MiB, nested deeper than 64 levels,
            or has a number that is not finite or does not fit into 64 bits.
    """
    if len(content) > _LARGEST:
        raise ValueError(
            f"{where} has more than {_LARGEST:,} bytes, far more than the config of a model needs: "
            "save the model again"
        )
    try:
        value = json.loads(
            content.decode("utf-8"), parse_constant=_refuse, parse_float=_finite, parse_int=_bounded
        )
    except RecursionError as error:
        raise ValueError(f"{where} nests too deep" + _WRONG) from error
    except ValueError as error:  # of the codec and of the parser
        raise ValueError(f"{where} cannot be read ({error})" + _WRONG) from error
    if not isinstance(value, dict):
        raise ValueError(f"{where} holds a {type(value).__name__} in place of an object" + _WRONG)
    _check_depth(value, where)
    return value


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no finite number")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _refuse(digits)


def _bounded(digits: str) -> int:
    if len(digits) > 19:  # those of 64 bits; up to Python's own limit parsing takes long
        raise ValueError(f"the integer {digits[:19]}... is too large")
    return int(digits)


def _check_depth(value: Any, where: str) -> None:
    """Refuse deep nesting, level by level, as a recursion could overflow."""
    level = [value]
    for _ in range(_DEEPEST):
        containers = [item for item in level if isinstance(item, (dict, list))]
        if not containers:
            return
        level = [
            child
            for item in containers
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    raise ValueError(f"{where} nests deeper than {_DEEPEST} levels" + _WRONG)
