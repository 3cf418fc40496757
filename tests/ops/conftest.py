"""Fixtures for the ops."""

from collections.abc import Iterator

import pytest
import torch

from tests import devices


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Fill every fresh buffer with NaN, so that one read before it is written shows."""
    if devices.current.type != "cpu":
        pytest.skip("kernels of other devices may refuse to run deterministically")
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
