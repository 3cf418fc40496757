"""Timing, errors and peak memory; sweeps and tables of results."""

import json

import pytest
import torch

from benchmarks import harness, measure, scaling
from benchmarks.cases import CASES
from benchmarks.harness import Case, run
from benchmarks.measure import duration, peak_of, relative_error, take_turns
from benchmarks.work import Contender
from docs.figures import tables
from docs.figures.sweeps import draw
from docs.figures.tables import speed


@pytest.fixture(autouse=True)
def no_subprocess(monkeypatch):
    monkeypatch.setattr(harness, "peak_memory", lambda *_: 1.0)
    monkeypatch.setattr(scaling, "peak_memory", lambda *_: 1.0)
    monkeypatch.setattr(measure, "SHORTEST", 1e-4)


def contender(value: float, calls: list[str], name: str) -> Contender:
    def work() -> list[torch.Tensor]:
        calls.append(name)
        return [torch.tensor([value])]

    return Contender(work, work)


def case(values: dict[str, float], calls: list[str], **kwargs) -> Case:
    builds = {key: lambda v=v, key=key: contender(v, calls, key) for key, v in values.items()}
    return Case("toy", builds, lambda: [torch.tensor([1.0])], rounds=3, **kwargs)


def test_who_is_wrong_is_not_timed():
    with pytest.raises(ArithmeticError, match=r"toy: theirs is off by 0.5, more than 0.0001"):
        run("toy", case({"ours": 1.0, "theirs": 1.5}, []))


def test_contenders_take_turns_and_all_figures_are_there():
    calls: list[str] = []
    result = run("toy", case({"ours": 1.0, "theirs": 1.00001}, calls, flops=10.0))
    assert calls.count("ours") > 3
    assert calls.count("theirs") > 3
    figures = result["contenders"]["theirs"]
    assert figures["fastest"] <= figures["seconds"] <= figures["slowest"]
    assert figures["rounds"] == 3
    assert figures["error"] == pytest.approx(1e-5, rel=0.1)
    assert result["gemm_rate"] > 0


def test_slow_work_is_measured_twice_only(monkeypatch):
    monkeypatch.setattr(measure, "SLOW", 0.0)
    result = run("toy", case({"ours": 1.0}, []))
    assert result["contenders"]["ours"]["rounds"] == 2


def test_turns_have_a_random_order_and_short_work_is_repeated():
    calls: list[str] = []
    works = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = take_turns(works, rounds=8, shortest=0.0)
    assert {name: len(row) for name, row in times.items()} == {"a": 8, "b": 8}
    rounds = ["".join(calls[-16:][i : i + 2]) for i in range(0, 16, 2)]
    assert set(rounds) == {"ab", "ba"}
    before = len(calls)
    take_turns(works, rounds=1, shortest=1e-3)
    assert len(calls) - before > 10


def test_relative_error_is_that_of_the_exact_dtype():
    exact = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert relative_error(torch.tensor([3.0, 4.5]), exact) == pytest.approx(0.1)


def test_peak_memory_is_that_of_the_call():
    kept = torch.ones(8 << 20)  # 32 MiB that stand there before
    assert 60 < peak_of(lambda: torch.cat([kept, kept])) < 80
    assert peak_of(lambda: kept.sum()) < 5


def test_results_of_cases_become_a_table(monkeypatch, tmp_path):
    folder = tmp_path / "benchmarks" / "results" / "here"
    folder.mkdir(parents=True)
    machine = {"cpu": "a processor", "threads": 1, "torch": "2"}
    result = {"machine": machine, **run("toy", case({"ours": 1.0, "theirs": 1.0}, [], flops=1e9))}
    (folder / "lmu-toy.json").write_text(json.dumps(result))
    (folder / "scaling-toy.json").write_text("not a case")
    monkeypatch.setattr(speed, "ROOT", tmp_path)
    page = tables.render("before <!-- table: speed -->old<!-- end --> after")
    assert page.startswith("before <!-- table: speed -->\na processor, 1 threads, PyTorch 2:")
    assert page.endswith("<!-- end --> after")
    ours, theirs = result["contenders"]["ours"], result["contenders"]["theirs"]
    spread = f"({duration(ours['fastest'])} to {duration(ours['slowest'])})"
    assert f"| ours | {duration(ours['seconds'])} {spread} | 1 | 1 MiB | 0e+00 |" in page
    assert f"| {theirs['seconds'] / ours['seconds']:.3g} |" in page
    assert f"large products of PyTorch's: {result['gemm_rate'] / 1e9:.0f}" in page


def test_a_table_without_results_is_an_error_where_a_page_has_its_mark(monkeypatch, tmp_path):
    monkeypatch.setattr(speed, "ROOT", tmp_path)
    assert tables.render("no marks") == "no marks"
    for name in ("speed", "scaling"):
        with pytest.raises(FileNotFoundError, match="run the benchmarks first"):
            tables.render(f"<!-- table: {name} --><!-- end -->")


def test_a_step_of_a_stream_passes_the_gate():
    result = run("lmu-step", CASES["lmu-step"], rounds=1)
    assert all(figures["error"] < 1e-4 for figures in result["contenders"].values())


def test_a_sweep_its_picture_and_its_table(monkeypatch, tmp_path):
    result = scaling.run("length", points=(256, 300), rounds=1)
    assert set(result["lines"]) == set(scaling.SWEEPS["length"].lines)
    assert [row["x"] for row in result["lines"]["LMUFFT"]] == [256, 300]
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    draw(result, first)
    draw(result, second)
    assert first.read_bytes() == second.read_bytes()
    assert "nn.LSTM" in first.read_text()
    folder = tmp_path / "benchmarks" / "results" / "here"
    folder.mkdir(parents=True)
    (folder / "scaling-length.json").write_text(json.dumps(result))
    monkeypatch.setattr(speed, "ROOT", tmp_path)
    assert "| time steps | 256 | 300 |" in speed.scaling()


def test_lines_end_where_they_are_told(monkeypatch):
    line = scaling.Line(lambda _: lambda: None, largest=2)
    monkeypatch.setitem(scaling.SWEEPS, "toy", scaling.Sweep("t", "x", (1, 2, 3), {"a": line}))
    assert [row["x"] for row in scaling.run("toy", rounds=1)["lines"]["a"]] == [1, 2]


def test_every_sweep_builds_its_work():
    for sweep in scaling.SWEEPS.values():
        for line in sweep.lines.values():
            line.build(1)()
