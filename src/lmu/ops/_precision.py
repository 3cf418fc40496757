"""Which dtype a memory is computed in."""

import torch
from torch import Tensor


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of a memory whose input has ``dtype``: itself, but at least float32."""
    return torch.promote_types(dtype, torch.float32)


def power_dtype(device: torch.device) -> torch.dtype:
    """Dtype in which matrices are raised to powers: float64 wherever the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def widen(tensor: Tensor) -> Tensor:
    """The tensor in the dtype for powers."""
    return tensor.to(power_dtype(tensor.device))
