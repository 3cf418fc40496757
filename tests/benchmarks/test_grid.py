"""The grid of users' sizes: its cases, a run that goes on, a wrong contender, fit, tables."""

import json
import sys

import pytest
import torch

from benchmarks import rates as fitting
from benchmarks.grid import __main__ as command
from benchmarks.grid import cases, summary, timing
from benchmarks.grid.cases import FFT, LMU, MEMORY, Case
from benchmarks.grid.contenders import AUTO, TEXTBOOK
from docs.figures import grid as pictures
from docs.figures import style
from docs.figures.tables import grid as tables

SMALL = [Case(FFT, 1, 9, 4, 5, 2), Case(LMU, 2, 6, 4, 5), Case(MEMORY, 2, 9, 4, 0, 2)]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, value in {"PATIENCE": 0.0, "FEWEST": 2, "SHORTEST": 1e-4}.items():
        monkeypatch.setattr(timing, name, value)
    monkeypatch.setattr(command, "grid", lambda _: SMALL)
    monkeypatch.setattr(tables, "users", lambda: SMALL[:1])


@pytest.fixture
def measured(tmp_path, monkeypatch, capsys):
    path = tmp_path / "grid.json"
    monkeypatch.setattr(sys, "argv", ["grid", "--output", str(path)])
    command.main()
    return path, capsys.readouterr().out


def test_cases_are_many_different_and_the_same_each_time():
    grid = cases.grid()
    assert grid == cases.grid()
    assert len(set(grid)) == len(grid) > 500
    assert len([c for c in grid if c.layer == FFT]) >= 300
    for axis, values in {"batch": cases.BATCHES, "length": cases.LENGTHS}.items():
        assert set(values) <= {getattr(c, axis) for c in grid if c.layer == FFT}
    assert set(cases.users()) <= set(grid)


def test_a_run_measures_every_contender_and_goes_on_where_it_stopped(measured, monkeypatch, capsys):
    path, out = measured
    first = json.loads(path.read_text())
    assert [row["layer"] for row in first["cases"]] == [FFT, LMU, MEMORY]
    for row in first["cases"]:
        assert {AUTO, row["chosen"]} <= row["seconds"].keys()
        assert all(0 < row["fastest"][k] <= t for k, t in row["seconds"].items())
    assert {TEXTBOOK, "nn.GRU", "nn.LSTM"} <= first["cases"][0]["seconds"].keys()
    assert "auto / best method" in out
    monkeypatch.setattr(command, "grid", lambda _: [*SMALL, Case(FFT, 1, 5, 4, 5)])
    command.main()
    assert capsys.readouterr().out.startswith("1/1 LMUFFT batch 1 T 5 ")
    second = json.loads(path.read_text())
    assert second["cases"][:3] == first["cases"]
    assert len(second["cases"]) == 4


def test_another_number_of_threads_does_not_go_on(measured, monkeypatch, capsys):
    path, _ = measured
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["grid", "--output", str(path), "--threads", "3"])
    try:
        with pytest.raises(SystemExit):
            command.main()
    finally:
        torch.set_num_threads(threads)
    assert "has other conditions: threads 1 and not 3" in capsys.readouterr().err


def test_who_is_wrong_is_refused():
    right, wrong = torch.ones(3), torch.tensor([1.0, 1.0, 1.01])
    steps = {AUTO: lambda: [right], TEXTBOOK: lambda: [wrong]}
    with pytest.raises(timing.WrongError, match=r"textbook differs by 5.8e-03"):
        timing.check(SMALL[0], steps)
    timing.check(SMALL[0], {AUTO: lambda: [right], TEXTBOOK: lambda: [right]})


def test_summary_of_known_ratios():
    def row(auto, textbook, **methods):
        seconds = {AUTO: auto, TEXTBOOK: textbook, **methods}
        return SMALL[0].sizes | {"seconds": seconds, "chosen": "fft"}

    rows = [row(2.0, 1.0, fft=2.0, states=1.0), row(1.0, 4.0, fft=1.0, states=8.0)]
    found = summary.summary(rows)[FFT]
    assert found["auto / best method"] == {
        "cases": 2, "mean": pytest.approx(2**0.5), "worst": 2.0, "wrong": 0.5,
    }  # fmt: skip
    against = found["textbook / auto"]
    assert (against["mean"], against["worst"], against["wrong"]) == (
        pytest.approx(2**0.5),
        0.5,
        0.5,
    )


def test_rates_are_fitted_and_shown(measured, tmp_path, monkeypatch, capsys):
    path, _ = measured
    output = tmp_path / "rates.json"
    monkeypatch.setattr(sys, "argv", ["rates", str(path), "--output", str(output)])
    monkeypatch.setattr(fitting, "report", lambda _: "")  # it splits the cases
    fitting.main()
    (table,) = json.loads(output.read_text())["tables"]
    assert table["threads"] == 1
    assert set(table["rates"]["readout"]) >= {"fft", "states", "chunked"}
    assert "grid.json: 3 cases" in capsys.readouterr().out


def test_tables_and_pictures(measured, tmp_path, monkeypatch):
    path, _ = measured
    monkeypatch.setattr(style, "IMAGES", tmp_path / "images")
    grid = json.loads(path.read_text())
    for module in (tables, pictures):
        monkeypatch.setattr(module, "record", lambda _: grid)
        monkeypatch.setattr(module, "ROOT", tmp_path)
    assert tables.sizes() == tables.ratios() == tables.MISSING
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "grid.json").touch()
    assert "| LMUFFT | 1, 9, 2, 4, 5 |" in tables.sizes()
    assert "| LMU | textbook / auto | 1 |" in tables.ratios()
    pictures.pictures()
    assert {p.name for p in style.IMAGES.iterdir()} == {"grid-wins.svg", "grid-ratios.svg"}
