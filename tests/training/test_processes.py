"""Several processes train as one does; tests/test_cli.py has what users see of it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lmu.tasks.psmnist.config import PsMNISTConfig
from lmu.tasks.psmnist.run import train
from lmu.training.settings import ConfigError
from tests.limits import HANG
from tests.training import together

Curves = dict[str, list[float]]
COLUMNS = ("learning_rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy")


def history(folder: Path) -> list[list[float]]:
    """The rows of a run, without seconds."""
    rows = (folder / "history.csv").read_text().splitlines()
    names = rows[0].split(",")
    table = [dict(zip(names, row.split(","), strict=True)) for row in rows[1:]]
    return [[float(row[name]) for name in COLUMNS] for row in table]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Curves]:
    """Runs of this process: their folder and curves."""
    output = tmp_path_factory.mktemp("alone")
    return output, together.curves(output)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of this process that was stopped; the two processes go on with it."""
    return together.interrupted(tmp_path_factory.mktemp("stopped"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, stopped: Path) -> dict[str, Any]:
    """What two processes under torchrun found."""
    output = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--standalone", "-m", "tests.training.together", str(output), str(stopped)]
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=root, capture_output=True,
        text=True, timeout=HANG, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    first, second = (json.loads((output / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    return {"output": output} | first


@pytest.mark.parametrize("case", together.CASES)
def test_losses_of_50_steps_are_those_of_one_process(
    alone: tuple[Path, Curves], two: dict[str, Any], case: str
) -> None:
    one, both = alone[1][case], two["losses"][case]
    assert len(one) == len(both) >= 50
    assert max(one) > 1.02 * min(one)
    assert both == pytest.approx(one, abs=1e-5)


@pytest.mark.parametrize("case", together.CASES)
def test_so_are_the_metrics(alone: tuple[Path, Curves], two: dict[str, Any], case: str) -> None:
    (one,), (both,) = ((p / case).iterdir() for p in (alone[0], two["output"] / "curves"))
    # A bias ahead of a batch normalization has no gradient but rounding, of which Adam makes steps
    # of full size: what is trained does not see them, but running means lag behind them.
    columns = 3 if case == "deep" else 5
    for a, b in zip(history(one), history(both), strict=True):
        assert b[:columns] == pytest.approx(a[:columns], abs=1e-5)
    if case == "deep":
        return
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (one, both)]
    for name in ("test_accuracy", "test_loss", "test_digits", "val_accuracy", "chosen"):
        assert metrics[1][name] == pytest.approx(metrics[0][name], abs=1e-5)


def test_two_processes_go_on_with_a_run_of_one(
    alone: tuple[Path, Curves], two: dict[str, Any], stopped: Path
) -> None:
    (whole,) = (alone[0] / "lmufft").iterdir()
    for a, b in zip(history(whole), history(stopped), strict=True):
        assert b == pytest.approx(a, abs=1e-5)


def test_one_process_goes_on_with_a_run_of_two(
    alone: tuple[Path, Curves], two: dict[str, Any]
) -> None:
    folder = Path(two["stopped"])
    assert len(history(folder)) == together.STOPS_AFTER
    together.resumed(folder)
    (whole,) = (alone[0] / "lmufft").iterdir()
    for a, b in zip(history(whole), history(folder), strict=True):
        assert b == pytest.approx(a, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "setting", "says"),
    [
        ({"devices": "3"}, "devices", "torchrun started 2 processes here, got 3"),
        ({"num_nodes": 2}, "num_nodes", "torchrun started 1 machines, got 2"),
    ],
)
def test_torchrun_and_settings_must_agree(
    monkeypatch: pytest.MonkeyPatch, output: Path, settings: dict[str, Any], setting: str, says: str
) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=says) as error:
        train(PsMNISTConfig(limit=10, **settings), output=output)
    assert error.value.setting == setting
