"""Checkpoints that are damaged, odd or gone: what is told, and how a run goes on."""

import io
import json
import random
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from lmu._archive import read_archive, seal
from lmu._files import DiskFullError
from lmu.tasks.psmnist.config import PsMNISTConfig
from lmu.tasks.psmnist.digits import predict_digits
from lmu.tasks.psmnist.recipe import load_classifier
from lmu.tasks.psmnist.run import evaluate, resume_config, train
from lmu.training import checkpoint as checkpoints
from lmu.training.folders import CONFIG
from lmu.training.interruption import RunInterruptedError
from lmu.training.run import RunResult
from lmu.training.saved import (
    BEST,
    LAST,
    PREVIOUS,
    CheckpointError,
)


@pytest.fixture
def copy(finished: RunResult, tmp_path: Path) -> Path:
    """A copy of a finished run's checkpoints and settings."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in (BEST, LAST, PREVIOUS, CONFIG):
        (folder / name).write_bytes((finished.folder / name).read_bytes())
    return folder


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_no_flipped_bit_is_overlooked(copy: Path) -> None:
    path = copy / LAST
    whole = path.read_bytes()
    bits = 8 * len(whole)
    draw = random.Random(0)
    # Anywhere, and all those of the end, where the checksum is.
    chosen = [*(draw.randrange(bits) for _ in range(200)), *range(bits - 8 * 105, bits, 5)]
    for bit in chosen:
        flip(path, bit)
        with pytest.raises(CheckpointError, match="damaged"):
            load_classifier(path)
        path.write_bytes(whole)
    load_classifier(path)


def test_the_checksum_is_invisible_to_pytorch(copy: Path) -> None:
    assert (copy / LAST).read_bytes()[-81:-64] == b"torch-lmu-sha256:"
    for mmap in (False, True):
        content = torch.load(copy / LAST, weights_only=True, mmap=mmap)
        assert content["torch_lmu"]["sealed"]
    assert zipfile.ZipFile(copy / LAST).testzip() is None
    with pytest.raises(ValueError, match="no zip archive without"):
        seal((copy / LAST).read_bytes())


@pytest.mark.parametrize("share", [0, 0.3, 0.999])
def test_a_file_that_ends_too_early(copy: Path, share: float) -> None:
    content = (copy / BEST).read_bytes()
    (copy / BEST).write_bytes(content[: int(share * len(content))])
    for use in (evaluate, lambda path: predict_digits(path, count=1)):
        with pytest.raises(CheckpointError, match=r"best\.ckpt .*damaged"):
            use(copy)


def test_files_without_a_checksum_are_checked_member_by_member(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"weight": torch.arange(5000)}, path)
    assert read_archive(path)[1] is False
    flip(path, 8 * 20_000)
    with pytest.raises(ValueError, match=r"checksum does not match in weights/data/0"):
        read_archive(path)
    for content in (b"", b"PK\5\6" + bytes(18), b"\x80\x02.", b"PK\3\4" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"torch\.save|PyTorch cannot|archive"):
            read_archive(path)


def test_packed_archives_and_code_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(10_000_000))
    with pytest.raises(ValueError, match="packed archive"):
        read_archive(tmp_path / "bomb.pt")

    torch.save(Path.unlink, tmp_path / "code.pt")
    with pytest.raises(ValueError, match="PyTorch cannot read it"):
        read_archive(tmp_path / "code.pt")


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Write a checkpoint anew that something else has edited, checksum and all."""
    content = torch.load(path, weights_only=True)
    edit(content)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(seal(buffer.getvalue()))


