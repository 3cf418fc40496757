import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from typer.testing import CliRunner

import lmu
from lmu.cli import app
from lmu.tasks.mnist import FILES
from lmu.tasks.psmnist import run
from lmu.tasks.psmnist.recipe import load_classifier
from lmu.tasks.psmnist.run import resume_config
from lmu.training.settings import ConfigError
from tests.limits import HANG

pytestmark = pytest.mark.usefixtures("quick_runs")
SMALL = ["--hidden-size", "12", "--memory-size", "8", "--batch-size", "50", "--limit", "230"]
TRAIN = ["train", "psmnist", *SMALL, "--accelerator", "cpu"]


def invoke(*arguments: str, code: int = 0) -> str:
    """Run the command and return its output with line breaks and boxes taken out."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, (result.output, result.exception)
    return re.sub(r"[\s│╭╮╰╯─]+", " ", result.output)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small run faster on one thread, above all beside other processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs")
    text = invoke(*TRAIN, "--epochs", "2", "--output", str(output))
    (folder,) = output.iterdir()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert f"{100 * metrics['test_accuracy']:.2f} %" in text
    assert f"{metrics['parameters']:,}" in text
    assert "epoch 2/2" in text
    assert "confusion.png" in text
    return folder


def test_version() -> None:
    assert invoke("--version").strip() == f"torch-lmu {lmu.__version__}"


def test_explain_says_method_reason_and_cost() -> None:
    text = invoke("explain", "784", "468", "--hidden-size", "346", "--batch-size", "100")
    for method in ("fft", "final", "blocks", "parallel"):
        assert method in text
    assert re.search(r"about \d+\.\d times as fast as by method", text)
    assert re.search("chunked|native", invoke("explain", "1000000", "64"))
    assert "must be at least 1, got 0" in invoke("explain", "0", "4", code=2)


def test_eval_prints_the_accuracy_of_the_run(run_folder: Path) -> None:
    metrics = json.loads((run_folder / "metrics.json").read_text())
    right = round(metrics["test_accuracy"] * 230)
    assert f"({right} of 230)" in invoke("eval", str(run_folder))


def test_predict_shows_digits(run_folder: Path) -> None:
    text = invoke("predict", str(run_folder / "best.ckpt"), "--count", "2")
    assert len(re.findall(r"test digit \d+: \d", text)) == 2
    assert "%" in text  # without colours digits are drawn in characters
    assert text == invoke("predict", str(run_folder / "best.ckpt"), "--count", "2")
    assert text != invoke("predict", str(run_folder / "best.ckpt"), "--count", "2", "--seed", "1")


def test_predict_writes_a_picture(run_folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "digits.png"
    assert "wrote" in invoke("predict", str(run_folder), "--count", "7", "--output", str(picture))
    assert len(np.unique(imread(picture))) > 50  # digits have many greys, white paper has none


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--model", "cnn", "'cnn'"),
        ("--schedule", "step", "'step'"),
        ("--hidden-size", "0", "at least 1, got 0"),
        ("--memory-size", "0", "at least 1, got 0"),
        ("--theta", "0", "positive number, got 0.0"),
        ("--theta", "-5", "positive number, got -5.0"),
        ("--theta", "nan", "positive number, got nan"),
        ("--dropout", "1", "[0, 1), got 1.0"),
        ("--epochs", "0", "at least 1, got 0"),
        ("--epochs", "x", "integer"),
        ("--batch-size", "0", "at least 1, got 0"),
        ("--lr", "-1", "positive number, got -1.0"),
        ("--patience", "-1", "at least 0, got -1"),
        ("--seed", "-1", "got -1"),
        ("--limit", "0", "at least 1, got 0"),
        ("--num-nodes", "0", "at least 1, got 0"),
        ("--data", "/nowhere", "/nowhere holds neither"),
        ("--permutation", "/nowhere.txt", "/nowhere.txt cannot be read"),
        ("--resume", "/nowhere", "drop"),
        ("--data", __file__, "holds neither"),
        ("--accelerator", "abacus", "abacus"),
        ("--accelerator", "tpu", "torch_xla"),
        ("--devices", "0", "refuses"),
        ("--devices", "231", "231 processes cannot share 230 training digits"),
        ("--devices", "x", "refuses"),
        ("--strategy", "abacus", "abacus"),
        ("--precision", "3", "Precision '3' is invalid"),
        ("--precision", "transformer-engine", "transformer_engine"),
        ("--output", "/dev/null/x", "/dev/null/x"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, option: str, value: str, says: str) -> None:
    arguments = [*TRAIN, "--output", str(tmp_path)]
    text = invoke(*arguments, option, value, code=2)
    assert says in text
    hint = re.search("Invalid value for (.+?): ", text)
    assert hint is not None, text
    named = set(hint[1].replace("'", "").split(" / "))
    assert option in named
    # TRAIN sets the accelerator too, so that it may be what Lightning refuses.
    assert named <= {option, "--accelerator"}
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("1 2 3", "must hold 784 integers, got (3,)"),
        ("0 " * 784, "each of 0 to 783 exactly once"),
        ("0.5 " * 784, "cannot be read"),
        ("", "must hold 784 integers, got (0,)"),
    ],
    ids=["too few", "duplicates", "floats", "empty"],
)
def test_wrong_permutations(tmp_path: Path, content: str, says: str) -> None:
    permutation, output = tmp_path / "order.txt", tmp_path / "runs"
    permutation.write_text(content)
    arguments = ["--output", str(output), "--permutation", str(permutation)]
    text = invoke(*TRAIN, *arguments, code=2)
    assert "Invalid value for --permutation" in text
    assert "order.txt" in text
    assert says in text
    assert not output.exists()


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A folder with files of the right names but wrong contents."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_bytes(b"<html>")
    return folder


def test_training_on_damaged_data(tmp_path: Path, damaged: Path) -> None:
    output = tmp_path / "runs"
    text = invoke(*TRAIN, "--data", str(damaged), "--output", str(output), code=2)
    assert "Invalid value for --data" in text
    assert "is damaged" in text
    assert not output.exists()


def test_a_refusal_of_the_defaults_names_no_option(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConfigError(None, "no luck")

    monkeypatch.setattr(run, "train", refuse)
    assert "Invalid value: no luck" in invoke("train", "psmnist", code=2)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_divergence_in_the_last_step(tmp_path: Path, schedule: str) -> None:
    arguments = ["--lr", "1e30", "--epochs", "1", "--limit", "20", "--schedule", schedule]
    text = invoke(*TRAIN, *arguments, "--output", str(tmp_path), code=1)
    assert "Stopped: the validation loss is nan after epoch 1: lower the learning rate" in text
    full = invoke(*TRAIN, *arguments, "--full-train", "--output", str(tmp_path), code=1)
    assert "Stopped: the test loss is nan after training: lower the learning rate" in full
    assert not list(tmp_path.glob("*/metrics.json"))


def test_early_stopping_with_full_train() -> None:
    assert "--full-train" in invoke(*TRAIN, "--full-train", "--patience", "2", code=2)


def test_resume_of_what_is_not_there(tmp_path: Path) -> None:
    for path, says in (("/nowhere", "does not exist"), (str(tmp_path), "no checkpoint")):
        text = invoke("train", "psmnist", "--resume", path, code=2)
        assert "Invalid value for --resume" in text
        assert says in text


@pytest.mark.parametrize("command", ["eval", "predict"])
def test_wrong_checkpoints(tmp_path: Path, command: str) -> None:
    text = invoke(command, str(tmp_path / "no.ckpt"), code=2)
    assert "Invalid value for checkpoint" in text
    assert "does not exist" in text
    assert "holds no checkpoint" in invoke(command, str(tmp_path), code=2)
    assert "Missing argument" in invoke(command, code=2)
    junk = tmp_path / "junk.ckpt"
    junk.write_bytes(b"junk")
    assert "not a checkpoint written by lmu train" in invoke(command, str(junk), code=2)


@pytest.mark.parametrize("command", ["eval", "predict"])
def test_eval_and_predict_look_only_into_the_named_data(run_folder: Path, command: str) -> None:
    text = invoke(command, str(run_folder), "--data", "/nowhere", code=2)
    assert "Invalid value for --data" in text
    assert "/nowhere holds neither" in text


@pytest.mark.parametrize("command", ["eval", "predict"])
def test_eval_and_predict_on_wrong_data(run_folder: Path, damaged: Path, command: str) -> None:
    for data, says in ((damaged, "is damaged"), (Path(__file__), "holds neither")):
        text = invoke(command, str(run_folder), "--data", str(data), code=2)
        assert "Invalid value for --data" in text
        assert says in text


@pytest.mark.parametrize(("accelerator", "says"), [("abacus", "abacus"), ("tpu", "torch_xla")])
def test_eval_on_an_unknown_accelerator(run_folder: Path, accelerator: str, says: str) -> None:
    text = invoke("eval", str(run_folder), "--accelerator", accelerator, code=2)
    assert "Invalid value for --accelerator" in text
    assert says in text


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--count", "0", "at least 1, got 0"),
        ("--count", "-3", "at least 1, got -3"),
        ("--count", "x", "integer"),
        ("--seed", "99999999999999999999", "0 to 2^32 - 1, got 99999999999999999999"),
        ("--seed", "-1", "0 to 2^32 - 1, got -1"),
        ("--seed", "x", "integer"),
        ("--output", "/dev/null/x.png", "/dev/null/x.png cannot be written"),
        ("--output", "p.jpg", "must end in .png, got p.jpg"),
        ("--output", "picture", "must end in .png, got picture"),
    ],
)
def test_wrong_options_of_predict(run_folder: Path, option: str, value: str, says: str) -> None:
    text = invoke("predict", str(run_folder), option, value, code=2)
    assert says in text
    assert option in text


def spawn(*arguments: str, launcher: Sequence[str] = ("-m", "lmu")) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *launcher, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        # Who runs the tests in the background of a shell hands down that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_an_epoch(process: subprocess.Popen, output: Path) -> None:
    """Until a run has written what an epoch leaves, or has ended without it."""
    deadline = time.monotonic() + HANG
    while not list(output.glob("*/history.csv")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ctrl_c_leaves_a_run_that_can_be_continued(tmp_path: Path) -> None:
    process = spawn(*TRAIN, "--epochs", "100000", "--output", str(tmp_path))
    try:
        wait_for_an_epoch(process, tmp_path)
        process.send_signal(signal.SIGINT)
        text, _ = process.communicate(timeout=HANG)
    finally:
        process.kill()
    assert process.returncode == 130, text
    (folder,) = tmp_path.iterdir()
    assert f"lmu train psmnist --resume {folder}" in text
    assert "Traceback" not in text
    assert "Warning" not in text
    assert not list(folder.glob(".*.tmp*"))
    assert "test accuracy" not in text
    refused = invoke("train", "psmnist", "--resume", str(folder), "--epochs", "3", code=2)
    assert "drop --epochs" in refused
    assert "(" in invoke("eval", str(folder))


def test_two_processes_train_together(tmp_path: Path) -> None:
    arguments = [*TRAIN, "--epochs", "1", "--output", str(tmp_path), "--devices", "2"]
    process = spawn(*arguments)
    try:
        text, _ = process.communicate(timeout=HANG)
    finally:
        process.kill()
    assert process.returncode == 0, text
    (folder,) = tmp_path.iterdir()
    metrics = json.loads((folder / "metrics.json").read_text())
    # Every test digit is counted once, and the table is printed once.
    assert metrics["test_digits"] == 230
    assert text.count("test accuracy") == 1
    assert text.count("epoch 1/1") == 1
    assert "Warning" not in text


LAUNCHERS = {
    "own": ["-m", "lmu"],
    "torchrun": [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "lmu",
    ],
}


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("launcher", ["own", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_a_killed_process_ends_the_job_and_leaves_its_checkpoint(
    launcher: str, tmp_path: Path
) -> None:
    devices = ["--devices", "2"] if launcher == "own" else []
    arguments = [*TRAIN, "--epochs", "100000", *devices, "--output", str(tmp_path)]
    job = spawn(*arguments, launcher=LAUNCHERS[launcher])
    try:
        wait_for_an_epoch(job, tmp_path)
        workers = children(job.pid)
        os.kill(workers[-1], signal.SIGKILL)  # epochs take milliseconds: some write is under way
        text, _ = job.communicate(timeout=HANG)
    finally:
        job.kill()
    assert job.returncode == 1, text
    (folder,) = tmp_path.iterdir()
    assert re.search(r"Process \d of 2 lost the connection to another, which may have been", text)
    assert f"lmu train psmnist --resume {folder}" in text
    assert "SIGKILL" in text or launcher == "own"
    assert not any(runs(worker) for worker in workers)
    assert not list(folder.glob(".*.tmp*"))
    load_classifier(folder / "best.ckpt")
    _, config = resume_config(folder, devices="1")
    assert (config.devices, config.epochs) == ("1", 100000)


def runs(pid: int) -> bool:
    """Whether a process is there and not only a name that nobody has asked for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def test_a_missing_package_is_named_with_its_cure() -> None:
    code = (
        "import importlib.util as u; f = u.find_spec;"
        "u.find_spec = lambda name, *a: None if name == 'rich' else f(name, *a);"
        "from lmu.__main__ import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert 'pip install "lightning' in result.stderr
    assert "rich" in result.stderr
    assert "Traceback" not in result.stderr
