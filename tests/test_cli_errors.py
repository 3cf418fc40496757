"""What the commands say to slips: one line, no traceback, and what was meant."""

import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from typer.main import get_command
from typer.testing import CliRunner

from lmu.cli import app
from lmu.cli._app import Command, Group
from lmu.tasks import mnist
from lmu.tasks.mnist import DataError
from lmu.tasks.psmnist import room
from lmu.tasks.psmnist.config import UNUSED, PsMNISTConfig
from lmu.tasks.psmnist.data import default_permutation
from lmu.tasks.psmnist.models import build_model
from lmu.training.saved import FORMAT, KEY

HUGE = "9" * 20
SMALL = ["--hidden-size", "6", "--memory-size", "5", "--limit", "20"]


def invoke(*arguments: str, code: int = 2) -> str:
    """Run the command and return its output with line breaks and boxes taken out."""
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    assert result.exit_code == code, (result.output, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return re.sub(r"[\s│╭╮╰╯─]+", " ", result.output)


def save(path: Path, **changes: object) -> Path:
    """A checkpoint as a run leaves it, without training."""
    config = PsMNISTConfig(**{"hidden_size": 6, "memory_size": 5, "limit": 20, **changes})  # pyright: ignore[reportArgumentType]
    weights = build_model(**config.model_arguments()).state_dict()
    content = {
        "state_dict": {f"model.{name}": value for name, value in weights.items()},
        KEY: {"format": FORMAT, "version": "0", "config": asdict(config)}
        | {"permutation": default_permutation()},
    }
    torch.save(content, path)
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save(tmp_path / "run.ckpt")


def commands() -> list[list[str]]:
    """The words of every command and group."""
    found: list[list[str]] = []

    def visit(command: object, words: list[str]) -> None:
        assert isinstance(command, Group | Command), words  # registered with cls=Command
        found.append(words)
        if isinstance(command, Group):
            for name, inner in command.commands.items():
                visit(inner, [*words, name])

    visit(get_command(app), [])
    assert len(found) > 5
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_has_help(words: list[str]) -> None:
    assert invoke(*words, "-h", code=0) == invoke(*words, "--help", code=0)


@pytest.mark.parametrize("words", [[], ["train"]])
def test_a_bare_group_shows_its_help(words: list[str]) -> None:
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert "Commands" in result.output
    assert "Missing" not in result.output


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["trian"], "'train'"),
        (["train", "psmnits"], "'psmnist'"),
        (["--versoin"], "'--version'"),
        (["train", "psmnist", "--modle", "lmu"], "'--model'"),
        (["explain", "1", "1", "--chanels", "3"], "'--channels'"),
        (["train", "psmnist", "--model", "lumfft"], "'lmufft'"),
        (["train", "psmnist", "--schedule", "cosin"], "'cosine'"),
        (["train", "psmnist", "--accelerator", "gpuu"], "'gpu'"),
        (["train", "psmnist", "--precision", "bf16-mixd"], "'bf16-mixed'"),
        (["export", "x", "--format", "onx"], "'onnx'"),
    ],
)
def test_what_was_meant_is_asked(arguments: list[str], meant: str, tmp_path: Path) -> None:
    if arguments[0] == "train" and len(arguments) > 2:
        arguments = [*arguments, *SMALL, "--output", str(tmp_path)]
    text = invoke(*arguments)
    assert f"Did you mean {meant}?" in text
    assert text.count("Did you mean") == 1


def test_nothing_is_suggested_for_what_is_far_off() -> None:
    assert "Did you mean" not in invoke("train", "psmnist", "--model", "transformer")


def test_experiments_are_no_commands() -> None:
    assert "No such command 'reproduce'" in invoke("reproduce", "capacity")


@pytest.mark.parametrize("model", UNUSED)
def test_options_that_a_model_does_not_use_are_refused(model: str) -> None:
    values = {"layers": "2", "hidden_noise": "0", "theta": "784", "memory_size": "4"}
    for name in UNUSED[model]:
        option = f"--{name.replace('_', '-')}"
        text = invoke("train", "psmnist", "--model", model, option, values.get(name, "0"))
        assert f"Invalid value for {option}: --model {model} does not use it" in text


def test_explain_has_no_option_without_effect() -> None:
    usual = invoke("explain", "784", "64", code=0)
    for option in (["--hidden-size", "9"], ["--batch-size", "9"], ["--channels", "3"], ["--state"]):
        assert invoke("explain", "784", "64", *option, code=0) != usual
    assert "No such option" in invoke("explain", "784", "64", "--device", "cuda")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["eval", ""], "an argument is empty"),
        (["predict", ""], "an argument is empty"),
        (["train", "psmnist", "--output", ""], "--output is given nothing"),
        (["train", "psmnist", "--data="], "an argument is empty: '--data='"),
        (["explain", "1" + "0" * 23, "4"], "length: must be at most 1,000,000,000"),
        (["explain", "4", HUGE], "order: must be at most"),
        (["explain", "4", "4", "--channels", HUGE], "--channels: must be at most"),
        (["explain", "nan", "4"], "integer"),
        (["explain", "-1", "4"], "No negative number"),
        (["train", "psmnist", "--hidden-size", HUGE], "--hidden-size: must be at most"),
        (["train", "psmnist", "--memory-size", HUGE], "--memory-size: must be at most"),
        (["train", "psmnist", "--batch-size", HUGE], "--batch-size: must be at most"),
        (["train", "psmnist", "--epochs", HUGE], "--epochs: must be at most"),
        (["train", "psmnist", "--theta", "1e300"], "--theta: must lie in 1 to 1e6"),
        (["train", "psmnist", "--input-noise", "1e300"], "--input-noise: must lie in 0 to 1,000"),
        (["train", "psmnist", "--permutation", "/dev/zero"], "there is no such file"),
        (["eval", "/dev/zero"], "/dev/zero is not a file"),
        (["eval", "a" * 300], "does not exist"),
    ],
)
def test_absurd_input_is_told_in_a_line(arguments: list[str], says: str) -> None:
    assert says in invoke(*arguments)


