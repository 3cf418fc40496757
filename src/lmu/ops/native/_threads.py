"""Threads of the kernels: those of PyTorch's OpenMP team, or a few Python threads.

PyTorch's threads spin for milliseconds after each operation, so that a second pool beside them
would wait for the processor. Its own team is entered by ``GOMP_parallel``, which both libgomp and
libomp have. Where PyTorch has no OpenMP, or in a forked process, whose OpenMP threads are lost,
Python threads take the parts of a job: ctypes releases the interpreter lock.
"""

import ctypes
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import torch

TEAM, OWN = "PyTorch's OpenMP threads", "Python threads"


class Team(NamedTuple):
    """Addresses of ``GOMP_parallel`` and ``omp_in_parallel`` of PyTorch's OpenMP library."""

    fork: int
    inside: int


class Job(ctypes.Structure):
    """``lmu_job`` of parallel.h."""

    _fields_ = (
        ("kernel", ctypes.c_void_p),
        ("arguments", ctypes.c_void_p),
        ("parts", ctypes.c_int64),
        ("next", ctypes.c_int64),
        ("status", ctypes.c_int),
    )


@lru_cache(maxsize=1)
def team() -> Team | None:
    """Return the team of PyTorch's OpenMP; None where there is none, or in a forked process."""
    if _forked or "ATen parallel backend: OpenMP" not in torch.__config__.parallel_info():
        return None
    for library in _as_pytorch_looks_it_up():
        try:
            return Team(address(library.GOMP_parallel), address(library.omp_in_parallel))
        except AttributeError:
            continue
    return None


def address(function: Any) -> int:
    """Return the address of a function of a library."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _as_pytorch_looks_it_up() -> list[ctypes.CDLL]:
    """Libraries in the order in which PyTorch's symbols were bound, so that its team is found.

    On Linux the global scope comes first, then PyTorch's dependencies; on macOS these alone count.
    """
    if sys.platform == "win32":
        return []
    suffix = "dylib" if sys.platform == "darwin" else "so"
    path = Path(torch.__file__).parent / "lib" / f"libtorch_cpu.{suffix}"
    loaded = [] if sys.platform == "darwin" else [ctypes.CDLL(None)]
    try:
        return [*loaded, ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_NOW)]
    except OSError:  # another build of PyTorch
        return loaded


_forked = False
_lock = Lock()
_pool: ThreadPoolExecutor | None = None
_size = 0


def _after_fork() -> None:
    """Forget the threads that the parent process has."""
    global _forked, _lock, _pool, _size
    _forked, _lock, _pool, _size = True, Lock(), None, 0
    team.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def run_on_own(library: Any, kernel: int, arguments: Any, parts: int, threads: int) -> int:
    """Run all parts of a kernel on this thread and some Python threads; 0, or an error number."""
    pointer = ctypes.cast(ctypes.byref(arguments), ctypes.c_void_p)
    job = Job(kernel, pointer, parts, 0, 0)
    helpers = _start(min(threads, parts) - 1, library, job)
    library.lmu_work(ctypes.byref(job))
    for helper in helpers:
        if not helper.cancel():  # it has begun, and may still be at its last part
            helper.result()
    return job.status


def _start(number: int, library: Any, job: Job) -> list[Any]:
    """Set some threads to work on a job. Fewer are no error: the caller takes what is left."""
    global _pool, _size
    with _lock:
        if _pool is None or _size < number:
            if _pool is not None:
                _pool.shutdown(wait=False)
            _pool, _size = ThreadPoolExecutor(number, thread_name_prefix="lmu"), number
        try:
            return [_pool.submit(library.lmu_work, ctypes.byref(job)) for _ in range(number)]
        except RuntimeError:  # the interpreter shuts down, or has no thread left
            return []
