"""Record of an experiment: the JSON file of its settings and figures."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmu._files import WriteError, read_json, write_json
from lmu._machine import git_commit, hardware

Row = dict[str, Any]
Kinds = dict[str, type | tuple[type, ...]]
_CURE = "name another file"
_WAIT = 60  # seconds; the lock is held while a file is read and written


def write_record(path: Path, experiment: str, settings: Row, **results: Any) -> None:
    """Write figures, settings, versions and the machine as JSON.

    Args:
        path: The file, written atomically.
        experiment: Name of its command.
        settings: Settings of the experiment.
        results: Figures, as plain data.
    """
    from lmu.training.report import versions  # brings Lightning, which --help does without

    content = {"experiment": experiment, "settings": settings, **results}
    content |= {"versions": versions(), "git_commit": git_commit(), "machine": hardware()}
    write_json(path, content)


def read_rows(path: Path, experiment: str, kinds: Kinds) -> list[Row]:
    """Read the rows of a file; none if there is no file.

    Args:
        path: The file.
        experiment: Experiment of which it must be a record.
        kinds: Types of the entries that each row must have, by name.

    Raises:
        ValueError: It is not a record of this experiment, or it was edited.
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
    """Add a row to those in the file, also of other processes, and return all.

    Args:
        path: See :func:`write_record`, as for ``experiment`` and ``settings``.
        experiment: Name of the experiment.
        settings: Settings of the experiment.
        row: The new row. If another process has added one with its key, that one stays.
        kinds: See :func:`read_rows`.
        key: Returns the entries that identify a row.
        order: Sorts the rows.

    Raises:
        ValueError: The file is not a record of this experiment any more.
        WriteError: It cannot be written, or another process keeps its lock.
    """
    with locked(path):
        rows = read_rows(path, experiment, kinds)
        if key(row) not in [key(other) for other in rows]:
            rows = order([*rows, row])
            write_record(path, experiment, settings, rows=rows)
        return rows


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock a file against changes by other processes; the lock ends with its process.

    The lock is a file beside it, ``.<name>.lock``, which is not removed, as two processes could
    then hold it.

    Raises:
        WriteError: It cannot be acquired.
    """
    from filelock import FileLock, Timeout  # a dependency of PyTorch

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=_WAIT)
    try:
        lock.acquire()
    except Timeout as error:
        text = f"{path} cannot be written: another process has held {lock.lock_file} for {_WAIT} s"
        raise WriteError(error.errno, text) from error
    except OSError as error:
        raise WriteError(error.errno, f"{path} cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()
