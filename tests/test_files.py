"""Files are written whole, whenever the process is killed and whatever the disk says."""

import errno
import os
import signal
import sys
from pathlib import Path

import pytest

from lmu._files import (
    DiskFullError,
    WriteError,
    read_json,
    remove_leftovers,
    whole_file,
    write_whole,
)
from tests import forks

OLDER, OLD, NEW = b"older", b"old" * 100, b"new" * 5000
STEPS = ("open", "fsync", "link", "replace", "unlink", "close")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no fork")


def killed_write(path: Path, step: int, after: bool) -> int:
    """Write a file in a process that is killed at one of its calls of the system."""
    count = 0

    def counted(call):
        def wrapper(*arguments, **options):
            nonlocal count
            count += 1
            if count == step and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            mine = count
            try:
                return call(*arguments, **options)
            finally:
                if mine == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        return wrapper

    def work():
        for name in STEPS:
            setattr(os, name, counted(getattr(os, name)))
        with whole_file(path, path.with_name("previous")) as temporary:
            for part in (NEW[:7000], NEW[7000:]):
                with temporary.open("ab") as file:
                    counted(file.write)(part)
        if count < step:
            os._exit(7)

    return forks.status(forks.start(work))


@pytest.mark.parametrize("after", [False, True], ids=["before a step", "after it"])
@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_a_kill_at_any_step_leaves_a_whole_file(tmp_path, monkeypatch, links, after):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: os.open("/dev/null/none", 0))
    path, previous = tmp_path / "last.ckpt", tmp_path / "previous"
    found, step, ended = set(), 0, -signal.SIGKILL
    while ended == -signal.SIGKILL:
        step += 1
        for file, content in ((path, OLD), (previous, OLDER)):
            file.unlink(missing_ok=True)  # the two may be one
            file.write_bytes(content)
        ended = killed_write(path, step, after)
        kept = path.read_bytes() if path.exists() else None
        assert kept in (OLD, NEW) or (not links and kept is None)
        assert previous.read_bytes() == (OLD if kept in (None, NEW) else previous.read_bytes())
        assert previous.read_bytes() in (OLDER, OLD)
        found.add(kept)
        remove_leftovers(tmp_path)
        assert {p.name for p in tmp_path.iterdir()} <= {"last.ckpt", "previous"}
    assert ended == 7  # there were no more steps
    assert step > 8
    assert found >= {OLD, NEW}


def test_the_next_write_removes_what_a_kill_left_and_nothing_else(tmp_path):
    path = tmp_path / "figures.json"
    foreign = [tmp_path / name for name in (".figures.tmp", "x.tmp", ".figures.json.123.tmp")]
    for file in foreign:
        file.write_bytes(OLD)
    assert killed_write(path, 4, after=True) == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1 + len(foreign)
    write_whole(tmp_path / "others.json", OLD)
    assert len(list(tmp_path.iterdir())) == 2 + len(foreign)
    with whole_file(path) as temporary:  # what is being written stays
        temporary.write_bytes(NEW)
        remove_leftovers(tmp_path)
        write_whole(path, OLD)
        assert temporary.read_bytes() == NEW
    names = {"figures.json", "others.json", *(file.name for file in foreign)}
    assert {p.name for p in tmp_path.iterdir()} == names
    assert path.read_bytes() == NEW


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_full_disk_is_told_and_costs_nothing(tmp_path, monkeypatch, step, number):
    path = tmp_path / "last.ckpt"
    write_whole(path, OLDER)
    write_whole(path, OLD, tmp_path / "previous.ckpt")

    def fail(self, *_):
        if isinstance(self, Path):
            with self.open("wb") as file:
                file.write(NEW[:700])
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(*((Path, "write_bytes") if step == "write" else (os, step)), fail)
        with pytest.raises(WriteError, match=os.strerror(number)) as error:
            write_whole(path, NEW)
    assert str(path) in str(error.value)
    assert isinstance(error.value, DiskFullError) == (number != errno.EIO)
    assert ("disk full" in str(error.value)) == (number != errno.EIO)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {
        "last.ckpt": OLD,
        "previous.ckpt": OLDER,
    }


def test_a_limit_of_the_system_is_told_as_a_full_disk(tmp_path):
    import resource

    path = tmp_path / "figure.png"
    path.write_bytes(OLD)

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(DiskFullError, match="disk full"):
            write_whole(path, NEW)

    assert forks.status(forks.start(work)) == 0
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {path.name: OLD}


def test_errors_of_writers_are_their_own_unless_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "model.pt2"

    def write():
        with whole_file(path):
            raise RuntimeError("iostream")

    with pytest.raises(RuntimeError, match="iostream"):
        write()
    monkeypatch.setattr("lmu._files._free", lambda _: 100)
    with pytest.raises(DiskFullError, match="no room left"):
        write()
    assert not any(tmp_path.iterdir())


def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WriteError, match="no regular file"):
        write_whole(tmp_path / "pipe", NEW)
    with pytest.raises(WriteError, match="no regular file"):
        write_whole(tmp_path, NEW)
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_long_names(tmp_path):
    write_whole(tmp_path / ("ä" * 120 + ".json"), NEW)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "9" * 5000, b"\xff\xfe{"])
def test_odd_json_is_a_value_error_that_names_the_file(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"config\.json is no JSON"):
        read_json(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_json(tmp_path / "none.json")
