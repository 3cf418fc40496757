"""Records that two processes write at once, that a kill interrupts, or that someone edited."""

import json
import os
import signal
import sys
import threading

import pytest

from experiments import record
from experiments.mackey_glass import runs as mackey_glass
from experiments.record import add_row, locked, read_rows
from experiments.series import plan as series
from lmu._files import WriteError
from tests import forks

KINDS = {"model": str, "seed": int}
ROWS = 40

forking = pytest.mark.skipif(sys.platform == "win32", reason="has no fork")


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """Without the calls of git, and the waits for the disk, of each row."""
    monkeypatch.setattr(record, "git_commit", lambda: None)
    monkeypatch.setattr(os, "fsync", lambda file: None)


def add(path, model, seed, **more):
    row = {"model": model, "seed": seed, **more}
    return add_row(path, "test", {}, row, KINDS, lambda row: (row["model"], row["seed"]))


@forking
def test_two_processes_lose_no_row(tmp_path):
    path = tmp_path / "figures.json"

    def work(model):
        for seed in range(ROWS):
            add(path, model, seed)

    pids = [forks.start(lambda model=model: work(model)) for model in ("a", "b")]
    assert [forks.status(pid) for pid in pids] == [0, 0]
    rows = json.loads(path.read_text())["rows"]
    found = {model: [row["seed"] for row in rows if row["model"] == model] for model in "ab"}
    assert found == {"a": list(range(ROWS)), "b": list(range(ROWS))}


@forking
def test_a_killed_process_leaves_no_lock(tmp_path):
    path = tmp_path / "figures.json"
    add(path, "a", 0)

    def work():
        with locked(path):
            os.kill(os.getpid(), signal.SIGKILL)

    assert forks.status(forks.start(work)) == -signal.SIGKILL
    assert add(path, "a", 1) == [{"model": "a", "seed": 0}, {"model": "a", "seed": 1}]


def test_a_lock_that_is_not_given_back_is_told(tmp_path, monkeypatch):
    path = tmp_path / "figures.json"
    monkeypatch.setattr(record, "_WAIT", 0)
    told = []

    def work():
        with pytest.raises(WriteError, match=r"another process has held .*figures\.json\.lock"):
            add(path, "a", 0)
        told.append(True)

    with locked(path):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert told


def test_the_row_that_was_first_stays(tmp_path):
    path = tmp_path / "figures.json"
    add(path, "a", 0, figure=1)
    assert add(path, "a", 0, figure=2) == [{"model": "a", "seed": 0, "figure": 1}]


ODD = {
    "list": "[]",
    "null": "null",
    "text": '"text"',
    "nested": "[" * 99_999,
    "rows are no list": '{"experiment": "test", "rows": {"a": 1}}',
    "no rows": '{"experiment": "test"}',
    "a row is text": '{"experiment": "test", "rows": ["x"]}',
    "a row is empty": '{"experiment": "test", "rows": [{}]}',
    "a seed is true": '{"experiment": "test", "rows": [{"model": "a", "seed": true}]}',
    "a seed is text": '{"experiment": "test", "rows": [{"model": "a", "seed": "0"}]}',
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_record_is_told_and_stays(tmp_path, name):
    path = tmp_path / "figures.json"
    path.write_text(ODD[name])
    with pytest.raises(ValueError, match=r"figures\.json"):
        read_rows(path, "test", KINDS)
    with pytest.raises(ValueError, match=r"figures\.json"):
        add(path, "a", 0)
    path.write_text(ODD[name].replace('"test"', '"series"'))
    with pytest.raises(ValueError, match="name another file"):
        series.run(series.Settings(), path)
    path.write_text(ODD[name].replace('"test"', '"mackey-glass"'))
    with pytest.raises(ValueError, match="name another file"):
        mackey_glass.run(mackey_glass.Settings(), path)
