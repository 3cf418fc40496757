"""The compiled core: kernels in C, in one shared library for every version of PyTorch and Python.

Each topic has a wrapper here, ``<topic>.py``, the only module that knows its kernels. It asks
``is_available`` or ``require``, and calls ``run``.
"""

import ctypes
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmu.ops.native import _threads
from lmu.ops.native._library import Library, open_library

ACTIVATION_NUMBERS = {"tanh": 0, "relu": 1, "sigmoid": 2, "identity": 3}  # of activations.h
_PRECISIONS = {torch.float32: "f32", torch.float64: "f64"}

# Plain globals, so that torch.compile can trace is_available, and traces again if they change.
_core = open_library()
_variant: str | None = next(iter(_core.variants), None)
_kernels: dict[tuple[str, torch.dtype], int] = {}


class NativeStatus(NamedTuple):
    """Whether the compiled core can run, and how or why not.

    Attributes:
        available: True if methods of the core can run on CPU tensors of float32 and float64.
        variant: The instructions that it uses: "avx512", "avx2", "neon" or "baseline"; or None.
        threads: The threads that share its work, or None.
        reason: Why it cannot run; empty if it can.
        path: Its library.
    """

    available: bool
    variant: str | None
    threads: str | None
    reason: str
    path: Path


def native_status() -> NativeStatus:
    """Say whether the compiled core can run, with which instructions and threads, or why not.

    ``print(lmu.native_status())`` belongs into a report of slowness. Without the core everything
    runs on PyTorch's operations; only methods that need it by name are refused.

    Returns:
        A named tuple of available, variant, threads, reason and path.
    """
    if _variant is None:
        return NativeStatus(False, None, None, _reason(), _core.path)
    threads = _threads.OWN if _threads.team() is None else _threads.TEAM
    return NativeStatus(True, _variant, threads, "", _core.path)


def variants() -> tuple[str, ...]:
    """Return the variants that are built and that this processor can run, best first."""
    return _core.variants


def _reason() -> str:
    return _core.reason or 'lmu.ops.native.use switched it off, and use("auto") switches it on'


def is_available(*tensors: Tensor) -> bool:
    """True if kernels can run on these: on the CPU, in float32 or float64."""
    if _variant is None:
        return False
    for tensor in tensors:  # noqa: SIM110 - all() would take longer, and so would device.type
        if not tensor.is_cpu or tensor.dtype not in _PRECISIONS:
            return False
    return True


def require(*tensors: Tensor) -> None:
    """Refuse what kernels cannot run on, for methods that were asked for by name.

    Raises:
        ValueError: The core is not there, or a tensor is elsewhere or of another dtype.
    """
    if _variant is None:
        raise ValueError(
            f"this method runs in the compiled core, which is not available: {_reason()}; "
            'use method="auto"'
        )
    for tensor in tensors:
        if tensor.device.type != "cpu":
            raise ValueError(
                "this method runs in the compiled core, on the CPU, but a tensor is on "
                f'{tensor.device}: move it, or use method="auto"'
            )
        if tensor.dtype not in _PRECISIONS:
            raise ValueError(
                "this method runs in the compiled core, in float32 or float64, but a tensor is "
                f'{tensor.dtype}: convert it, or use method="auto"'
            )
    if torch.compiler.is_compiling():
        return
    kinds = {type(tensor) for tensor in tensors} - {Tensor, torch.nn.Parameter}
    if kinds or torch._C._len_torch_dispatch_stack():
        what = f"on a {kinds.pop().__name__}" if kinds else "under a mode that watches operations"
        raise ValueError(
            f"this method runs in the compiled core, on plain tensors, but is called {what}; "
            'use method="auto"'
        )


class use:  # noqa: N801
    """Choose the core's variant, or switch the core off, until told otherwise or in a block.

    As ``torch.set_grad_enabled``: a call sets it, for all threads, and ``with`` restores what was
    before. Models compiled by ``torch.compile`` are compiled again where it matters.

    Example::

        with lmu.ops.native.use(None):     # PyTorch's operations alone
            output, state = layer(x)

    Args:
        variant: A variant that this processor can run, such as "avx2"; "auto" for the best; or
            None for no core.
        library: Another library to take it from, as one built with sanitizers.

    Raises:
        ValueError: The variant or the library is not there, or the library does not fit.
    """

    def __init__(self, variant: str | None, *, library: Path | None = None) -> None:
        self._before = _core, _variant
        source = _core if library is None else open_library(library)
        if library is not None and source.reason:
            raise ValueError(f"{library}: {source.reason}")
        if variant == "auto":
            variant = next(iter(source.variants), None)
        elif variant is not None and variant not in source.variants:
            missing = f": the core is not available, {source.reason}" if source.reason else ""
            raise ValueError(
                f'variant must be None, "auto" or one of {source.variants}, '
                f"got {variant!r}{missing}"
            )
        _choose(source, variant)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _choose(*self._before)


def _choose(library: Library, variant: str | None) -> None:
    global _core, _variant
    _core, _variant = library, variant
    _kernels.clear()


def run(name: str, dtype: torch.dtype, arguments: ctypes.Structure, parts: int) -> None:
    """Run a kernel, ``int NAME(name)(const void *arguments, int64_t part, int64_t parts)``.

    Args:
        name: The kernel, as in ``NAME(name)`` of its C file.
        dtype: float32 or float64.
        arguments: What its first argument points to.
        parts: The number of parts, spread over ``torch.get_num_threads()`` threads.

    Raises:
        MemoryError: There is not enough memory for the kernel's buffers.
    """
    kernel = _kernels.get((name, dtype)) or _find(name, dtype)
    threads = torch.get_num_threads() if parts > 1 else 1
    if threads == 1:
        status = _core.c.lmu_run(kernel, ctypes.byref(arguments), parts, 1, None, None)
    elif (team := _threads.team()) is not None:
        status = _core.c.lmu_run(kernel, ctypes.byref(arguments), parts, threads, *team)
    else:
        status = _threads.run_on_own(_core.c, kernel, arguments, parts, threads)
    if status:
        raise MemoryError(f"no memory for the buffers of the kernel {name!r}")


def bind(name: str, dtype: torch.dtype, arguments: ctypes.Structure) -> partial[int]:
    """Return a function that runs a kernel in one part, for steps that are called very often.

    It takes the addresses of an input and an output, which come first in ``arguments``. It keeps
    ``arguments``, which may be changed between calls, and the variant of now. The kernel must be
    one that cannot fail, as those of steps, which take no memory.
    """
    kernel = _kernels.get((name, dtype)) or _find(name, dtype)
    job = _threads.Job(kernel, ctypes.addressof(arguments), 1, 0, 0)
    run: Any = partial(_core.c.lmu_repeat, ctypes.addressof(job))
    run.kept = job, arguments
    return run


def _find(name: str, dtype: torch.dtype) -> int:
    require()
    function = getattr(_core.c, f"lmu_{name}_{_PRECISIONS[dtype]}_{_variant}")
    return _kernels.setdefault((name, dtype), _threads.address(function))
