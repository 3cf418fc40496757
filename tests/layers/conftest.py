"""Small layers, built the same way for every test that asks for one by its ``name``."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests import variants


@pytest.fixture
def build(name: str) -> Callable[..., nn.Module]:
    """A builder of the variant ``name``, with the same weights each time."""
    return lambda **kwargs: variants.build(name, **kwargs)


@pytest.fixture
def make_input(name: str) -> Callable[..., Tensor]:
    """An input of the variant: (2, features) for a cell, (2, length, features) for others."""
    layer = variants.build(name)

    def make(length: int = 9, *, dtype: torch.dtype = torch.float32, **kwargs) -> Tensor:
        return variants.sample(layer, length, dtype=dtype).to(**kwargs)

    return make
