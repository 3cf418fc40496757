"""The comparison of two checkouts."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import compare


def run(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["compare", *map(str, arguments)])
    compare.main()


class Silent:
    """A process that does nothing."""

    def __init__(self, source: Path) -> None:
        self.source = source

    def communicate(self) -> None:
        pass


def test_every_case_runs(monkeypatch):
    monkeypatch.setattr(compare, "SIZES", {"tiny": (2, 5, 2, 4, 3), "papers": (1, 4, 1, 3, 2)})
    builds = compare.cases()
    assert len(builds) == 9
    for build in builds.values():
        build()()


def test_two_source_trees_are_timed_in_turns(monkeypatch, tmp_path):
    path = tmp_path / "times.json"
    case = "LMU.step, user 1"
    arguments = ("--rounds", 1, "--shortest", 0, "--tolerance", 1e6, "--output", path)
    run(monkeypatch, compare.HERE, case, *arguments)
    (row,) = json.loads(path.read_text())["rows"]
    assert row["case"] == case
    assert row["ratio"] == row["here"][0] / row["base"][0] > 0


def test_a_slower_case_ends_in_an_error(monkeypatch, tmp_path):
    seconds = {compare.HERE: 1.1}
    (tmp_path / "lmu").mkdir()
    (tmp_path / "lmu" / "__init__.py").touch()

    monkeypatch.setattr(compare, "start", lambda source, shortest: Silent(source))
    monkeypatch.setattr(compare, "ask", lambda process, name: seconds.get(process.source, 1.0))
    run(monkeypatch, tmp_path, "user 1", "--tolerance", 0.2)
    with pytest.raises(SystemExit, match=r"slower by more than 3%: LMU\.step, user 1$"):
        run(monkeypatch, tmp_path, "LMU.step, user 1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nowhere"], "holds no package lmu"), ([compare.HERE, "nonsense"], "no case contains")],
)
def test_wrong_arguments_are_refused(arguments, message, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, *arguments)
    assert message in capsys.readouterr().err
