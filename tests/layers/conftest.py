"""Small layers, built the same way for every test."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lmu import LMU, LMUFFT, LMUCell

BUILD: dict[str, Callable[..., nn.Module]] = {
    "LMUCell": lambda **kw: LMUCell(3, 7, 6, 12.0, **kw),
    "LMU": lambda **kw: LMU(3, 7, 6, 12.0, **kw),
    "LMU-open": lambda **kw: LMU(
        3, 7, 6, 12.0, hidden_to_memory=False, memory_to_memory=False, **kw
    ),
    "LMU-channels": lambda **kw: LMU(
        3, 7, 6, [12.0, 9.0], memory_channels=2, memory_bias=True, hidden_bias=True, **kw
    ),
    "LMU-channels-open": lambda **kw: LMU(
        3,
        7,
        6,
        12.0,
        memory_channels=2,
        hidden_to_memory=False,
        memory_to_memory=False,
        input_to_hidden=False,
        **kw,
    ),
    "LMU-tanh": lambda **kw: LMU(3, 7, 6, 12.0, encoder_activation=torch.tanh, **kw),
    "LMU-tanh-open": lambda **kw: LMU(
        3,
        7,
        6,
        12.0,
        encoder_activation=torch.tanh,
        hidden_to_memory=False,
        memory_to_memory=False,
        **kw,
    ),
    "LMU-memory": lambda **kw: LMU(
        3, None, 6, 12.0, hidden_cell=None, hidden_to_memory=False, **kw
    ),
    "LMU-linear": lambda **kw: LMU(
        3, 7, 6, 12.0, hidden_cell=nn.Sequential(nn.Linear(9, 7, **only(kw)), nn.Sigmoid()), **kw
    ),
    "LMU-gru": lambda **kw: LMU(
        3,
        7,
        6,
        12.0,
        hidden_cell=nn.GRUCell(15, 7, **only(kw)),
        hidden_to_memory=False,
        memory_to_memory=False,
        memory_channels=2,
        **kw,
    ),
    "LMU-lstm": lambda **kw: LMU(
        3, 7, 6, 12.0, hidden_cell=nn.LSTMCell(6, 7, **only(kw)), input_to_hidden=False, **kw
    ),
    "LMUFFT": lambda **kw: LMUFFT(3, 7, 6, 9, 12.0, **kw),
    "LMUFFT-channels": lambda **kw: LMUFFT(
        3,
        7,
        6,
        9,
        [12.0, 9.0, 30.0],
        memory_channels=3,
        encode_input=False,
        encoder_activation=None,
        input_to_hidden=False,
        **kw,
    ),
    "LMUFFT-last": lambda **kw: LMUFFT(3, 7, 6, 9, 12.0, return_sequences=False, **kw),
}


def only(kwargs: dict[str, Any]) -> dict[str, Any]:
    """What a hidden cell's constructor takes of a layer's."""
    return {key: value for key, value in kwargs.items() if key in {"device", "dtype"}}


def state_like(layer: nn.Module, x: Tensor) -> Any:
    """A state other than zero, (h, m), of the shapes that the layer's has."""
    kwargs = {"return_state": True} if isinstance(layer, LMUFFT) else {}
    out = layer(x, **kwargs)
    state = out if type(layer) is LMUCell else out[1]
    return tree_map(
        lambda s: torch.linspace(-0.5, 0.5, s.numel()).to(s).view_as(s).requires_grad_(), state
    )


@pytest.fixture(params=BUILD)
def name(request) -> str:
    return request.param


@pytest.fixture
def build(name) -> Callable[..., nn.Module]:
    def seeded(**kwargs: Any) -> nn.Module:
        torch.manual_seed(0)
        return BUILD[name](**kwargs)

    return seeded


@pytest.fixture
def make_input(name) -> Callable[..., Tensor]:
    """An input of the layer: (2, 3) for the cell, (2, length, 3) for the others."""

    def make(length: int = 9, **kwargs: Any) -> Tensor:
        g = torch.Generator().manual_seed(1)
        x = torch.randn(2, length, 3, dtype=torch.float64, generator=g)
        return (x[:, 0] if name == "LMUCell" else x).to(**kwargs or {"dtype": torch.float32})

    return make
