"""The checks after a kill find what they are to find; the kills are real."""

import json
import os
import sys
from pathlib import Path

import pytest

from lmu.tasks.psmnist.config import PsMNISTConfig
from lmu.tasks.psmnist.run import train

if sys.platform == "win32":
    pytest.skip("has no fork", allow_module_level=True)

from benchmarks.kills import children
from benchmarks.kills.checks import Seen, check_run, temporaries


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = PsMNISTConfig(
        hidden_size=4, memory_size=3, batch_size=50, limit=100, epochs=2, accelerator="cpu"
    )
    return train(config, output=tmp_path_factory.mktemp("runs")).folder


def test_losses_are_counted(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("epoch 1/9  loss 2\nepoch 2/9  loss 2\nepoch 3/9  loss 2\n")
    seen = Seen()
    found = check_run(folder, log, seen)
    assert seen.epochs == 2
    assert found.pop("epochs under way") == 1
    assert not any(found.values())
    log.write_text("epoch 4/9  loss 2\n")
    assert check_run(folder, log, seen)["epochs lost"] == 1
    seen.losses[2] += 1e-9
    assert check_run(folder, log, seen)["rows that differ when repeated"] == 1
    table = folder / "history.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:2]))
    (folder / "best.ckpt").write_bytes(b"")
    (folder / ".last.0123abcd.tmp.ckpt").touch()
    found = check_run(folder, log, seen)
    assert (found["damaged"], found["best lost"], found["rows damaged"]) == (1, 1, 2)
    assert temporaries(folder) == {".last.0123abcd.tmp.ckpt"}
    for path in folder.glob("*.ckpt"):
        path.unlink()
    assert check_run(folder, log, seen)["runs lost"] == 1


def test_commands_end_or_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    status = children.wait(children.start(["lmu", "--version"], log, tmp_path), 60)
    assert status == 0
    assert "torch-lmu" in log.read_text()
    read, write = os.pipe()
    monkeypatch.setattr(children, "app", lambda *_, **__: os.read(read, 1))  # for ever
    pid = children.start(["lmu"], log, tmp_path)
    assert children.wait(pid, 0.01) is None
    assert children.kill(pid)
    for end in (read, write):
        os.close(end)


def test_committed_counts_tell_of_no_loss() -> None:
    path = Path(__file__).parents[2] / "results" / "kills.json"
    rows = json.loads(path.read_text())["rows"]
    assert all(row.get("kills", 200) >= 200 for row in rows)
    from benchmarks.kills.__main__ import BAD

    assert {row["what"] for row in rows} == {"train", "experiment", "fill"}
    assert not any(row.get(name, 0) for row in rows for name in BAD)
