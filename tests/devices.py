"""The device of the conformance tests, which `pytest --device` names."""

import pytest
import torch
from torch import Tensor

CHOICES = ("cpu", "cuda", "mps")
current = torch.device("cpu")


def choose(name: str) -> None:
    """Run the conformance tests on another device, if it is there."""
    global current
    there = {
        "cpu": lambda: True,
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    if not there[name]():
        raise pytest.UsageError(
            f"--device {name}: this PyTorch {torch.__version__} finds no such device here; run "
            "the tests where there is one, or without --device"
        )
    current = torch.device(name)


def place(tensor: Tensor) -> Tensor:
    """The tensor on the device; skips a test that needs float64 where there is none."""
    if current.type == "mps" and tensor.dtype == torch.float64:
        pytest.skip("MPS has no float64")
    return tensor.to(current)


def place_system(Ad: Tensor, Bd: Tensor) -> tuple[Tensor, Tensor]:
    """A discrete system on the device, in the widest dtype that it has."""
    dtype = torch.float32 if current.type == "mps" else torch.float64
    return Ad.to(current, dtype), Bd.to(current, dtype)


def exact(tensor: Tensor) -> Tensor:
    """The numbers of a result, to compare on the CPU."""
    return tensor.detach().to("cpu", torch.float64)


def named(value: object) -> str:
    """A test's name for an argument, without the address of a function."""
    return getattr(value, "__name__", str(value))
