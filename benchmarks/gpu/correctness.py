"""Every method against float64 steps on the CPU: outputs, last states and gradients."""

from collections.abc import Callable, Set
from functools import partial

import torch

from benchmarks.gpu.problems import (
    Answer,
    Problem,
    Size,
    lmu_problem,
    memory_problem,
    readout_problem,
)
from benchmarks.gpu.session import Session, tf32
from benchmarks.harness import error
from lmu.ops import LMU_METHODS, MEMORY_METHODS, READOUT_METHODS

PSMNIST_FFT = Size(8, 784, 1, 468, 784.0, hidden=346)
PSMNIST_LMU = Size(16, 784, 1, 256, 784.0, hidden=212)
SHORT = Size(2, 20, 1, 8, 30.0, hidden=16, features=3)  # for a compiler that unrolls loops
TINY = (SHORT, Size(3, 1, 1, 5, 7.0), Size(2, 61, 2, 16, 50.0))
LONG = Size(1, 1000, 1, 33, 300.0)
FAMILIES: dict[str, tuple[Callable[[Size], Problem], Size]] = {
    "memory": (memory_problem, PSMNIST_FFT),
    "read-out": (readout_problem, PSMNIST_FFT),
    "read-out from zero": (partial(readout_problem, initial=False), PSMNIST_FFT),
    "LMU": (lmu_problem, PSMNIST_LMU),
}
UNROLLED = {"naive", "recurrent", "loop"}
# Relative, in the Euclidean norm; memories are computed in float32 also under autocast.
TOLERANCE = {"float32": 1e-4, "TF32": 0.1, "bfloat16 autocast": 1e-4, "compiled": 1e-4}


def measure(s: Session) -> None:
    """Check every method of every family at all sizes, in all arithmetic, and compiled."""
    for family, (build, psmnist) in FAMILIES.items():
        for size in TINY if s.quick else (*TINY, LONG, psmnist):
            check(s, family, size, build, [*s.precisions, "bfloat16 autocast"])
    # Last, as a compiler takes its time, most of it over steps that it unrolls.
    for skipped in (UNROLLED, {*MEMORY_METHODS, *READOUT_METHODS, *LMU_METHODS} - UNROLLED):
        for family, (build, _) in FAMILIES.items():
            check(s, family, SHORT, build, ["compiled"], skipped)


def check(
    s: Session,
    family: str,
    size: Size,
    build: Callable[[Size], Problem],
    modes: list[str],
    skipped: Set[str] = frozenset(),
) -> None:
    """Check all methods of a problem but those that are skipped."""
    if s.late(f"{family}, {size}, {', '.join(modes)}"):
        return
    problem, answers = build(size), {}
    for method in problem.methods:
        if method in skipped:
            continue
        what = f"{family}, {size}, {method}"
        if not s.can_run(method) or s.late(f"{what}, {', '.join(modes)}"):
            continue
        key = problem.variant(method)
        if key not in answers:
            answers[key] = problem.answer(method)
        errors = {}
        for mode in modes:
            off, why = s.attempt(
                f"{what}, {mode}", partial(attempt, s, problem, method, answers[key], mode)
            )
            errors[mode] = why or off
            if not why and not off < TOLERANCE[mode]:
                s.blame(
                    f"{what}, {mode}", f"wrong: off by {off:.2g}, more than {TOLERANCE[mode]:.2g}"
                )
        s.rows.append({"family": family, "size": str(size), "method": method, "errors": errors})
        s.say(f"  {what}: {in_words(errors)}")
    s.free()


def attempt(s: Session, problem: Problem, method: str, answer: Answer, mode: str) -> float:
    """The error of a method in some arithmetic."""
    run = problem.prepare(method, s.device)
    run = compiler(s)(run) if mode == "compiled" else run
    forward = torch.autocast(s.device.type, torch.bfloat16, enabled="autocast" in mode)
    with tf32(mode == "TF32"):
        return error(problem.attempt(run, answer, s.device, forward), answer.all)


def compiler(s: Session) -> Callable:
    """The compiler; a quick run only traces, and generates no code."""
    torch.compiler.reset()
    return partial(torch.compile, backend="eager" if s.quick else "inductor")


def in_words(errors: dict[str, float | str]) -> str:
    """Errors in one line."""
    return ", ".join(
        f"{mode} {off if isinstance(off, str) else format(off, '.1e')}"
        for mode, off in errors.items()
    )