def setting(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["torch_lmu"]["config"].update({name: value})


ODD: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no state": (lambda c: c.pop("state_dict"), "holds no weights"),
    "odd state": (lambda c: c.update(state_dict={"a": 1}), "holds no weights"),
    "no entry": (lambda c: c.pop("torch_lmu"), "not a checkpoint written by"),
    "odd entry": (lambda c: c.update(torch_lmu=[1]), "not a checkpoint written by"),
    "no format": (lambda c: c["torch_lmu"].pop("format"), "format None"),
    "no settings": (lambda c: c["torch_lmu"].pop("config"), "lacks the entry 'config'"),
    "odd settings": (lambda c: c["torch_lmu"].update(config=[3]), "wrong settings: must be a"),
    "unknown setting": (setting("x", 1), "there is no setting 'x'"),
    "text": (setting("hidden_size", "12"), "hidden_size must be a whole number or none, got '12'"),
    "nested": (setting("theta", [[1]]), "theta must be a number"),
    "huge": (setting("epochs", 10**40), "epochs must be at most 1,000,000"),
    "other sizes": (setting("hidden_size", 13), "holds weights of another model"),
    "no order": (lambda c: c["torch_lmu"].pop("permutation"), "lacks the entry 'permutation'"),
    "odd order": (
        lambda c: c["torch_lmu"].update(permutation=torch.eye(784).to_sparse()),
        r"wrong order of pixels: permutation must be a dense tensor, got .*sparse_coo",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_an_odd_checkpoint_is_told(copy: Path, name: str) -> None:
    edit, says = ODD[name]
    change(copy / BEST, edit)
    with pytest.raises(CheckpointError, match=says) as error:
        predict_digits(copy, count=1)
    assert str(copy / BEST) in str(error.value)


@pytest.mark.parametrize("name", ["optimizer_states", "callbacks", "loops"])
def test_a_checkpoint_that_training_cannot_go_on_from(copy: Path, name: str) -> None:
    change(copy / LAST, lambda content: content.update({name: [{"a": 1}]}))
    path, config = resume_config(copy)
    with pytest.raises(CheckpointError, match=r"last\.ckpt is not one that training can go on"):
        train(config, resume=path)


@pytest.mark.parametrize("loss", ["damaged", "missing"])
def test_the_one_before_takes_the_place_of_the_last(
    finished: RunResult, copy: Path, loss: str
) -> None:
    flip(copy / LAST, 30_000) if loss == "damaged" else (copy / LAST).unlink()
    told: list[str] = []
    path, config = resume_config(copy, told.append)
    assert path == copy / PREVIOUS
    says = "checksum does not match" if loss == "damaged" else "is not there"
    assert f"{says}" in told[0]
    assert "Going on from previous.ckpt, an epoch earlier" in told[0]
    with pytest.warns(UserWarning, match=r"Going on from previous\.ckpt"):
        resume_config(copy)
    if loss == "damaged":
        with pytest.raises(CheckpointError, match=r"damaged.*goes on from previous\.ckpt"):
            resume_config(copy / LAST)
    (copy / ".last.0a1b2c3d.tmp.ckpt").write_bytes(b"of a killed process")
    if loss == "missing":
        return
    resumed = train(config, resume=path)
    assert len(resumed.metrics["history"]) == 3
    for name in (LAST, BEST):
        ours, theirs = (load_classifier(run / name).state_dict for run in (copy, finished.folder))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert load_classifier(copy / PREVIOUS)
    assert not list(copy.glob(".*"))


class StopAfter(Callback):
    """Ctrl-C when two epochs are over."""

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        if trainer.current_epoch == 2:
            raise KeyboardInterrupt


def test_a_run_of_the_first_edition_goes_on(
    small: dict[str, Any], output: Path, finished: RunResult
) -> None:
    """Its checkpoints name no task, and their best figure is called an accuracy."""
    with pytest.raises(RunInterruptedError) as error:
        train(PsMNISTConfig(epochs=3, **small), output=output, callbacks=[StopAfter()])
    folder = error.value.folder

    def older(content: dict[str, Any]) -> None:
        assert content["torch_lmu"].pop("task") == "psmnist"
        state = content["callbacks"]["RunCheckpoint"]
        if state["best"] is not None:
            state["best_accuracy"] = state.pop("best")

    for name in (BEST, LAST, PREVIOUS):
        change(folder / name, older)
    path, config = resume_config(folder)
    resumed = train(config, resume=path)
    assert resumed.metrics["chosen"] == finished.metrics["chosen"]
    for name in (LAST, BEST):
        ours, theirs = (load_classifier(run / name).state_dict for run in (folder, finished.folder))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_damaged_last_one_does_not_take_the_place_of_the_one_before(copy: Path) -> None:
    class Stop(Callback):
        def on_train_epoch_start(self, trainer, pl_module) -> None:
            raise KeyboardInterrupt

    flip(copy / LAST, 30_000)
    path, config = resume_config(copy, lambda _: None)
    with pytest.raises(RunInterruptedError):
        train(config, resume=path, callbacks=[Stop()])
    assert load_classifier(copy / LAST)
    assert load_classifier(copy / PREVIOUS)


def test_nothing_is_left_to_go_on_from(copy: Path, tmp_path: Path) -> None:
    flip(copy / BEST, 30_000)
    path, config = resume_config(copy)
    with pytest.raises(CheckpointError, match=r"best\.ckpt .*of epoch \d.* train again"):
        train(config, resume=path)
    for name in (LAST, PREVIOUS):
        flip(copy / name, 30_000)
    with pytest.raises(CheckpointError, match=r"last\.ckpt .*previous\.ckpt .*train again"):
        resume_config(copy)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        resume_config(tmp_path / "empty")


def test_a_run_that_ended_before_its_first_checkpoint_begins_anew(
    small: dict[str, Any], tmp_path: Path, finished: RunResult
) -> None:
    (tmp_path / CONFIG).write_bytes((finished.folder / CONFIG).read_bytes())
    path, config = resume_config(tmp_path)
    assert config == PsMNISTConfig(epochs=3, **small)
    assert train(replace(config, epochs=1), resume=path).folder == tmp_path
    assert load_classifier(tmp_path / LAST)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "must be a table"),
        ("null", "must be a table"),
        ('"text"', "must be a table"),
        ("[" * 99_999, "no JSON"),
        ('{"epochs": 1e999}', "epochs must be a whole number"),
        ('{"epochs": true}', "epochs must be a whole number"),
        ('{"seed": 99999999999999999999}', "seed must lie in"),
        ('{"hidden_size": {"a": []}}', "hidden_size must be a whole number"),
        ('{"data": 3}', "data must be text or none"),
        ('{"unknown": 1}', "no setting 'unknown'"),
        ("{", "no JSON"),
    ],
)
def test_settings_that_someone_edited(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / CONFIG).write_text(content)
    with pytest.raises(CheckpointError, match=rf"config\.json .*{says}"):
        resume_config(tmp_path)


def test_a_disk_that_is_full_at_the_second_save(
    small: dict[str, Any], output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = []

    def full(path: Path, *arguments: Any) -> None:
        if path.name == LAST and (output_folder := path.parent):
            saves.append(output_folder)
            if len(saves) == 3:
                raise DiskFullError(28, "disk full: last.ckpt could not be written")
        write(path, *arguments)

    write = checkpoints.write_whole
    monkeypatch.setattr(checkpoints, "write_whole", full)
    with pytest.raises(RunInterruptedError, match="disk full") as error:
        train(PsMNISTConfig(epochs=3, **small), output=output)
    assert error.value.resumable
    assert error.value.exit_code == 1
    with warnings.catch_warnings():
        path, config = resume_config(error.value.folder)
    assert path.name == LAST
    resumed = train(config, resume=path)
    assert [row["epoch"] for row in resumed.metrics["history"]] == [1, 2, 3]
    assert json.loads((path.parent / "metrics.json").read_text()) == resumed.metrics
