"""Work in forked processes, which can be killed, without an import for each."""

import os
import traceback
import warnings
from collections.abc import Callable


def start(work: Callable[[], None]) -> int:
    """The number of a new process that does the work."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the work here needs no threads
        pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def status(pid: int) -> int:
    """The exit status of a process, once it ends; that of a signal is negative."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
