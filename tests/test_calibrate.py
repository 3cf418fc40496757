"""Calibration: a small measurement, its file, and files that do not fit."""

import json
import subprocess
import sys

import pytest
import torch

from lmu import LMUFFT, calibrate
from lmu.ops import calibration, native, rates


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(calibration, "path", lambda: tmp_path / "torch-lmu" / "rates.json")
    with rates.using([]):
        rates.use(None)
        yield calibration.path()


@pytest.fixture
def quick(monkeypatch):
    sizes = ((1, 8, 4, 3, 1), (2, 16, 6, 4, 2), (1, 30, 8, 4, 1))
    families = {
        name: family._replace(sizes=tuple((b, T, d, n, 1 if name == "lmu" else c)
                                          for b, T, d, n, c in sizes))
        for name, family in calibrate.FAMILIES.items()
    }  # fmt: skip
    monkeypatch.setattr(calibrate, "FAMILIES", families)
    monkeypatch.setattr(calibrate, "ENOUGH", 1e-4)
    monkeypatch.setattr(calibrate, "LONGEST", 1e9)


def test_measured_rates_are_used_and_named(cache, quick, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["calibrate"])
    calibrate.main()
    assert str(cache) in capsys.readouterr().out
    layer = LMUFFT(1, 4, 8, 30, 30)
    choice = layer.explain(30)
    assert choice.machine.endswith(f", file {cache}")
    (table,) = calibration.read()
    for family, (methods, *_) in calibrate.FAMILIES.items():
        ours = {k for k, m in methods.items() if m.terms and (m.needs != "triton")}
        ours -= {k for k in ours if methods[k].needs == "core" and not native.is_available()}
        assert table["rates"][family].keys() == ours
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert str(cache) not in layer.explain(30).machine
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr(sys, "argv", ["calibrate", "--reset"])
    calibrate.main()
    assert not cache.exists()
    rates.use(None)
    assert str(cache) not in layer.explain(30).machine


def test_tables_of_other_threads_stay(cache):
    for threads in (1, 2, 1):
        calibration.write(table(threads))
    assert sorted(t["threads"] for t in calibration.read()) == [1, 2]


def table(threads=1):
    return {"device": "cpu", "threads": threads, "core": True, "source": {"date": "2026-01-01"},
            "rates": {"readout": {"fft": {"calls": 1e-6}}}}  # fmt: skip


def with_rate(rate):
    wrong = table() | {"rates": {"lmu": {"loop": {"steps": rate}}}}
    return json.dumps({"machine": {}, "tables": [wrong]})


@pytest.mark.parametrize("key", ["cpu", "torch", "core"])
def test_a_file_of_another_machine_is_not_used_in_silence(cache, key):
    calibration.write(table())
    content = json.loads(cache.read_text())
    content["machine"][key] = "another"
    cache.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match=f"{key} another, now .*run python -m lmu.calibrate again"):
        assert rates.tables() == rates.packaged()


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "[]",
        "{}",
        '{"machine": {}, "tables": [3]}',
        '{"machine": 3, "tables": []}',
        '{"machine": {}, "tables": [{"device": "cpu"}]}',
        with_rate(-1.0),
        with_rate("1"),
    ],
)
def test_a_damaged_file_is_not_used_in_silence(cache, damage):
    cache.parent.mkdir()
    cache.write_text(damage)
    with pytest.raises(ValueError, match=r"rates.json is (damaged|no JSON)"):
        calibration.read()
    with pytest.warns(UserWarning, match=r"methods are chosen by the package's costs"):
        assert rates.tables() == rates.packaged()
    calibration.write(table())  # repairs it
    assert len(calibration.read()) == 1


def test_command_refuses_no_threads(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["calibrate", "--threads", "0"])
    with pytest.raises(SystemExit):
        calibrate.main()
    assert "--threads must be at least 1, got 0" in capsys.readouterr().err


def test_runs_as_a_module(tmp_path):
    command = [sys.executable, "-m", "lmu.calibrate", "--reset"]
    environment = {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.startswith("there is no ")
