"""The script for a card, tried on the CPU with tiny sizes; and the CUDA branches that can be."""

import json
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks import machine
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import correctness, layers, problems, psmnist, session
from benchmarks.gpu.session import OUT_OF_MEMORY, Session
from benchmarks.harness import Contender
from lmu.ops import LMU_METHODS, MEMORY_METHODS, READOUT_METHODS
from tests.limits import HANG

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh_compiler():
    yield
    torch.compiler.reset()


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch):
    """A busy machine leaves nothing out."""
    for name, section in command.SECTIONS.items():
        monkeypatch.setitem(command.SECTIONS, name, replace(section, budget=HANG))


@pytest.fixture
def few_steps(monkeypatch):
    """So that a compiler has few to unroll."""
    short = replace(correctness.SHORT, length=5)
    monkeypatch.setattr(correctness, "SHORT", short)
    monkeypatch.setattr(correctness, "TINY", (short,))
    monkeypatch.delitem(correctness.FAMILIES, "read-out from zero")


def run(monkeypatch, *arguments: object) -> int:
    """Exit status of the command."""
    line = ["gpu", "--device", "cpu", "--quick", "--rounds", "1", *map(str, arguments)]
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def read(folder, section: str) -> dict:
    return json.loads((folder / f"gpu-{section}.json").read_text())


def quiet(**kwargs) -> Session:
    return Session(CPU, quick=True, rounds=1, say=lambda line: None, **kwargs)


@pytest.mark.slow
def test_all_methods_are_right_at_all_tiny_sizes():
    s = quiet()
    correctness.measure(s)
    assert s.faults == []
    sizes = {row["size"] for row in s.rows}
    assert sizes == set(map(str, correctness.TINY))
    assert all(0 < off < 1e-4 for row in s.rows for off in row["errors"].values())


@pytest.mark.slow  # the other tests run its parts
def test_a_quick_run_leaves_all_results(few_steps, monkeypatch, tmp_path):
    assert run(monkeypatch, "--output", tmp_path) == 0
    summary = (tmp_path / "summary.md").read_text()
    for name in command.SECTIONS:
        result = read(tmp_path, name)
        assert result["rows"]
        assert result["faults"] == []
        assert result["settings"]["quick"]
        assert f"\n## {name}\n" in summary
    checked = read(tmp_path, "correctness")
    for family, names in (
        ("memory", MEMORY_METHODS),
        ("read-out", READOUT_METHODS),
        ("LMU", LMU_METHODS),
    ):
        rows = [row for row in checked["rows"] if row["family"] == family]
        assert {row["method"] for row in rows} == set(names) - {"triton"}
        modes = {mode for row in rows for mode in row["errors"]}
        assert modes == {"float32", "bfloat16 autocast", "compiled"}
        assert all(0 < off < 1e-4 for row in rows for off in row["errors"].values())
    assert checked["left_out"] == {
        "TF32": "only CUDA has it", "method triton": "its kernels run on CUDA only",
    }  # fmt: skip
    for job in read(tmp_path, "layers")["rows"]:
        for figures in job["contenders"].values():
            assert 0 < figures["fastest"] <= figures["seconds"] <= figures["slowest"]
    assert all(row["ratio"] >= 1 for row in read(tmp_path, "choice")["rows"])
    assert "CUDA graphs" in read(tmp_path, "compiled")["left_out"]
    assert [row["digits"] for row in read(tmp_path, "psmnist")["rows"]] == [40, 40]
    assert "Tiny sizes" in summary
    assert not list(tmp_path.glob("*.part"))

    # A second run adds to the first, and replaces what it measures again.
    kept = (tmp_path / "gpu-layers.json").read_text()
    first = (tmp_path / "gpu-ceilings.json").read_text()
    assert run(monkeypatch, "--output", tmp_path, "--sections", "ceilings") == 0
    assert (tmp_path / "gpu-layers.json").read_text() == kept
    assert (tmp_path / "gpu-ceilings.json").read_text() != first
    assert "\n## layers\n" in (tmp_path / "summary.md").read_text()


def test_a_wrong_method_is_named_not_timed_and_ends_in_an_error(
    few_steps, monkeypatch, tmp_path, capsys
):
    def wrong(*arguments):
        y, m = READOUT_METHODS["chunked"].run(*arguments)
        return y * 1.01, m

    monkeypatch.setattr(correctness, "FAMILIES", {"read-out": correctness.FAMILIES["read-out"]})
    jobs = layers.jobs
    monkeypatch.setattr(layers, "jobs", lambda s: jobs(s)[:1])
    monkeypatch.setitem(READOUT_METHODS, "fft", READOUT_METHODS["fft"]._replace(run=wrong))
    status = run(monkeypatch, "--output", tmp_path, "--sections", "correctness", "layers")
    assert status == 1
    faults = read(tmp_path, "correctness")["faults"]
    assert len(faults) == 3  # in all kinds of arithmetic
    assert all("hidden 16, fft" in fault and "wrong: off by 0.01" in fault for fault in faults)
    (job,) = read(tmp_path, "layers")["rows"]
    figures = job["contenders"]["LMUFFT fft"]
    assert figures["status"].startswith("wrong: off by 0.01")
    assert "seconds" not in figures
    assert "seconds" in job["contenders"]["LMUFFT chunked"]
    assert "FAULT LMUFFT" in capsys.readouterr().err


