"""The command that writes the tables and pictures of the pages."""

import sys

import pytest

from docs.figures import __main__ as command
from docs.figures import tables


def run(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["figures", *arguments])
    command.main()


def test_named_parts_are_written(monkeypatch):
    written: list[str] = []
    parts = {name: lambda name=name: written.append(name) for name in command.PARTS}
    monkeypatch.setattr(command, "PARTS", parts)
    run(monkeypatch, "sweeps")
    assert written == ["sweeps"]
    run(monkeypatch)
    assert written == ["sweeps", *command.PARTS]


def test_only_pages_whose_tables_changed_are_written(monkeypatch, tmp_path, capsys):
    old, other = tmp_path / "old.md", tmp_path / "other.md"
    old.write_text("<!-- table: overhead -->\n<!-- end -->\n")
    other.write_text("no table\n")
    monkeypatch.setattr(tables, "PAGES", (old, other))
    run(monkeypatch, "tables")
    assert "| hand-written |" in old.read_text()
    assert capsys.readouterr().out == "wrote the tables of old.md\n"


def test_unknown_parts_are_refused(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, "nonsense")
    assert "no such part: nonsense; choose from tables, sweeps" in capsys.readouterr().err
