"""Interruptions of a run by a signal, a full disk, or the loss of a process."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lmu._files import WriteError
from lmu.training.checkpoint import RunCheckpoint
from lmu.training.lightning import signals_undone
from lmu.training.saved import LAST, PREVIOUS

# Messages of torch.distributed's backends if another process is gone; gloo has no error type for
# it.
LOST = re.compile(r"gloo|NCCL|[Cc]onnection (closed|reset|refused)|[Tt]imed out|Broken pipe")


class RunInterruptedError(Exception):
    """A run was stopped by a signal, a file that cannot be written, or the loss of a process.

    Attributes:
        folder: The run's folder.
        resumable: True if there is a checkpoint in it.
        exit_code: Conventional exit status for the signal; 1 for the other reasons.
    """

    def __init__(self, folder: Path, exit_code: int, reason: str = "interrupted") -> None:
        super().__init__(reason)
        self.folder = folder
        self.resumable = any((folder / name).is_file() for name in (LAST, PREVIOUS))
        self.exit_code = exit_code


@contextmanager
def interruptible(trainer: Trainer, checkpoint: RunCheckpoint) -> Iterator[None]:
    """Turn a signal, a file that cannot be written, and a lost process into one error type.

    Raises:
        RunInterruptedError: One of these happened.
    """
    try:
        with signals_undone(trainer):
            yield
    except KeyboardInterrupt as error:
        exit_code = 143 if isinstance(error.__cause__, SIGTERMException) else 130
        raise RunInterruptedError(checkpoint.folder, exit_code) from error
    except WriteError as error:
        raise RunInterruptedError(checkpoint.folder, 1, str(error)) from error
    except RuntimeError as error:
        if trainer.world_size == 1 or not LOST.search(str(error)):
            raise
        message = re.sub(r"\[[^\]]*\] *", "", str(error))  # without source locations
        message = message.splitlines()[0].split(". ")[0]
        reason = (
            f"process {trainer.global_rank} of {trainer.world_size} lost the connection to "
            f"another, which may have been killed: {message}"
        )
        raise RunInterruptedError(checkpoint.folder, 1, reason) from error
