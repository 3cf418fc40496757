"""Atomic writing of files, safe against kills, crashes and full disks; reading of edited JSON."""

import errno
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

if sys.platform != "win32":
    import fcntl

# The suffix stays, as writers choose the format by it.
_TEMPORARY = re.compile(r"\.(?P<stem>.*)\.[0-9a-f]{8}\.tmp(\.[^.]*)?", re.DOTALL)
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
_DAY = 86400  # seconds after which a temporary is abandoned, where there are no locks
_STEM = 40  # characters of the name in a temporary's: file systems limit names


class WriteError(OSError):
    """A file could not be written; the message says why. The file of before is unchanged."""

    def __str__(self) -> str:
        return str(self.strerror)


class DiskFullError(WriteError):
    """There is no room for a file."""


@contextmanager
def whole_file(path: Path, previous: Path | None = None) -> Iterator[Path]:
    """Yield a temporary name beside ``path``, and replace ``path`` by it at the end.

    The content is synced to the disk first, so that a kill, a crash or a full disk leaves the file
    of before, if any. Temporaries of ``path`` that killed processes left are removed.

    Args:
        path: The file to write; its folder is made if it is missing.
        previous: Keep the file of before under this name, in the same folder.

    Raises:
        DiskFullError: There is no room for it.
        WriteError: It cannot be written for another reason.
    """
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is there and no regular file")
        remove_leftovers(path.parent, path.stem)
        temporary, lock = _claim(path)
    try:
        with _explained(path):
            yield temporary
            _sync(temporary)
            if previous is not None:
                _keep(path, previous)
            os.replace(temporary, path)
            _sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)


def write_whole(path: Path, content: bytes, previous: Path | None = None) -> None:
    """Write a file atomically: no reader and no interruption sees a part of it.

    Args:
        path: See :func:`whole_file`, as for ``previous`` and the errors.
        content: All bytes of the file.
        previous: Keep the file of before under this name.
    """
    with whole_file(path, previous) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    """Write plain data as indented JSON.

    Raises:
        ValueError: A number is not finite, for which JSON has no notation.
        WriteError: See :func:`whole_file`.
    """
    write_whole(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON that may have been edited by hand.

    Raises:
        ValueError: It cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error


def remove_leftovers(folder: Path, stem: str | None = None) -> None:
    """Remove the temporaries that killed processes left in a folder, and nothing else.

    Args:
        folder: The folder, without its subfolders.
        stem: Only those of files with this name, without its suffix.
    """
    for path in folder.glob(".*.tmp*"):
        match = _TEMPORARY.fullmatch(path.name)
        if match and (stem is None or match["stem"] == stem[:_STEM]):
            _remove_abandoned(path)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.stem[:_STEM]}.{secrets.token_hex(4)}.tmp{path.suffix}")


def _claim(path: Path) -> tuple[Path, int | None]:
    """Create a temporary, and a lock on it that ends with this process."""
    while True:
        temporary = _temporary(path)
        file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if sys.platform == "win32":  # where an open file cannot be renamed
            os.close(file)
            return temporary, None
        if _lock(file) is not False and os.fstat(file).st_nlink:
            return temporary, file
        os.close(file)  # another process removed it as a leftover before it was locked


def _lock(file: int) -> bool | None:
    """Try to lock a file: True if it worked, None where the file system has no locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove_abandoned(path: Path) -> None:
    """Remove a temporary unless its writer is running."""
    with suppress(OSError):  # another process may remove it at the same time
        file = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        try:
            locked = _lock(file)
            abandoned = time.time() - os.fstat(file).st_mtime > _DAY if locked is None else locked
            if sys.platform != "win32" and abandoned:
                path.unlink(missing_ok=True)
        finally:
            os.close(file)
        if sys.platform == "win32" and abandoned:  # Windows removes no open file
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":
        return
    file = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # not every file system can
            os.fsync(file)
    finally:
        os.close(file)


def _keep(path: Path, previous: Path) -> None:
    """Give a file the second name ``previous`` while it keeps its own."""
    if not path.is_file():
        return
    link = _temporary(previous)
    try:
        os.link(path, link)
        os.replace(link, previous)
    except OSError:  # a file system without hard links: for an instant only ``previous`` is there
        os.replace(path, previous)
    finally:
        with suppress(OSError):
            link.unlink(missing_ok=True)  # still there if both were one file already


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn errors into ones that name the file, and a full disk."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            raise _full(path, reason) from error
        raise WriteError(error.errno, f"{path} cannot be written: {reason}") from error
    except Exception as error:  # writers in other languages raise their own for a full disk
        free = _free(path.parent)
        if free is None or free >= 4096:
            raise
        raise _full(path, "no room left") from error


def _full(path: Path, reason: str) -> DiskFullError:
    free = _free(path.parent)
    room = "" if free is None else f"; {free // 1000:,} kB free"
    return DiskFullError(
        errno.ENOSPC,
        f"disk full: {path} could not be written ({reason}{room}). What was there before is "
        "unchanged: make room, then go on",
    )


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
