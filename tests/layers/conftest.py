"""Small layers, built the same way for every test."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lmu import LMU, LMUFFT, LMUCell

BUILD: dict[str, Callable[..., nn.Module]] = {
    "LMUCell": lambda **kw: LMUCell(3, 7, 6, 12.0, **kw),
    "LMU": lambda **kw: LMU(3, 7, 6, 12.0, **kw),
    "LMU-open": lambda **kw: LMU(
        3, 7, 6, 12.0, hidden_to_memory=False, memory_to_memory=False, **kw
    ),
    "LMUFFT": lambda **kw: LMUFFT(3, 7, 6, 9, 12.0, **kw),
    "LMUFFT-last": lambda **kw: LMUFFT(3, 7, 6, 9, 12.0, return_sequences=False, **kw),
}


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
