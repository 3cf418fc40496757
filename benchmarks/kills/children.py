"""Commands in forked processes, which have everything imported and can be killed."""

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from experiments.__main__ import build_app
from lmu.cli import app
from lmu.tasks import mnist


def prepare() -> None:
    """Import packages and read data once, in the parent, which takes each command seconds."""
    import lmu.tasks.psmnist.run  # noqa: F401

    torch.set_num_threads(1)  # a forked process has none of its parent's threads
    paths, load = mnist.locate(), mnist.load
    mnist.verify(paths)
    parts = {part: load(paths, part) for part in ("train", "t10k")}
    mnist.verify = lambda paths: None
    mnist.load = lambda paths, part: parts[part]


def start(
    arguments: list[str],
    log: Path,
    tmpdir: Path,
    file_limit: int | None = None,
    fresh: bool = False,
) -> int:
    """Fork a process that runs a command, and return its id.

    Args:
        arguments: The command, ``lmu`` or ``experiments``, and its arguments.
        log: File for its output.
        tmpdir: Its ``TMPDIR``.
        file_limit: Largest size of a file that it may write, in bytes.
        fresh: Start a new Python, as a user does.
    """
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout = sys.stderr = os.fdopen(1, "w", closefd=False)
        os.environ |= {"TMPDIR": str(tmpdir), "COLUMNS": "200"}
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
        if fresh:
            os.execv(sys.executable, [sys.executable, "-m", *arguments])
        command, *words = arguments
        (app if command == "lmu" else build_app())(words, prog_name=command)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # must not escape: the parent's code would run a second time
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def ended(pid: int) -> int | None:
    """Return the exit status of a process, None while it runs."""
    ended_pid, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended_pid else None


def wait(pid: int, seconds: float, until: Callable[[], bool] = lambda: False) -> int | None:
    """Wait for a process to end, a condition or a time; return the exit status if it ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not until():
        status = ended(pid)
        if status is not None:
            return status
        time.sleep(0.001)
    return None


def kill(pid: int) -> bool:
    """Kill a process by SIGKILL; True if it had not ended by itself."""
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) == -signal.SIGKILL
