"""The benchmarks as commands, with the processes of their own in which they measure memory."""

import json
import sys
from dataclasses import replace

import pytest

from benchmarks import __main__ as cases
from benchmarks import peers, scaling


def command(monkeypatch, main, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    main()


def test_cases_leave_their_results(monkeypatch, tmp_path):
    case = cases.CASES["lmu-step"]
    two = dict(list(case.contenders.items())[:2])  # each has a process for its memory
    only = {"lmu-step": replace(case, contenders=two)}
    monkeypatch.setattr(cases, "CASES", only)
    command(monkeypatch, cases.main, "--rounds", "1", "--output", str(tmp_path))
    result = json.loads((tmp_path / "lmu-step.json").read_text())
    assert list(result["contenders"]) == list(two)
    assert all(0 <= figures["peak_mib"] < 20 for figures in result["contenders"].values())
    assert result["peers"].keys() == set(peers.PACKAGES)


def test_quick_sweeps_leave_their_results(monkeypatch, tmp_path):
    command(
        monkeypatch, scaling.main, "--quick", "--rounds", "1", "--output", str(tmp_path),
        "long", "build",
    )  # fmt: skip
    for name in ("long", "build"):
        (rows,) = json.loads((tmp_path / f"scaling-{name}.json").read_text())["lines"].values()
        assert [row["x"] for row in rows] == list(scaling.SWEEPS[name].quick)


def test_quick_sweeps_do_not_replace_results(monkeypatch):
    with pytest.raises(SystemExit):
        command(monkeypatch, scaling.main, "--quick", "long")


def test_unknown_names_are_refused(monkeypatch, capsys):
    for main in (cases.main, scaling.main):
        with pytest.raises(SystemExit):
            command(monkeypatch, main, "nonsense")
        assert "nonsense; choose from" in capsys.readouterr().err
