"""What the sections share: where they run, what they find, and how contenders are compared."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Contender, card_peak, error, peak_of, spread, take_turns

Builds = Mapping[str, Callable[[], Contender]]


@dataclass
class Session:
    """A section's run: its settings, and the figures, omissions and faults that it gathers.

    Attributes:
        device: What is measured.
        quick: Tiny sizes, to see that everything runs.
        rounds: Interleaved measurements of each contender.
        deadline: When the section's time is over, by ``time.monotonic``.
        say: Shows a line of progress.
        rows: What was found.
        left_out: Why something is not among it.
        faults: What is wrong: they make the exit status non-zero.
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
        """Whether a card is measured."""
        return self.device.type == "cuda"

    @property
    def gemm_size(self) -> int:
        """Rows of matrices whose product tells the card's rate."""
        return 256 if self.quick else 8192 if self.cuda else 2000

    @property
    def precisions(self) -> dict[str, bool]:
        """Arithmetic of float32 products, and whether TensorFloat-32 is allowed in it."""
        if not self.cuda:
            self.left_out["TF32"] = "only CUDA has it"
        elif torch.cuda.get_device_capability(self.device)[0] < 8:
            self.left_out["TF32"] = "needs a card of compute capability 8.0 or later"
        else:
            return {"float32": False, "TF32": True}
        return {"float32": False}

    def late(self, what: str) -> bool:
        """Whether the section's time is over; what is left is then noted as left out."""
        if time.monotonic() < self.deadline:
            return False
        self.left_out[what] = "out of time"
        return True

    def can_run(self, method: str) -> bool:
        """Whether a method runs here; the reason is noted if not."""
        if method != "triton":
            return True
        if not self.cuda:
            self.left_out["method triton"] = "its kernels run on CUDA only"
        elif find_spec("triton") is None:
            self.left_out["method triton"] = "triton is not installed"
        else:
            return True
        return False

    def attempt(self, what: str, work: Callable[[], Any], ours: bool = True) -> tuple[Any, str]:
        """A result and ``""``, or None and why there is none.

        A lack of memory is no fault, nor is it ours where others fail.
        """
        result, why = None, ""
        try:
            result = work()
            if self.cuda:
                torch.cuda.synchronize()
        except Exception as caught:
            why = describe(caught)
        if why:  # not before: the exception holds on to what was allocated
            self.free()
            self.blame(what, why, ours)
        return result, why

    def blame(self, what: str, why: str, ours: bool = True) -> None:
        """Note a fault, if it is one."""
        if ours and why != OUT_OF_MEMORY:
            self.faults.append(f"{what}: {why}")

    def free(self) -> None:
        """Give back what nobody holds."""
        gc.collect()
        if self.cuda:
            with suppress(RuntimeError):  # of an earlier error of the card, which comes back here
                torch.cuda.empty_cache()

    def peak(self, work: Callable[[], object]) -> float:
        """Memory in MiB that a call needs at the most: of the card, or else of the process."""
        if not self.cuda:
            return peak_of(work)
        work()
        gc.collect()
        return card_peak(work)

    def compare(
        self,
        title: str,
        builds: Builds,
        exact: list[Tensor] | None = None,
        tolerance: float = 1e-4,
        others: Builds | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Figures of all contenders: time, spread, peak memory, error, or why there is no time.

        Whoever is off by more than ``tolerance`` is a fault and is not timed.

        Args:
            title: Of the comparison.
            builds: Contenders by name.
            exact: What those with a result should get, in float64 on the CPU; None: no check.
            tolerance: Of the relative error.
            others: Contenders whose failure is no fault of ours; to be wrong still is one.
        """
        figures: dict[str, dict[str, Any]] = {}
        works: dict[str, Callable[[], object]] = {}
        failed: dict[str, str] = {}
        for key, build in {**builds, **(others or {})}.items():
            what, ours = f"{title}: {key}", key in builds
            row = figures[key] = {}
            ready, why = self.attempt(what, lambda b=build: _ready(b, exact), ours)
            if ready is not None:
                contender, row["error"] = ready
                if row["error"] is not None and not row["error"] < tolerance:
                    why = f"wrong: off by {row['error']:.2g}, more than {tolerance:.2g}"
                    self.blame(what, why)
                else:
                    row["peak_mib"], why = self.attempt(
                        what, lambda work=contender.work: self.peak(work), ours
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
    return contender, error(contender.result(), exact)


def _guarded(key: str, work: Callable[[], object], failed: dict[str, str]) -> Callable[[], object]:
    """The work, of which an error ends that contender's turns and no other's."""

    def call() -> None:
        if key not in failed:
            try:
                work()
            except Exception as caught:
                failed[key] = describe(caught)

    return call


OUT_OF_MEMORY = "out of memory"


def describe(caught: Exception) -> str:
    """An error in one line."""
    text = " ".join(str(caught).split())
    words = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    if isinstance(caught, torch.cuda.OutOfMemoryError) or any(word in text for word in words):
        return OUT_OF_MEMORY
    return f"failed: {type(caught).__name__}: {text[:300]}"


def in_words(row: Mapping[str, Any]) -> str:
    """A contender's figures in one line."""
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
