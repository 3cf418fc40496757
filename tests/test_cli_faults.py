"""What the commands say of damaged runs and full disks."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.test_cli import TRAIN, invoke


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs")
    invoke(*TRAIN, "--epochs", "2", "--output", str(output))
    (folder,) = output.iterdir()
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A run that may be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))


def test_a_damaged_checkpoint_is_told_by_every_command(copied: Path) -> None:
    for file in copied.glob("*.ckpt"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 4
        file.write_bytes(content)
    for command in (["eval"], ["predict"], ["export"], ["train", "psmnist", "--resume"]):
        text = invoke(*command, str(copied), code=2)
        assert "is damaged: its checksum does not match" in text


def test_a_resumed_run_says_what_it_goes_on_from_and_the_time_of_all_its_epochs(
    copied: Path,
) -> None:
    (copied / "last.ckpt").write_bytes(b"")
    text = invoke("train", "psmnist", "--resume", str(copied))
    assert "Going on from previous.ckpt, an epoch earlier" in text
    assert "epoch 2/2" in text
    assert "epoch 1/2" not in text
    seconds = json.loads((copied / "metrics.json").read_text())["seconds_per_epoch"]
    text = invoke("train", "psmnist", "--resume", str(copied))  # it is finished
    assert f"time of training {sum(seconds):.1f} s, {sum(seconds) / 2:.2f} s per epoch" in text


@pytest.mark.parametrize("name", ["last", "config", "metrics"])
def test_a_full_disk_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def replace(source: Path, target: Path) -> None:
        if target.stem == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    rename = os.replace
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        text = invoke(*TRAIN, "--epochs", "1", "--output", str(tmp_path), code=1)
    assert "isk full: " in text
    assert "No space left on device" in text
    assert not list(tmp_path.rglob(".*"))
    if name == "metrics":
        (folder,) = tmp_path.iterdir()
        assert f"Continue with: lmu train psmnist --resume {folder}" in text
        assert "time of training" in invoke("train", "psmnist", "--resume", str(folder))
