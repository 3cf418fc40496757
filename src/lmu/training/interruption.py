"""How a run ends before its time: a signal, a full disk, or the loss of one of its processes."""

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lmu._files import WriteError
from lmu.training.checkpoint import RunCheckpoint
from lmu.training.saved import LAST, PREVIOUS

# How the backends of torch.distributed tell that another process is gone; gloo has no error of its
# own for it.
LOST = re.compile(r"gloo|NCCL|[Cc]onnection (closed|reset|refused)|[Tt]imed out|Broken pipe")


class RunInterruptedError(Exception):
    """A run was stopped by a signal, a file that cannot be written, or the loss of a process.

    Attributes:
        folder: The run's folder.
        resumable: Whether there is a checkpoint in it.
        exit_code: Conventional exit status for the signal; 1 for the other reasons.
    """

    def __init__(self, folder: Path, exit_code: int, reason: str = "interrupted") -> None:
        super().__init__(reason)
        self.folder = folder
        self.resumable = any((folder / name).is_file() for name in (LAST, PREVIOUS))
        self.exit_code = exit_code


@contextmanager
def interruptible(trainer: Trainer, checkpoint: RunCheckpoint) -> Iterator[None]:
    """Turn Lightning's way of ending on a signal, SystemExit, into an error that can be handled.

    Likewise a file that cannot be written, and what a backend says when a process is lost.
    """
    handler: Callable[..., Any] | int | None = signal.getsignal(signal.SIGINT)
    try:
        yield
    except KeyboardInterrupt as error:
        raise RunInterruptedError(checkpoint.folder, 130) from error
    except SystemExit as error:
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored
        exit_code = 143 if isinstance(error, SIGTERMException) else 130
        raise RunInterruptedError(checkpoint.folder, exit_code) from error
    except WriteError as error:
        raise RunInterruptedError(checkpoint.folder, 1, str(error)) from error
    except RuntimeError as error:
        if trainer.world_size == 1 or not LOST.search(str(error)):
            raise
        said = re.sub(r"\[[^\]]*\] *", "", str(error))  # without places in its code
        said = said.splitlines()[0].split(". ")[0]
        reason = (
            f"process {trainer.global_rank} of {trainer.world_size} lost the connection to "
            f"another, which may have been killed: {said}"
        )
        raise RunInterruptedError(checkpoint.folder, 1, reason) from error
