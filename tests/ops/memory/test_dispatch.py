from typing import Any

import pytest
import torch

from lmu.ops import (
    MEMORY_METHODS,
    Problem,
    choose_memory,
    explain_memory,
    final_memory,
    memory,
    native,
)
from lmu.ops.cost import Cost
from lmu.ops.memory.fft import fast_length
from lmu.theory import discretize, impulse_response, legt


def arguments(**changed: Any) -> dict[str, Any]:
    Ad, Bd = discretize(*legt(4, 10.0))
    return {"u": torch.zeros(2, 5, 3), "Ad": Ad, "Bd": Bd} | changed


def test_choice_names_a_method_and_a_reason():
    last = explain_memory(Problem(100, 64), all_states=False)
    assert last.method == "final"
    assert last.reason == "only the last state is needed: one matrix product gives it"
    assert last.cost == Cost(flops=2 * 100 * 64, bytes=4 * (100 + 64))
    assert explain_memory(Problem(1, 64), all_states=True).method == "recurrent"
    short, long = Problem(100, 64, batch=9), Problem(10**6, 64)
    with native.use(None):
        assert explain_memory(short, all_states=True, initial_state=True).method == "chunked"
        assert explain_memory(long, all_states=True).method == "chunked"
        assert explain_memory(short, all_states=True).method == "fft"
    traced = explain_memory(Problem(100, 64, batch=9), all_states=True, transformed=True)
    assert traced.method == "chunked"
    for length in (1, 2, 500, 10**6):
        for order in (1, 64, 1024):
            for all_states in (False, True):
                problem = Problem(length, order, batch=3)
                choice = explain_memory(problem, all_states=all_states)
                assert choice.method == choose_memory(problem, all_states=all_states)
                assert MEMORY_METHODS[choice.method].all_states or not all_states
                assert choice.reason
                assert choice.cost is not None
                assert min(choice.cost.flops, choice.cost.bytes) > 0


def test_forced_method_that_cannot_run_says_why():
    with pytest.raises(ValueError, match="'final' gives the last state only; call final_memory"):
        memory(**arguments(), method="final")
    for function in (memory, final_memory):
        with pytest.raises(ValueError, match=r"'auto' or one of .*'fft'.*, got 'magic'"):
            function(**arguments(), method="magic")


@pytest.mark.parametrize("function", [memory, final_memory])
@pytest.mark.parametrize(
    ("changed", "error", "says"),
    [
        ({"u": [1.0]}, TypeError, "u must be a torch.Tensor, got list"),
        ({"u": torch.zeros(5)}, ValueError, r"u must have the shape .* got \(5,\)"),
        ({"u": torch.zeros(2, 5)}, ValueError, r"u must have the shape \(batch, time >= 1, chan"),
        ({"u": torch.zeros(2, 0, 3)}, ValueError, r"time >= 1, channels\), got \(2, 0, 3\)"),
        ({"u": torch.zeros(2, 5, 3).int()}, TypeError, "u must be floating"),
        ({"Bd": torch.zeros(5).double()}, ValueError, r"got \(4, 4\) and \(5,\)"),
        ({"Bd": torch.zeros(4, 1).double()}, ValueError, r"got \(4, 4\) and \(4, 1\)"),
        ({"Bd": torch.zeros(4)}, TypeError, "Ad and Bd of one dtype"),
        ({"u": torch.zeros(2, 5, 3).double(), "Ad": torch.zeros(4, 4), "Bd": torch.zeros(4)},
         TypeError, "Ad and Bd must be at least torch.float64 for u of torch.float64"),
        ({"m_0": torch.zeros(2, 4)}, ValueError, r"m_0 .*= \(2, 3, 4\), got \(2, 4\)"),
        ({"m_0": torch.zeros(2, 3, 4).half()}, TypeError, "m_0 must be torch.float32 or"),
        ({"H": torch.zeros(4, 4)}, ValueError, r"H must have the shape \(4, at least 5\)"),
        ({"H": torch.zeros(4, 5).double()}, TypeError, "H must be torch.float32"),
        ({"m_0": torch.zeros(2, 3, 4, device="meta")}, ValueError, "u is on cpu but m_0 on meta"),
    ],
)  # fmt: skip
def test_wrong_arguments(function, changed, error, says):
    with pytest.raises(error, match=says):
        function(**arguments(**changed))


def test_kept_impulse_response_is_refused_where_dynamics_are_trained():
    changed = arguments()
    H = impulse_response(changed["Ad"], changed["Bd"], 5).float()
    changed["Ad"].requires_grad_()
    with pytest.raises(ValueError, match="H is a constant"):
        memory(**changed, H=H)


def test_fast_lengths_are_even_and_smooth():
    smooth = {2**a * 3**b * 5**c for a in range(1, 13) for b in range(7) for c in range(5)}
    for n in range(1, 2000):
        assert fast_length(n) == min(s for s in smooth if s >= n and (n < 256 or s % 32 == 0))


def test_choices_refuse_what_is_no_problem_and_no_flag():
    wrong: Any
    for choose in (choose_memory, explain_memory):
        for wrong in ([], "long", None):
            with pytest.raises(TypeError, match="problem must be of Problem, got"):
                choose(wrong, all_states=True)
            with pytest.raises(TypeError, match="all_states must be True or False, got"):
                choose(Problem(5, 4), all_states=wrong)
        wrong = 1
        with pytest.raises(TypeError, match="initial_state must be True or False, got 1"):
            choose(Problem(5, 4), all_states=True, initial_state=wrong)
