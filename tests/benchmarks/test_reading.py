"""Counts of what a reader must load."""

import json
import sys

import pytest
import torch

from benchmarks import reading
from lmu import LMUFFT
from lmu.theory import legt


def test_calls_of_the_package_are_counted():
    counts = reading.passed(lambda: [legt(3, 10.0) for _ in range(2)])
    assert "theory/legt.py" in counts["names"]
    assert counts["files"] == len(counts["names"])
    assert counts["calls"] >= 2 * counts["files"]
    assert reading.passed(lambda: torch.zeros(2).sum()) == {
        "functions": 0, "calls": 0, "files": 0, "names": [],
    }  # fmt: skip


def test_the_second_call_is_counted():
    layer, x = LMUFFT(1, 4, 3, 5, 5), torch.zeros(2, 5, 1)
    assert reading.passed(lambda: layer(x)) == reading.passed(lambda: layer(x))


def test_blank_lines_do_not_count():
    assert reading.lines([b"a\n\n  \nb", b""]) == {"files": 2, "lines": 2}


@pytest.mark.slow  # trains through the command line
def test_a_batch_of_training_is_counted(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest"])
    counts = reading.batch_of_training()
    assert 0 < counts["files"] <= counts["functions"] <= counts["calls"]
    assert "layers/lmu_fft.py" in counts["names"]
    assert not any(name.startswith("cli/") for name in counts["names"])


def test_counts_are_kept_by_name(monkeypatch, tmp_path):
    monkeypatch.setattr(reading, "sizes", dict)
    monkeypatch.setattr(reading, "forwards", dict)
    monkeypatch.setattr(reading, "batch_of_training", lambda: reading.Profile().counts())
    path = tmp_path / "reading.json"
    for name in ("before", "after"):
        monkeypatch.setattr(sys, "argv", ["reading", "--output", str(path), "--name", name])
        reading.main()
    assert list(json.loads(path.read_text())) == ["before", "after"]