@pytest.mark.parametrize("model", ["lmu", "lstm", "deep"])
def test_more_than_the_memory_is_refused_before_it_is_taken(
    model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(room, "total_memory", lambda: 2**30)
    output = ["--output", str(tmp_path)]
    text = invoke("train", "psmnist", "--model", model, "--hidden-size", "30000", *output)
    assert "--hidden-size: training would take about" in text
    big = ["--batch-size", "60000", "--hidden-size", "2000", "--accelerator", "cpu"]
    assert "--batch-size: training would" in invoke(
        "train", "psmnist", "--model", model, *big, *output
    )
    assert not any(tmp_path.iterdir())


def test_machines_that_nobody_can_find(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    output = ["--output", str(tmp_path), *SMALL, "--accelerator", "cpu"]
    assert "torchrun --nnodes 2" in invoke("train", "psmnist", "--num-nodes", "2", *output)
    assert "at most 256" in invoke("train", "psmnist", "--devices", HUGE, *output)


@pytest.mark.parametrize("size", ["1", "19"])
def test_a_batch_of_one_cannot_be_normalized(size: str, tmp_path: Path) -> None:
    place = ["--accelerator", "cpu", "--output", str(tmp_path)]
    text = invoke("train", "psmnist", "--model", "deep", *SMALL, "--batch-size", size, *place)
    assert "--batch-size: in batches of" in text


def test_export_of_a_model_without_a_memory(tmp_path: Path) -> None:
    lstm = save(tmp_path / "lstm.ckpt", model="lstm", memory_size=None)
    for options in ([], ["--sequence"], ["--format", "aoti"]):
        text = invoke("export", str(lstm), *options)
        assert "PyTorch's nn.LSTM, which has no memory to step" in text


@pytest.mark.parametrize("command", ["eval", "predict", "export"])
def test_files_that_are_no_checkpoints(command: str, checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    ours = content[KEY]
    wrong = {
        "no dictionary": [1],
        "another dictionary": {KEY: 5},
        "no settings": content | {KEY: {"format": FORMAT}},
        "unknown settings": content | {KEY: ours | {"config": {"x": 1}}},
        "wrong settings": content | {KEY: ours | {"config": {"hidden_size": "x"}}},
        "another order": content | {KEY: ours | {"permutation": None}},
        "no weights": content | {"state_dict": 3},
        "another format": content | {KEY: {"format": 99}},
    }
    for name, what in wrong.items():
        torch.save(what, checkpoint)
        assert "Invalid value for checkpoint" in invoke(command, str(checkpoint)), name


def test_weights_of_another_model(checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content[KEY]["config"]["hidden_size"] = 7
    torch.save(content, checkpoint)
    for command in ("eval", "predict", "export"):
        assert "holds weights of another model" in invoke(command, str(checkpoint))


def test_predict_more_than_there_is(checkpoint: Path, tmp_path: Path) -> None:
    assert "at most 10,000" in invoke("predict", str(checkpoint), "--count", HUGE)
    picture = ["--count", "101", "--output", str(tmp_path / "p.png")]
    assert "at most 100 in a picture" in invoke("predict", str(checkpoint), *picture)


ABSENT = ("lightning", "matplotlib", "numpy", "pooch", "tqdm", "onnx", "onnxscript", "onnxruntime")
BLOCKED = """
import sys
for name in {absent}: sys.modules[name] = None  # as if it were not installed
from typer.testing import CliRunner
from lmu.cli import app
for arguments in {commands}:
    result = CliRunner().invoke(app, arguments)
    print(result.exit_code, type(result.exception).__name__, " ".join(result.output.split()))
"""


def test_commands_need_only_the_packages_that_they_use(checkpoint: Path) -> None:
    path = str(checkpoint)
    needing = {
        "train": ["train", "psmnist"],
        "eval": ["eval", path],
        "picture": ["predict", path, "--output", path.replace(".ckpt", ".png")],
        "export": ["export", path],
    }
    free = [["--version"], ["-h"], ["train", "-h"]]
    free += [["explain", "784", "468"], ["predict", path, "--count", "2"]]
    code = BLOCKED.format(absent=ABSENT, commands=[*free, *needing.values()])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(free) + len(needing)
    for line in lines[: len(free)]:
        assert line.startswith("0 NoneType"), line
    for name, line in zip(needing, lines[len(free) :], strict=True):
        extra = "onnx" if name == "export" else "train"
        assert line.startswith("1 SystemExit Stopped: "), line
        assert "not installed" in line, line
        assert "pip install" in line, line
        assert f"of the extra {extra!r}" in line, line


def test_data_that_nobody_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*_: object) -> Path:
        raise DataError("no connection")

    monkeypatch.setattr(mnist, "CHECKOUT", tmp_path / "nowhere")
    monkeypatch.setattr(mnist, "default_cache", lambda: tmp_path / "cache")
    monkeypatch.setattr(mnist, "_download", offline)
    monkeypatch.chdir(tmp_path)
    place = ["--accelerator", "cpu", "--output", "runs"]
    text = invoke("train", "psmnist", *SMALL, *place, code=1)
    assert "Stopped: MNIST is neither in" in text
    assert "no connection" in text
    assert "Invalid value" not in text  # no option was given
    assert not (tmp_path / "runs").exists()