def test_wrong_gradients_are_seen(monkeypatch):
    def half(u, Ad, Bd, m_0, H):
        return MEMORY_METHODS["chunked"].run((u + u.detach()) / 2, Ad, Bd, m_0, H)

    monkeypatch.setitem(MEMORY_METHODS, "fft", MEMORY_METHODS["fft"]._replace(run=half))
    s = quiet()
    correctness.check(s, "memory", correctness.SHORT, problems.memory_problem, ["float32"])
    (fault,) = s.faults
    assert "fft, float32: wrong: off by 0.5" in fault


def test_lack_of_memory_is_no_fault_and_others_go_on():
    def none() -> Contender:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    calls = []

    def later() -> None:
        calls.append(None)
        if len(calls) > 3:  # when it is timed
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    def broken() -> None:
        raise RuntimeError("a kernel\nfailed")

    s = quiet()
    figures = s.compare(
        "toy",
        {
            "none": none,
            "later": lambda: Contender(later),
            "broken": lambda: Contender(broken),
            "fine": lambda: Contender(lambda: None),
        },
        others={"theirs": lambda: Contender(broken)},
    )
    assert figures["none"]["status"] == figures["later"]["status"] == OUT_OF_MEMORY
    assert figures["broken"]["status"] == "failed: RuntimeError: a kernel failed"
    assert figures["theirs"]["status"] == figures["broken"]["status"]
    assert figures["fine"]["status"] == "timed"
    assert "seconds" not in figures["later"]
    assert s.faults == ["toy: broken: failed: RuntimeError: a kernel failed"]


def test_what_is_found_before_a_section_breaks_is_kept(monkeypatch, tmp_path):
    def breaks(s: Session, rows: list) -> None:
        s.rows += rows
        raise RuntimeError("the card fell off")

    for rows in ([{"name": "GEMM", "value": 1.0, "unit": "FLOP/s"}], []):
        section = command.Section(partial(breaks, rows=rows), 1)
        monkeypatch.setitem(command.SECTIONS, "ceilings", section)
        assert run(monkeypatch, "--output", tmp_path, "--sections", "ceilings") == 1
        result = read(tmp_path, "ceilings")
        assert result["faults"] == ["ceilings: failed: RuntimeError: the card fell off"]
        assert result["rows"]


def test_what_does_not_fit_the_time_is_named():
    s = quiet(deadline=0.0)
    for section in command.SECTIONS.values():
        if section.measure is not command.others.measure:
            section.measure(s)
    assert s.rows == []
    assert {"GEMM float32", "lmufft"} <= s.left_out.keys()
    assert any(key.startswith("LMU, batch 2") for key in s.left_out)
    assert set(s.left_out.values()) <= {
        "out of time", "only CUDA has it", "only CUDA has them", "its kernels run on CUDA only",
    }  # fmt: skip


def test_figures_do_not_get_mixed_up(monkeypatch, tmp_path, capsys):
    (tmp_path / "gpu-layers.json").write_text('{"settings": {"device": "a card", "quick": false}}')
    monkeypatch.setattr(
        sys, "argv", ["gpu", "--device", "cpu", "--quick", "--output", str(tmp_path)]
    )
    with pytest.raises(SystemExit, match="choose another --output"):
        command.main()
    for line, message in (
        (["--device", "cpu"], "need --output"),
        (["--device", "cpu", "--output", "x", "--rounds", "0"], "must be at least 1"),
        (["--device", "tpu"], "must be cuda, cuda:N or cpu"),
        (["--sections", "nonsense"], "invalid choice"),
    ):
        monkeypatch.setattr(sys, "argv", ["gpu", *line])
        with pytest.raises(SystemExit):
            command.main()
        assert message in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(SystemExit):
        command.main()
    assert "finds no CUDA device" in capsys.readouterr().err


def test_precision_is_put_back():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with session.tf32(True):
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


def test_training_is_left_out_without_its_packages(monkeypatch):
    monkeypatch.setattr(psmnist, "find_spec", lambda name: None)
    s = quiet()
    psmnist.measure(s)
    assert "pip install '.[train]'" in s.left_out["psmnist"]
    assert s.rows == []


def test_a_card_names_the_folder_of_its_results(monkeypatch):
    card = {"name": "A Card (80GB)"}
    where = {"cpu": "a processor", "cores": 2, "card": card}
    assert machine.results_folder(where).name == "a-card-80gb"
    assert machine.results_folder({"cpu": "a processor", "cores": 2}).name == "a-processor-2-cores"
    monkeypatch.setenv("PATH", "")
    assert machine.nvidia_smi(None)["nvidia_smi"].startswith("left out: ")
