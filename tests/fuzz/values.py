"""What may stand where it should not: values of wrong kinds, spoiled tensors and states."""

import math
from collections.abc import Callable
from decimal import Decimal
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Made anew for each call, which might change them.
WRONG: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "''": lambda: "",
    "'auto'": lambda: "auto",
    "'yes'": lambda: "yes",
    "bytes": lambda: b"\xff",
    "[]": list,
    "()": lambda: (),
    "{}": dict,
    "a set": lambda: {1, 2},
    "ragged": lambda: [[1.0, 2.0], [3.0]],
    "words": lambda: ["a", "b"],
    "ints": lambda: [1, 2, 3],
    "object": object,
    "a class": lambda: int,
    "a function": lambda: len,
    "a generator": lambda: (i for i in range(3)),
    "True": lambda: True,
    "0": lambda: 0,
    "-1": lambda: -1,
    "-7.5": lambda: -7.5,
    "1.5": lambda: 1.5,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "-inf": lambda: -math.inf,
    "1e400": lambda: 10**400,
    "1e308": lambda: 1e308,
    "1e-320": lambda: 1e-320,
    "2**62": lambda: 2**62,
    "2**63": lambda: 2**63,
    "-2**62": lambda: -(2**62),
    "complex": lambda: 1 + 2j,
    "Decimal": lambda: Decimal("0.5"),
    "np.float32": lambda: np.float32(3),
    "np.int64": lambda: np.int64(-3),
    "np.nan array": lambda: np.array([math.nan, 1.0]),
    "np strings": lambda: np.array(["a", "b"]),
    "np objects": lambda: np.array([None, 1], dtype=object),
    "np 2d": lambda: np.ones((2, 3)),
    "scalar tensor": lambda: torch.tensor(2.0),
    "int tensor": lambda: torch.tensor([1, 2]),
    "bool tensor": lambda: torch.tensor([True, False]),
    "complex tensor": lambda: torch.ones(2, 5, 3, dtype=torch.complex64),
    "meta tensor": lambda: torch.ones(2, 5, 3, device="meta"),
    "sparse tensor": lambda: torch.eye(3).to_sparse(),
    "empty tensor": lambda: torch.empty(0),
    "5-d tensor": lambda: torch.ones(1, 2, 1, 2, 1),
    "half tensor": lambda: torch.ones(2, 5, 3, dtype=torch.float16),
    "a module": lambda: nn.Linear(2, 2),
    "a dtype": lambda: torch.int32,
    "a device": lambda: torch.device("meta"),
}


def _filled(value: float) -> Callable[[Tensor], Any]:
    return lambda t: torch.full_like(t, value) if t.is_floating_point() else t.long() - 10**6


SPOIL: dict[str, Callable[[Tensor], Any]] = {
    "one axis more": lambda t: t.unsqueeze(0),
    "one axis less": lambda t: t[0] if t.ndim and len(t) else torch.ones(2, 2),
    "turned": lambda t: t.mT if t.ndim > 1 else t.reshape(1, 1, -1).mT,
    "longer": lambda t: torch.cat([t, t]) if t.ndim else t[None],
    "wider": lambda t: torch.cat([t, t], -1) if t.ndim else t[None],
    "empty": lambda t: t[:0] if t.ndim else torch.empty(0),
    "no features": lambda t: t[..., :0] if t.ndim else torch.empty(0),
    "float64": lambda t: t.double(),
    "float16": lambda t: t.half(),
    "long": lambda t: t.long(),
    "bool": lambda t: t.bool(),
    "complex": lambda t: t.to(torch.complex64),
    "meta": lambda t: t.to("meta"),
    "sparse": lambda t: t.detach().to_sparse() if t.ndim else t,
    "numpy": lambda t: t.detach().numpy(),
    "lists": lambda t: t.tolist(),
    "nan": _filled(math.nan),
    "inf": _filled(math.inf),
    "huge": _filled(1e38),
}


def spoil_state(state: Any, rng: Random) -> tuple[str, Any]:
    """A state of another structure, or with one of its tensors spoiled."""
    if isinstance(state, Tensor):
        name = rng.choice(list(SPOIL))
        return name, SPOIL[name](state)
    kind = rng.choice(["first", "last", "short", "long", "turned", "nested", "part", "part"])
    if kind == "part":
        i = rng.randrange(len(state))
        name, part = spoil(state[i], rng)
        return f"part {i}: {name}", (*state[:i], part, *state[i + 1 :])
    shapes = {
        "first": lambda: state[0],
        "last": lambda: state[-1],
        "short": lambda: state[:-1],
        "long": lambda: (*state, state[-1]),
        "turned": lambda: state[::-1],
        "nested": lambda: (state, state),
    }
    return kind, shapes[kind]()


def spoil(value: Any, rng: Random) -> tuple[str, Any]:
    """Something wrong in the place of a right value, and its name."""
    if isinstance(value, Tensor) and rng.random() < 0.6:
        name = rng.choice(list(SPOIL))
        return name, SPOIL[name](value)
    is_state = isinstance(value, tuple) and all(isinstance(v, (Tensor, tuple)) for v in value)
    if is_state and value and rng.random() < 0.6:
        return spoil_state(value, rng)
    name = rng.choice(list(WRONG))
    return name, WRONG[name]()
