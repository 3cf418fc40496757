"""Which dtype a memory is computed in."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of a memory whose input has ``dtype``: itself, but at least float32."""
    return torch.promote_types(dtype, torch.float32)


def power_dtype(device: torch.device) -> torch.dtype:
    """Dtype in which matrices are raised to powers: float64 wherever the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def memory_dtype(m: Tensor, dtype: torch.dtype) -> torch.dtype:
    """Dtype in which a memory ``m`` goes on in a computation of ``dtype``: its own, if wider."""
    return m.dtype if m.dtype.itemsize > dtype.itemsize else dtype


def no_autocast(device: torch.device) -> AbstractContextManager:
    """A context in which nothing is narrowed."""
    if not is_autocast(device):  # entering the context takes microseconds
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def is_autocast(device: torch.device) -> bool:
    """Whether tensors of the device are narrowed; never on those, such as meta, that lack it."""
    return device.type in _AUTOCAST and torch.is_autocast_enabled(device.type)


# Asked once: PyTorch 2.6 cannot trace the question.
_DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "mtia", torch._C._get_privateuse1_backend_name())
_AUTOCAST = {device for device in _DEVICES if torch.amp.is_autocast_available(device)}


def widen(tensor: Tensor) -> Tensor:
    """The tensor in the dtype for powers."""
    return tensor.to(power_dtype(tensor.device))
