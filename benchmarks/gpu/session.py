"""Session of a section: its settings and results, and the comparison of contenders."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import largest_error
from benchmarks.measure import gpu_peak, peak_of, spread, take_turns
from benchmarks.work import Contender

Builds = Mapping[str, Callable[[], Contender]]


@dataclass
class Session:
    """A run of a section: its settings, results, omissions and faults.

    Attributes:
        device: The device that is measured.
        quick: Tiny sizes, to check that everything runs.
        rounds: Interleaved measurements of each contender.
        deadline: End of the section's time, by ``time.monotonic``.
        say: Shows a line of progress.
        rows: Results.
        left_out: Reasons for missing results, by name.
        faults: Errors; they make the exit status non-zero.
    """

    device: torch.device
    quick: bool = False
    rounds: int = 5
    deadline: float = float("inf")
    say: Callable[[str], object] = print
    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def cuda(self) -> bool:
        """True if a GPU is measured."""
        return self.device.type == "cuda"

    @property
    def gemm_size(self) -> int:
        """Rows of the matrices whose product measures the GPU's rate."""
        return 256 if self.quick else 8192 if self.cuda else 2000

    @property
    def precisions(self) -> dict[str, bool]:
        """Arithmetics of float32 products; True where TensorFloat-32 is allowed."""
        if not self.cuda:
            self.left_out["TF32"] = "only CUDA has it"
        elif torch.cuda.get_device_capability(self.device)[0] < 8:
            self.left_out["TF32"] = "needs a GPU of compute capability 8.0 or later"
        else:
            return {"float32": False, "TF32": True}
        return {"float32": False}

    def late(self, what: str) -> bool:
        """True if the section's time is over; the measurement is then noted as left out."""
        if time.monotonic() < self.deadline:
            return False
        self.left_out[what] = "out of time"
        return True

    def can_run(self, method: str) -> bool:
        """True if a method runs here; the reason is noted if not."""
        if method != "triton":
            return True
        if not self.cuda:
            self.left_out["method triton"] = "its kernels run on CUDA only"
        elif find_spec("triton") is None:
            self.left_out["method triton"] = "triton is not installed"
        else:
            return True
        return False

    def attempt(self, what: str, work: Callable[[], Any], is_own: bool = True) -> tuple[Any, str]:
        """Return a result and ``""``, or None and the reason why there is none.

        A lack of memory is not a fault, nor is a failure of other packages.
        """
        result, why = None, ""
        try:
            result = work()
            if self.cuda:
                torch.cuda.synchronize()
        except Exception as caught:
            why = describe(caught)
        if why:  # not in the handler: the exception holds the allocated memory
            self.free()
            self.blame(what, why, is_own)
        return result, why

    def blame(self, what: str, why: str, is_own: bool = True) -> None:
        """Note a failure if it is a fault."""
        if is_own and why != OUT_OF_MEMORY:
            self.faults.append(f"{what}: {why}")

    def free(self) -> None:
        """Return unused memory."""
        gc.collect()
        if self.cuda:
            with suppress(RuntimeError):  # an earlier error on the GPU may be raised here
                torch.cuda.empty_cache()

    def peak(self, work: Callable[[], object]) -> float:
        """Measure peak memory of a call in MiB, of the GPU or else of the process."""
        if not self.cuda:
            return peak_of(work)
        work()
        gc.collect()
        return gpu_peak(work)

    def compare(
        self,
        title: str,
        builds: Builds,
        exact: list[Tensor] | None = None,
        tolerance: float = 1e-4,
        others: Builds | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Measure time, spread, peak memory and error of all contenders, or why there is no time.

        A contender whose error exceeds ``tolerance`` is a fault and is not timed.

        Args:
            title: Title of the comparison.
            builds: Contenders by name.
            exact: The exact result, in float64 on the CPU; None: no check.
            tolerance: Largest relative error.
            others: Contenders whose failure is not a fault; a wrong result still is.
        """
        figures: dict[str, dict[str, Any]] = {}
        works: dict[str, Callable[[], object]] = {}
        failed: dict[str, str] = {}
        for key, build in {**builds, **(others or {})}.items():
            what, is_own = f"{title}: {key}", key in builds
            row = figures[key] = {}
            ready, why = self.attempt(what, lambda b=build: _ready(b, exact), is_own)
            if ready is not None:
                contender, row["error"] = ready
                if row["error"] is not None and not row["error"] < tolerance:
                    why = f"wrong: off by {row['error']:.2g}, more than {tolerance:.2g}"
                    self.blame(what, why)
                else:
                    row["peak_mib"], why = self.attempt(
                        what, lambda work=contender.work: self.peak(work), is_own
                    )
                    if not why:
                        works[key] = _guarded(key, contender.work, failed)
                del contender, ready
            row["status"] = why or "timed"
        shortest = 1e-4 if self.quick else 0.05
        for key, times in take_turns(works, self.rounds, shortest=shortest).items():
            if key in failed:
                figures[key]["status"] = failed[key]
                self.blame(f"{title}: {key}", failed[key], key in builds)
            else:
                figures[key] |= spread(times)
        works.clear()
        self.free()
        for key, row in figures.items():
            self.say(f"  {title}: {key}: {in_words(row)}")
        return figures


def _ready(
    build: Callable[[], Contender], exact: list[Tensor] | None
) -> tuple[Contender, float | None]:
    contender = build()
    if exact is None or contender.result is None:
        return contender, None
    return contender, largest_error(contender.result(), exact)


def _guarded(key: str, work: Callable[[], object], failed: dict[str, str]) -> Callable[[], object]:
    """Wrap the work so that an error ends the turns of its contender alone."""

    def call() -> None:
        if key not in failed:
            try:
                work()
            except Exception as caught:
                failed[key] = describe(caught)

    return call


OUT_OF_MEMORY = "out of memory"


def describe(caught: Exception) -> str:
    """Describe an error in one line."""
    text = " ".join(str(caught).split())
    words = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    if isinstance(caught, torch.cuda.OutOfMemoryError) or any(word in text for word in words):
        return OUT_OF_MEMORY
    return f"failed: {type(caught).__name__}: {text[:300]}"


def in_words(row: Mapping[str, Any]) -> str:
    """Format a contender's figures in one line."""
    if "seconds" not in row:
        return row["status"]
    spread = f"({row['fastest'] * 1e3:.3g} to {row['slowest'] * 1e3:.3g})"
    off = "" if row.get("error") is None else f", error {row['error']:.1e}"
    return f"{row['seconds'] * 1e3:.3g} ms {spread}, {row['peak_mib']:.0f} MiB{off}"


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TensorFloat-32 in products of float32 and in cuDNN's layers."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
