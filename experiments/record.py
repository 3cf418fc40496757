"""The file that an experiment leaves."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from lmu._files import WriteError, read_json, write_json
from lmu._machine import git_commit, processor
from lmu.training.report import versions

Row = dict[str, Any]
Kinds = dict[str, type | tuple[type, ...]]
_CURE = "name another file"
_WAIT = 60  # seconds; the lock is held for as long as a file is read and written


def write_record(path: Path, experiment: str, settings: Row, **results: Any) -> None:
    """Write figures, and what they depend on, as JSON.

    Args:
        path: The file, written whole.
        experiment: Name of its command.
        settings: Those of the experiment.
        results: Figures, as plain data.
    """
    where = {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }
    content = {"experiment": experiment, "settings": settings, **results}
    content |= {"versions": versions(), "git_commit": git_commit(), "machine": where}
    write_json(path, content)


def read_rows(path: Path, experiment: str, kinds: Kinds) -> list[Row]:
    """The rows that a file holds; none if there is no file.

    Args:
        path: The file.
        experiment: Whose record it must be.
        kinds: What each row must hold at least, by name.

    Raises:
        ValueError: It is no record of this experiment, or someone has changed it.
    """
    if not path.exists():
        return []
    try:
        record = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} is no record of this experiment ({error}): {_CURE}") from error
    if not isinstance(record, dict) or record.get("experiment") != experiment:
        raise ValueError(f"{path} is no record of this experiment: {_CURE}")
    rows = record.get("rows")
    if not isinstance(rows, list):
        raise ValueError(f"{path} is no record of this experiment, it has no list of rows: {_CURE}")
    for number, row in enumerate(rows, 1):
        wrong = kinds if not isinstance(row, dict) else _wrong(row, kinds)
        if wrong:
            odd = f"row {number} has none, or an odd, {', '.join(wrong)}"
            raise ValueError(f"{path} is no record of this experiment, {odd}: {_CURE}")
    return rows


def _wrong(row: Row, kinds: Kinds) -> list[str]:
    return [
        name
        for name, kind in kinds.items()
        if not isinstance(row.get(name), kind) or isinstance(row.get(name), bool)
    ]


def add_row(
    path: Path,
    experiment: str,
    settings: Row,
    row: Row,
    kinds: Kinds,
    key: Callable[[Row], Any],
    order: Callable[[Iterable[Row]], list[Row]] = list,
) -> list[Row]:
    """Add a row to those that the file holds by then, whoever wrote them, and return them all.

    Args:
        path: See :func:`write_record`, as for ``experiment`` and ``settings``.
        experiment: Its name.
        settings: Those of the experiment.
        row: The new one. One with its key that another process has added meanwhile stays.
        kinds: See :func:`read_rows`.
        key: What tells a row from others.
        order: Puts the rows in their order.

    Raises:
        ValueError: The file has become another one.
        WriteError: It cannot be written, or another process holds its lock for ever.
    """
    with locked(path):
        rows = read_rows(path, experiment, kinds)
        if key(row) not in [key(other) for other in rows]:
            rows = order([*rows, row])
            write_record(path, experiment, settings, rows=rows)
        return rows


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from changing a file; the lock ends with the process that holds it.

    It is a file beside it, ``.<name>.lock``, which stays: to remove it would let two processes
    hold it.

    Raises:
        WriteError: It cannot be had.
    """
    from filelock import FileLock, Timeout  # a package that PyTorch needs

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=_WAIT)
    try:
        lock.acquire()
    except Timeout as error:
        told = f"{path} cannot be written: another process has held {lock.lock_file} for {_WAIT} s"
        raise WriteError(error.errno, told) from error
    except OSError as error:
        raise WriteError(error.errno, f"{path} cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()
