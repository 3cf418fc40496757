"""The compiled core: kernels in C, in one shared library for every version of PyTorch and Python."""

import ctypes
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

LIBRARY = Path(__file__).parent / "_core.so"
ACTIVATION_NUMBERS = {"tanh": 0, "relu": 1, "sigmoid": 2, "identity": 3}  # of activations.h
_PRECISIONS = {torch.float32: "f32", torch.float64: "f64"}


class NativeStatus(NamedTuple):
    """Whether the compiled core can run, with which instructions, and why not."""

    available: bool
    variant: str | None
    reason: str


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    return ctypes.CDLL(str(LIBRARY)) if LIBRARY.exists() else None


def native_status() -> NativeStatus:
    """Say whether the compiled core can run."""
    if _library() is None:
        return NativeStatus(False, None, f"{LIBRARY.name} was not built")
    return NativeStatus(True, _variant(), "loaded")


def _variant() -> str:
    return "avx512" if torch.cpu._is_avx512_supported() else "avx2"


def is_available(*tensors: Tensor) -> bool:
    """True if kernels can run on these: on the CPU, in float32 or float64."""
    return _library() is not None and all(
        t.device.type == "cpu" and t.dtype in _PRECISIONS for t in tensors
    )


@lru_cache(maxsize=256)
def _kernel(name: str, dtype: torch.dtype) -> ctypes.c_void_p:
    function = getattr(_library(), f"lmu_{name}_{_PRECISIONS[dtype]}_{_variant()}")
    return ctypes.cast(function, ctypes.c_void_p)


@lru_cache(maxsize=1)
def fork() -> ctypes.c_void_p:
    """``GOMP_parallel`` of the OpenMP library that PyTorch has loaded; NULL if there is none."""
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p)
    except (AttributeError, TypeError, OSError):
        return ctypes.c_void_p(None)


def run(name: str, dtype: torch.dtype, arguments: Any, parts: int) -> None:
    """Run a kernel on its arguments, a ``ctypes.Structure``, in ``parts`` parts.

    Raises:
        MemoryError: There is not enough memory for the kernel's buffers.
    """
    library: Any = _library()
    threads = torch.get_num_threads()
    status = library.lmu_run(
        _kernel(name, dtype),
        ctypes.byref(arguments),
        ctypes.c_int64(parts),
        ctypes.c_int64(threads),
        fork() if threads > 1 and parts > 1 else None,
    )
    if status:
        raise MemoryError(f"no memory for the buffers of the kernel {name!r}")
