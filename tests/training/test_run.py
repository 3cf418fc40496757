import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping

from lmu._files import write_json
from lmu.tasks import mnist
from lmu.tasks.psmnist.config import PsMNISTConfig
from lmu.tasks.psmnist.recipe import PsMNISTRecipe, load_classifier
from lmu.tasks.psmnist.run import evaluate, resume_config, train
from lmu.training import run
from lmu.training.interruption import RunInterruptedError
from lmu.training.lightning import flushed_denormals
from lmu.training.module import TrainingDivergedError
from lmu.training.run import RunResult
from lmu.training.saved import (
    BEST,
    LAST,
    PREVIOUS,
    CheckpointError,
    resolve_checkpoint,
)
from lmu.training.settings import ConfigError

PICTURES = ("curves.png", "window.png", "confusion.png")


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_classifier(path).state_dict


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


class StopAt(Callback):
    """Press Ctrl-C in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.current_epoch == self.epoch and batch_idx == 2:
            raise KeyboardInterrupt


def test_a_run_leaves_its_folder_complete(finished: RunResult) -> None:
    folder = finished.folder
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "metrics.json", "history.csv", BEST, LAST, PREVIOUS, *PICTURES}
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics == finished.metrics
    assert metrics["parameters"] == 12 * 9 + 12 + 2 + 10 * 12 + 10
    assert metrics["test_digits"] == 230
    assert len(metrics["seconds_per_epoch"]) == 3
    assert metrics["machine"]["cpu_count"] >= 1
    assert metrics["versions"]["torch"] == torch.__version__
    assert json.loads((folder / "config.json").read_text())["memory_size"] == 8
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    best = max(float(row["val_accuracy"]) for row in rows)
    assert metrics["val_accuracy"] == best
    for name in PICTURES:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", [".", BEST])
def test_evaluation_repeats_the_test_exactly(finished: RunResult, name: str) -> None:
    loaded, metrics = evaluate(finished.folder / name)
    assert loaded.path.name == BEST
    assert metrics.accuracy == finished.metrics["test_accuracy"]
    assert metrics.loss == finished.metrics["test_loss"]


def test_the_same_seed_gives_the_same_run(
    finished: RunResult, small: dict[str, Any], output: Path
) -> None:
    again = train(PsMNISTConfig(epochs=3, **small), output=output)
    assert_same(weights(again.folder / LAST), weights(finished.folder / LAST))
    other = train(PsMNISTConfig(epochs=1, seed=1, **small), output=output)
    assert other.folder != again.folder
    first = next(iter(weights(other.folder / LAST).values()))
    assert not torch.equal(first, next(iter(weights(again.folder / LAST).values())))


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_resumed_run_equals_the_uninterrupted_one(
    finished: RunResult, small: dict[str, Any], output: Path, tmp_path: Path, epoch: int
) -> None:
    with pytest.raises(RunInterruptedError) as error:
        train(PsMNISTConfig(epochs=3, **small), output=output, callbacks=[StopAt(epoch)])
    assert error.value.resumable
    assert error.value.exit_code == 130
    moved = error.value.folder.rename(tmp_path / "moved")
    checkpoint, config = resume_config(moved)
    resumed = train(config, resume=checkpoint)
    assert resumed.folder == moved
    for name in (BEST, LAST):
        assert_same(weights(moved / name), weights(finished.folder / name))
    same = ("test_accuracy", "test_loss", "val_accuracy", "chosen")
    assert [resumed.metrics[n] for n in same] == [finished.metrics[n] for n in same]
    for ours, theirs in zip(resumed.metrics["history"], finished.metrics["history"], strict=True):
        assert ours | {"seconds": 0} == theirs | {"seconds": 0}


def test_resuming_a_finished_run_tests_it_again(finished: RunResult, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in (BEST, LAST):
        (copy / name).write_bytes((finished.folder / name).read_bytes())
    checkpoint, config = resume_config(copy)
    again = train(config, resume=checkpoint)
    assert again.metrics["test_loss"] == finished.metrics["test_loss"]
    assert len(again.metrics["history"]) == 3


def test_the_test_part_is_read_after_training(
    small: dict[str, Any], output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    load = mnist.load

    def recorded(paths, part):
        events.append(part)
        return load(paths, part)

    class End(Callback):
        def on_train_end(self, trainer, pl_module) -> None:
            events.append("end of training")

    monkeypatch.setattr(mnist, "load", recorded)
    train(PsMNISTConfig(epochs=1, **small), output=output, callbacks=[End()])
    assert events.index("end of training") < events.index("t10k")
    assert events[0] == "train"


def test_full_train_tests_the_last_weights(small: dict[str, Any], output: Path) -> None:
    result = train(PsMNISTConfig(epochs=2, full_train=True, **small), output=output)
    assert result.metrics["chosen"] == {"checkpoint": LAST, "epoch": 2}
    assert "val_accuracy" not in result.metrics
    assert not (result.folder / BEST).exists()
    assert evaluate(result.folder)[1].accuracy == result.metrics["test_accuracy"]


def test_the_nonlinear_model_trains_in_mixed_precision(small: dict[str, Any], output: Path) -> None:
    config = PsMNISTConfig(model="lmu", epochs=1, precision="bf16-mixed", **{**small, "limit": 60})
    result = train(config, output=output)
    assert evaluate(result.folder)[1].loss == result.metrics["test_loss"]


def test_the_parallel_model_trains_in_mixed_precision(small: dict[str, Any], output: Path) -> None:
    result = train(PsMNISTConfig(epochs=1, precision="bf16-mixed", **small), output=output)
    assert 0 <= result.metrics["test_accuracy"] <= 1


def test_training_learns(output: Path) -> None:
    config = PsMNISTConfig(
        epochs=3, limit=3000, batch_size=30, learning_rate=3e-3, dropout=0.0, accelerator="cpu"
    )
    assert train(config, output=output).metrics["test_accuracy"] > 0.6


def test_early_stopping(small: dict[str, Any], output: Path) -> None:
    config = PsMNISTConfig(epochs=30, patience=1, learning_rate=1e-12, **small)
    result = train(config, output=output)
    assert len(result.metrics["history"]) == 2
    assert result.metrics["chosen"]["epoch"] == 1


def test_a_learning_rate_schedule_falls_to_zero(small: dict[str, Any], output: Path) -> None:
    rates = {}
    for schedule in ("cosine", "constant"):
        config = PsMNISTConfig(epochs=2, schedule=schedule, learning_rate=1e-3, **small)
        lines = (train(config, output=output).folder / "history.csv").read_text().splitlines()
        rates[schedule] = [float(row["learning_rate"]) for row in csv.DictReader(lines)]
    assert rates["constant"] == [1e-3, 1e-3]
    assert rates["cosine"] == pytest.approx([1e-3, 5e-4])


def test_a_loss_that_is_not_finite_names_epoch_and_step(
    small: dict[str, Any], output: Path
) -> None:
    class Spoil(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            if trainer.current_epoch == 1 and batch_idx == 3:
                next(pl_module.parameters()).data.fill_(torch.nan)

    with pytest.raises(TrainingDivergedError, match=r"nan in epoch 2, step 4 of 5.*learning rate"):
        train(PsMNISTConfig(epochs=3, **small), output=output, callbacks=[Spoil()])
    (folder,) = output.iterdir()
    assert all(value.isfinite().all() for value in weights(folder / LAST).values())


def test_the_evaluated_loss_must_be_finite_too(small: dict[str, Any], output: Path) -> None:
    class SpoilTest(Callback):
        def on_test_start(self, trainer, pl_module) -> None:
            next(pl_module.parameters()).data.fill_(torch.nan)

    class SpoilLastStep(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            if batch_idx == 4:
                next(pl_module.parameters()).data.fill_(torch.nan)

    for spoil, says in (
        (SpoilLastStep(), "validation loss is nan after epoch 1: lower the learning rate, 0.008"),
        (SpoilTest(), "test loss is nan after training: lower the learning rate, 0.008"),
    ):
        with pytest.raises(TrainingDivergedError, match=says):
            train(PsMNISTConfig(epochs=1, **small), output=output, callbacks=[spoil])
    assert not list(output.glob("*/metrics.json"))


def test_json_has_no_notation_for_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "metrics.json", {"test_loss": float("nan")})
    assert not any(tmp_path.iterdir())


def test_more_processes_than_digits(small: dict[str, Any], output: Path) -> None:
    config = PsMNISTConfig(epochs=1, **{**small, "limit": 1}, devices="2")
    with pytest.raises(ConfigError, match="2 processes cannot share 1 training digits") as error:
        train(config, output=output)
    assert error.value.setting == "devices"
    assert not any(output.iterdir())


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_run_that_wrote_nothing_leaves_nothing(
    small: dict[str, Any],
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(run, "write_json", fail)
    with pytest.raises(error):
        train(PsMNISTConfig(epochs=1, **small), output=output)
    assert not any(output.iterdir())


def test_what_lightning_refuses_is_a_config_error(small: dict[str, Any], output: Path) -> None:
    wrong = [(name, "nonsense") for name in ("accelerator", "devices", "strategy", "precision")]
    for setting, value in (*wrong, ("accelerator", "tpu"), ("precision", "transformer-engine")):
        with pytest.raises(ConfigError, match="Lightning refuses") as error:
            train(PsMNISTConfig(epochs=1, **{**small, setting: value}), output=output)
        assert error.value.setting is None
    assert not any(output.iterdir())


def test_wrong_permutation_and_theta(small: dict[str, Any], output: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        train(PsMNISTConfig(permutation=str(tmp_path / "none"), **small), output=output)
    permutation = tmp_path / "identity.txt"
    permutation.write_text(" ".join(map(str, range(784))))
    result = train(PsMNISTConfig(epochs=1, permutation=str(permutation), **small), output=output)
    settings = json.loads((result.folder / "config.json").read_text())
    assert settings["permutation"] == str(permutation)
    permutation.unlink()
    assert evaluate(result.folder)[1].loss == result.metrics["test_loss"]


def test_metrics_hold_no_paths_of_the_machine(
    finished: RunResult, small: dict[str, Any], output: Path, tmp_path: Path
) -> None:
    assert finished.metrics["config"]["permutation"] is None
    permutation = tmp_path / "identity.txt"
    permutation.write_text(" ".join(map(str, range(784))))
    config = PsMNISTConfig(
        epochs=1, permutation=str(permutation), data=str(mnist.CHECKOUT), **small
    )
    result = train(config, output=output)
    assert result.metrics["config"]["permutation"] == "identity.txt"
    assert "data" not in result.metrics["config"]
    text = (result.folder / "metrics.json").read_text()
    assert str(tmp_path) not in text
    assert str(mnist.CHECKOUT) not in text
    assert load_classifier(result.folder / BEST).recipe.config == config


def test_foreign_checkpoints(tmp_path: Path, finished: RunResult) -> None:
    junk = tmp_path / "junk.ckpt"
    with pytest.raises(CheckpointError, match=r"junk\.ckpt does not exist"):
        load_classifier(junk)
    junk.write_bytes(b"junk")
    with pytest.raises(CheckpointError, match=r"junk\.ckpt is not a checkpoint written by lmu"):
        load_classifier(junk)
    torch.save({"state_dict": {}}, junk)
    with pytest.raises(CheckpointError, match="not a checkpoint written by lmu"):
        load_classifier(junk)
    content = (finished.folder / BEST).read_bytes()
    junk.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        load_classifier(junk)
    with pytest.raises(CheckpointError, match="does not exist"):
        resolve_checkpoint(tmp_path / "missing", (BEST,))
    with pytest.raises(CheckpointError, match=r"holds no checkpoint \(best.ckpt or last.ckpt\)"):
        resolve_checkpoint(tmp_path, (BEST, LAST))


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path, finished: RunResult) -> None:
    content = torch.load(finished.folder / BEST, weights_only=True)
    content["torch_lmu"]["format"] = 99
    torch.save(content, tmp_path / "new.ckpt")
    with pytest.raises(CheckpointError, match="format 99"):
        load_classifier(tmp_path / "new.ckpt")


def test_time_is_up_in_the_middle_of_an_epoch(output: Path) -> None:
    settings: dict[str, Any] = {"hidden_size": 4, "batch_size": 2, "limit": 200}
    config = PsMNISTConfig(model="gru", epochs=9, max_seconds=0.1, accelerator="cpu", **settings)
    result = train(config, output=output)
    (row,) = result.metrics["history"]
    steps = torch.load(result.folder / LAST, weights_only=True)["global_step"]
    assert 0 < steps < 100
    assert row["seconds"] >= 0.1
    assert not (result.folder / "window.png").exists()  # it has no memory to draw
    assert result.metrics["test_digits"] == 200


def test_noise_is_added_in_training_only(small: dict[str, Any]) -> None:
    plain = run.build_module(PsMNISTRecipe.of(PsMNISTConfig(**small)))
    noisy = run.build_module(PsMNISTRecipe.of(PsMNISTConfig(input_noise=0.5, **small)))
    x = torch.zeros(3, 784, 1)
    assert torch.equal(plain.noise(x), x)
    assert abs(noisy.noise(x).std() - 0.5) < 0.05
    assert torch.equal(noisy.eval().noise(x), x)


def test_denormal_numbers_are_zero_in_training_only() -> None:
    tiny = torch.tensor([1e-30])
    with flushed_denormals():
        assert (tiny * 1e-10).item() == 0
    assert (tiny * 1e-10).item() > 0


def test_early_stopping_is_off_by_default(small: dict[str, Any], output: Path) -> None:
    found = []

    class Look(Callback):
        def on_fit_start(self, trainer, pl_module) -> None:
            found.extend(c for c in vars(trainer)["callbacks"] if isinstance(c, EarlyStopping))

    train(replace(PsMNISTConfig(**small), epochs=1), output=output, callbacks=[Look()])
    assert not found
