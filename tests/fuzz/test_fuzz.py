"""A slice of ``make fuzz``, and what holds of all of it."""

import importlib
import inspect
import math
import pkgutil
import re
from collections.abc import Iterator

import pytest
import torch

import lmu.models
import lmu.tasks
from lmu import LMU, LMUFFT, ops, theory
from tests.fuzz import __main__ as fuzz
from tests.fuzz import numbers
from tests.fuzz.calls import check_call, limit, outcome
from tests.fuzz.commands import check_command
from tests.fuzz.configurations import draw
from tests.fuzz.targets import NOT_CALLED, TARGETS

EXPERIMENTS = [f"experiments.{name}.data" for name in ("capacity", "mackey_glass", "series")]
EXPERIMENTS += ["experiments.capacity.models"]
# What lmu.training and the commands call.
FOR_TRAINING = {
    f"lmu.tasks.psmnist.{name}" for name in ("digits", "figures", "recipe", "room", "run")
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_layers_compute_their_equations():
    found = {i: numbers.run(7, i)[1] for i in range(30)}
    assert {i: o for i, o in found.items() if o.what == "WRONG"} == {}
    assert sum(o.what == "exact" for o in found.values()) > 20


@pytest.mark.filterwarnings("ignore")
def test_wrong_calls_are_refused_in_words():
    found = [check_call(7, i) for i in range(len(TARGETS))]
    assert [case for case in found if case[1] == "WRONG"] == []
    assert sum(what == "refused" for _, what, _ in found) > len(TARGETS) // 2


@pytest.mark.filterwarnings("ignore")
def test_wrong_commands_are_refused_in_words():
    pytest.importorskip("typer")
    found = [check_command(7, i) for i in range(10)]
    assert [case for case in found if case[1] == "WRONG"] == []


def public_names() -> set[str]:
    """All that is exported; of tasks and experiments, which export nothing, what modules define."""
    names = {
        f"{module.__name__}.{name}"
        for module in (lmu, ops, theory, lmu.models)
        for name in module.__all__
    }
    tasks = {found.name for found in pkgutil.walk_packages(lmu.tasks.__path__, "lmu.tasks.")}
    for name in (*tasks - FOR_TRAINING, *EXPERIMENTS):
        module = importlib.import_module(name)
        for name, value in vars(module).items():
            ours = inspect.isroutine(value) or inspect.isclass(value)
            if ours and not name.startswith("_") and value.__module__ == module.__name__:
                names.add(f"{module.__name__}.{name}")
    return names


def test_every_public_name_is_visited():
    assert {name for name in public_names() if name not in TARGETS} == NOT_CALLED


def test_right_calls_are_accepted():
    """Else a target might refuse everything, and so hide what it does with what is wrong."""
    refused = set()
    for name, target in TARGETS.items():
        function, given = target()
        try:
            function(**given)
        except (ValueError, TypeError, OSError):
            refused.add(name)
    absent = r"mnist\.|\.(saved|digits|run)\.|from_pre|load_"
    files = {name for name in refused if re.search(absent, name)}
    assert refused == files  # which name files that are not there


def test_a_case_is_drawn_again_by_its_seed():
    assert draw(3, 17) == draw(3, 17) != draw(3, 18)


@pytest.mark.parametrize("part", ["numbers", "calls"])
def test_a_finding_is_written_and_ends_in_status_1(part, monkeypatch, tmp_path, capsys):
    wrong = numbers.Outcome("WRONG", math.inf, detail="off")
    monkeypatch.setattr(fuzz, "check_numbers", lambda seed, i: (draw(seed, i), wrong))
    monkeypatch.setattr(fuzz, "check_call", lambda seed, i: ("f(x)", "WRONG", "off"))
    monkeypatch.setattr(fuzz, "FINDINGS", tmp_path)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)  # other tests want theirs
    monkeypatch.setattr("sys.argv", ["fuzz", "--only", part, "--first", "5", "--number", "1"])
    assert fuzz.main() == 1
    assert [path.name for path in tmp_path.iterdir()] == [f"{part}-0-5.json"]
    assert f"--only {part} --first 5 --number 1" in capsys.readouterr().out


def test_a_wrong_layer_is_found(monkeypatch):
    """The equations are no copy of the layer: what it gets wrong shows."""
    right = LMU._run_whole

    def wrong(self, *args):
        y, after = right(self, *args)
        return y * 1.001, after

    monkeypatch.setattr(LMU, "_run_whole", wrong)
    found = [numbers.run(7, i) for i in range(12)]
    assert any(o.what == "WRONG" for case, o in found if case["layer"]["kind"] == "LMU")


def test_a_bare_error_and_a_hang_are_findings():
    def bare() -> torch.Tensor:
        return torch.ones(2) @ torch.ones(3)

    assert outcome(bare)[0] == "WRONG"
    assert outcome(lambda: sorted([1, "a"]))[0] == "WRONG"  # pyright: ignore
    assert outcome(lambda: LMUFFT(0, 1, 1, 1, 1.0))[0] == "refused"
    with limit(600):
        pass
