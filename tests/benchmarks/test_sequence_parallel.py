"""The benchmark of time spread over processes, and the model of what it costs."""

import json
import sys
from dataclasses import replace

import pytest

from benchmarks import sequence_parallel
from benchmarks.cost_model import Machine, Work, model
from lmu.distributed.carry import ALGORITHMS


def test_one_process_leaves_its_results(monkeypatch, tmp_path):
    path = tmp_path / "results.json"
    alone = replace(sequence_parallel.QUICK, processes=(1,), layer_processes=(1,))
    monkeypatch.setattr(sequence_parallel, "QUICK", alone)
    monkeypatch.setattr(sequence_parallel, "spawn", lambda worker, args, nprocs: worker(0, *args))
    monkeypatch.setattr(sys, "argv", ["command", "--quick", "--output", str(path)])
    sequence_parallel.main()
    results = json.loads(path.read_text())
    assert [row["way"] for row in results["carry"]] == list(ALGORITHMS)
    assert [row["processes"] for row in results["layer"]] == [1]
    double, single, _ = results["errors"]
    assert max(double[name] for name in ("outputs", "x", "weights")) < 1e-12
    assert max(single[name] for name in ("outputs", "x", "weights")) < 1e-5
    assert all(row["error"] < 1e-12 for row in results["powers"])


@pytest.mark.slow
def test_quick_run_leaves_its_results(monkeypatch, tmp_path):
    path = tmp_path / "results.json"
    monkeypatch.setattr(sys, "argv", ["command", "--quick", "--output", str(path)])
    sequence_parallel.main()
    results = json.loads(path.read_text())
    settings = sequence_parallel.QUICK
    assert [row["processes"] for row in results["layer"]] == list(settings.layer_processes)
    assert len(results["carry"]) == len(settings.processes) * len(settings.states) * len(ALGORITHMS)
    for row in results["carry"]:
        assert 0 < row["fastest"] <= row["seconds"] <= row["slowest"]
        assert row["sent_bytes"] > row["payload_bytes"] > 0  # the rest is the sockets'
    double, single, alone = results["errors"]
    for name in ("outputs", "x", "weights"):
        assert double[name] < 1e-12
        assert max(single[name], alone[name]) < 1e-5
    assert all(row["error"] < 1e-12 for row in results["powers"])


def test_quick_figures_do_not_replace_results(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["command", "--quick"])
    with pytest.raises(SystemExit):
        sequence_parallel.main()
    assert "--quick needs --output" in capsys.readouterr().err


def test_payload_counts_the_messages():
    # Of four processes three send to the next; then of those that are not the first, two have one
    # a step ahead and one has one two steps ahead.
    assert sequence_parallel.payload("scan", 4, 100) == 100 * (3 + 2 + 1) / 4
    assert sequence_parallel.payload("ring", 4, 100) == 100 * 3 / 4
    assert sequence_parallel.payload("gather", 4, 100) == 100 * 3


def test_model_at_many_processes():
    free = Machine(launch=0, latency=0, bandwidth=float("inf"), double_flops=float("inf"))
    work = Work(1e9, 64, 64)
    alone, many = model(work, 1, free), model(work, 1000, free)
    assert many.compute == pytest.approx(alone.compute / 1000)
    assert many.carry == dict.fromkeys(ALGORITHMS, 0.0)
    assert many.efficiency("scan") == 1
    slow = model(work, 1024, Machine(latency=1.0, launch=0))
    assert slow.carry["scan"] == pytest.approx(2 * 11 + 4 * 10, rel=1e-3)
    assert slow.carry["ring"] == pytest.approx(2 * 1023 + 4 * 10, rel=1e-3)
    assert slow.sent["ring"] < slow.sent["scan"] < slow.sent["gather"]
