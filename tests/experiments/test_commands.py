"""``python -m experiments``: it lists folders, and says what is wrong in a line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import experiments
from experiments.__main__ import build_app, names
from lmu.cli._app import Command, Group
from tests.test_cli_errors import ABSENT, HUGE

MAIN = '''
from typing import Annotated

import typer


def main(size: Annotated[int, typer.Option(help="How large.")] = 3) -> None:
    """An experiment of a folder."""
    print("size", size)
'''


def invoke(*arguments: str, code: int = 2) -> str:
    """Run the command and return its output with line breaks and boxes taken out."""
    result = CliRunner().invoke(build_app(), list(arguments), env={"COLUMNS": "200"})
    assert result.exit_code == code, (result.output, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return " ".join("".join(c for c in result.output if c not in "│╭╮╰╯─").split())


def test_they_are_listed() -> None:
    assert {"capacity", "mackey_glass", "psmnist", "series", "speed_up"} <= set(names())
    root = Path(__file__).parents[2]
    listed = subprocess.run(
        [sys.executable, "-m", "experiments"], capture_output=True, text=True, cwd=root
    ).stdout
    assert all(name.replace("_", "-") in listed for name in names())


def test_to_add_one_is_to_add_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "another_one").mkdir()
    (tmp_path / "another_one" / "__init__.py").write_text("")
    (tmp_path / "another_one" / "main.py").write_text(MAIN)
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path)])
    assert "An experiment of a folder." in invoke("another-one", "-h", code=0)
    assert invoke("another-one", "--size", "5", code=0) == "size 5"
    for name in ("experiments.another_one", "experiments.another_one.main"):
        sys.modules.pop(name)


@pytest.mark.parametrize("name", ["", *names()])
def test_every_command_has_help(name: str) -> None:
    group = get_command(build_app())
    words = [name.replace("_", "-")] if name else []
    assert isinstance(group, Group)
    assert isinstance(group.commands[words[0]] if name else group, Group | Command)
    assert invoke(*words, "-h", code=0) == invoke(*words, "--help", code=0)


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["mackey-glas"], "'mackey-glass'"),
        (["psmnist", "deep-1023"], "'deep-1024'"),
        (["mackey-glass", "lmuff"], "'lmufft'"),
        (["mackey-glass", "--epoch", "3"], "'--epochs'"),
        (["series", "sunspot"], "'sunspots'"),
        (["speed-up", "--device", "cud"], "'cuda'"),
    ],
)
def test_what_was_meant_is_asked(arguments: list[str], meant: str) -> None:
    text = invoke(*arguments)
    assert f"Did you mean {meant}?" in text
    assert text.count("Did you mean") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["capacity", "--lstm-seconds", "nan"], "must lie in 0 to 1e+06, got nan"),
        (["capacity", "--seed", HUGE], "--seed"),
        (["capacity", "--output", "/x/figures.png"], "cannot be written"),
        (["series", "--output", "a" * 300 + ".json"], "cannot be written"),
        (["speed-up", "--rounds", HUGE], "--rounds"),
        (["series", "--seeds", HUGE], "--seeds"),
    ],
)
def test_absurd_input_is_told_in_a_line(arguments: list[str], says: str, tmp_path: Path) -> None:
    if "/x/figures.png" in arguments:
        (tmp_path / "file").write_text("")
        arguments = [*arguments[:-1], str(tmp_path / "file" / "figures.png")]
    assert says in invoke(*arguments)


@pytest.mark.parametrize("rows", [[1], [{}], 5, None])
@pytest.mark.parametrize("experiment", ["mackey-glass", "series"])
def test_records_that_are_none(experiment: str, rows: object, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"experiment": experiment, "rows": rows}))
    before = record.read_text()
    text = invoke(experiment, "--quick", "--output", str(record))
    assert "is no record of this experiment" in text
    assert record.read_text() == before


def test_a_picture_is_not_written_over_the_figures(tmp_path: Path) -> None:
    for experiment in ("capacity", "series", "mackey-glass", "speed-up"):
        assert "must end in .json" in invoke(experiment, "--output", str(tmp_path / "x.png"))


BLOCKED = """
import sys
for name in {absent}: sys.modules[name] = None  # as if it were not installed
from typer.testing import CliRunner
from experiments.__main__ import build_app
for arguments in {commands}:
    result = CliRunner().invoke(build_app(), arguments)
    print(result.exit_code, type(result.exception).__name__, " ".join(result.output.split()))
"""


def test_help_needs_no_package_of_an_experiment() -> None:
    commands = [["psmnist", "-h"], ["series", "-h"], ["capacity"]]
    code = BLOCKED.format(absent=ABSENT, commands=commands)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    *free, missing = [line for line in done.stdout.splitlines() if line[0].isdigit()]
    assert [line.split()[:2] for line in free] == [["0", "NoneType"]] * 2
    assert missing.startswith("1 SystemExit Stopped: ")
    assert "not installed" in missing
    assert "of the extra 'train'" in missing
