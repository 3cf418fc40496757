import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lmu.tasks.psmnist.config import PsMNISTConfig
from lmu.tasks.psmnist.run import train
from lmu.training.run import RunResult

SMALL: dict[str, Any] = {
    "hidden_size": 12,
    "memory_size": 8,
    "batch_size": 50,
    "limit": 230,
    "accelerator": "cpu",
}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small run faster on one thread, above all beside other processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A short run of a small model."""
    return train(PsMNISTConfig(epochs=3, **SMALL), output=tmp_path_factory.mktemp("runs"))


@pytest.fixture(autouse=True)
def quick(quick_runs: None) -> None:
    """But the runs above."""


@pytest.fixture
def small() -> dict[str, Any]:
    return dict(SMALL)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """No test cuts the power, and to wait for the disk takes longer than these runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield
