"""The script for a GPU, on the CPU with tiny sizes; and those CUDA branches that can be tried."""

import json
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks import machine
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import correctness, layers, psmnist, session
from benchmarks.gpu.session import OUT_OF_MEMORY, Session
from benchmarks.work import Contender
from lmu.ops import READOUT_METHODS
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


OPTION = """
def pytest_addoption(parser):
    parser.addoption("--device")
"""
TESTS = """
import pytest

def test_device(request):
    assert request.config.getoption("--device") == "cpu"

@pytest.mark.parametrize("method", ["fft", "chunked"])
def test_method(method):
    assert method != {wrong!r}

@pytest.mark.skip
def test_of_another_device():
    pass
"""


@pytest.fixture
def toy_tests(monkeypatch, tmp_path):
    """A folder of tests in place of the conformance tests; the argument is a method that fails."""
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    (folder / "conftest.py").write_text(OPTION)

    def write(wrong: str = "") -> str:
        (folder / "test_toy.py").write_text(TESTS.format(wrong=wrong))
        return str(folder)

    monkeypatch.setattr(correctness, "TESTS", (write(),))
    return write


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


def test_conformance_tests_are_counted_and_failures_are_faults(toy_tests):
    s = quiet()
    correctness.measure(s)
    (row,) = s.rows
    assert s.faults == []
    assert [row[key] for key in correctness.OUTCOMES] == [3, 0, 0, 1]
    toy_tests("fft")
    correctness.measure(s)
    assert [s.rows[1][key] for key in correctness.OUTCOMES] == [2, 1, 0, 1]
    (fault,) = s.faults
    assert "test_method[fft]" in fault


def test_conformance_tests_that_do_not_run_are_a_fault(monkeypatch):
    monkeypatch.setattr(correctness, "TESTS", ("tests/nowhere",))
    s = quiet()
    correctness.measure(s)
    (fault,) = s.faults
    assert fault.startswith("tests/nowhere: pytest ended with 4: ")


def test_conformance_tests_that_take_too_long_are_left_out(toy_tests, monkeypatch):
    monkeypatch.setattr(correctness, "LONGEST", 0.01)
    s = quiet()
    correctness.measure(s)
    assert s.rows == s.faults == []
    assert list(s.left_out.values()) == ["took more than 0.01 s"]


def test_the_conformance_tests_are_there():
    assert all((correctness.ROOT / folder).is_dir() for folder in correctness.TESTS)


@pytest.mark.slow  # the other tests run its parts
def test_a_quick_run_leaves_all_results(toy_tests, monkeypatch, tmp_path):
    assert run(monkeypatch, "--output", tmp_path) == 0
    summary = (tmp_path / "summary.md").read_text()
    for name in command.SECTIONS:
        result = read(tmp_path, name)
        assert result["rows"]
        assert result["faults"] == []
        assert result["settings"]["quick"]
        assert f"\n## {name}\n" in summary
    assert [row["passed"] for row in read(tmp_path, "correctness")["rows"]] == [3]
    assert read(tmp_path, "layers")["left_out"] == {
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


def test_a_wrong_method_is_named_not_timed_and_ends_in_an_error(monkeypatch, tmp_path, capsys):
    def wrong(*arguments):
        y, m = READOUT_METHODS["chunked"].run(*arguments)
        return y * 1.01, m

    jobs = layers.jobs
    monkeypatch.setattr(layers, "jobs", lambda s: jobs(s)[:1])
    row = READOUT_METHODS["fft"]._replace(run=wrong)
    monkeypatch.setitem(READOUT_METHODS, "fft", row)
    assert run(monkeypatch, "--output", tmp_path, "--sections", "layers") == 1
    (job,) = read(tmp_path, "layers")["rows"]
    figures = job["contenders"]["LMUFFT fft"]
    assert figures["status"].startswith("wrong: off by 0.01")
    assert "seconds" not in figures
    assert "seconds" in job["contenders"]["LMUFFT chunked"]
    assert "FAULT LMUFFT" in capsys.readouterr().err


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
        raise RuntimeError("the GPU fell off")

    for rows in ([{"name": "GEMM", "value": 1.0, "unit": "FLOP/s"}], []):
        section = command.Section(partial(breaks, rows=rows), 1)
        monkeypatch.setitem(command.SECTIONS, "ceilings", section)
        assert run(monkeypatch, "--output", tmp_path, "--sections", "ceilings") == 1
        result = read(tmp_path, "ceilings")
        assert result["faults"] == ["ceilings: failed: RuntimeError: the GPU fell off"]
        assert result["rows"]


def test_what_does_not_fit_the_time_is_named():
    s = quiet(deadline=0.0)
    for section in command.SECTIONS.values():
        if section.measure is not command.others.measure:
            section.measure(s)
    assert s.rows == []
    assert {"GEMM float32", "lmufft", "tests/ops"} <= s.left_out.keys()
    assert any(key.startswith("LMU 12/16, T 30, batch 2") for key in s.left_out)
    assert set(s.left_out.values()) <= {
        "out of time", "only CUDA has it", "only CUDA has them", "its kernels run on CUDA only",
    }  # fmt: skip


def test_figures_do_not_get_mixed_up(monkeypatch, tmp_path, capsys):
    (tmp_path / "gpu-layers.json").write_text('{"settings": {"device": "a GPU", "quick": false}}')
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


def test_a_gpu_names_the_folder_of_its_results(monkeypatch):
    gpu = {"name": "A GPU (80GB)"}
    where = {"cpu": "a processor", "cores": 2, "gpu": gpu}
    assert machine.results_folder(where).name == "a-gpu-80gb"
    assert machine.results_folder({"cpu": "a processor", "cores": 2}).name == "a-processor-2-cores"
    monkeypatch.setenv("PATH", "")
    assert machine.nvidia_smi(None)["nvidia_smi"].startswith("left out: ")
