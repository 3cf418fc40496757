"""Times of layers of the papers' sizes: every method, the textbook, cuDNN's layers and peers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from benchmarks import peers
from benchmarks.baselines import NaiveLMUFFT, StepwiseLMU, TextbookLMUFFT
from benchmarks.cases import FFT_SIZES, LMU_SIZES
from benchmarks.gpu.session import Builds, Session, tf32
from benchmarks.measure import gemm_rate
from benchmarks.work import (
    Contender,
    Pick,
    every,
    in_double,
    incomparable,
    last,
    training_step,
    with_weights_of,
)
from lmu import LMU, LMUFFT
from lmu.ops import LMU_METHODS, READOUT_METHODS

Sizes = tuple[int, ...]
# Largest relative error. At the kink of the relu the gradients of a few of millions of hidden units
# differ completely, whatever the algorithm; TensorFloat-32 has ten bits.
TOLERANCE = {"float32": 5e-3, "TF32": 0.3}
LSTM = {"nn.LSTM": nn.LSTM, "nn.GRU": nn.GRU}


@dataclass(frozen=True)
class Job:
    """A layer at one size: contenders, their exact result, and its arithmetic."""

    title: str
    builds: Builds
    exact: Callable[[], list[Tensor]]
    others: Builds
    flops: float  # forward and backward
    flops_of: str


def measure(s: Session) -> None:
    """Compare the contenders of each job in each precision."""
    for job in jobs(s):
        if s.late(job.title):
            continue
        s.say(f"  {job.title}: computing the right result")
        exact = job.exact()
        for precision, allowed in s.precisions.items():
            title = f"{job.title}, {precision}"
            if s.late(title):
                continue
            with tf32(allowed):
                figures = s.compare(title, job.builds, exact, TOLERANCE[precision], job.others)
                ceiling = max(gemm_rate(s.gemm_size, device=s.device) for _ in range(3))
            for key in job.builds.keys() & figures.keys():
                if "seconds" in figures[key]:
                    rate = job.flops / figures[key]["seconds"]
                    figures[key] |= {"flops_per_second": rate, "share": rate / ceiling}
            s.rows.append(
                {
                    "title": job.title,
                    "precision": precision,
                    "flops": job.flops,
                    "flops_of": job.flops_of,
                    "gemm_rate": ceiling,
                    "contenders": figures,
                }
            )


def jobs(s: Session) -> list[Job]:
    """Return the jobs of all layers and sizes."""
    fft, lmu = (FFT_SIZES, LMU_SIZES) if not s.quick else ((1, 12, 16, 30, 30), (1, 12, 16, 30))
    batch = 3 if s.quick else 100
    batches = ((1, 1), (2, 3)) if s.quick else ((1, 1), (16, 1), (100, 1), (100, 10))
    return [
        fft_job(s, fft, batch, every, "all outputs"),
        fft_job(s, fft, batch, last, "last output"),
        *(lmu_job(s, lmu, distinct, copies) for distinct, copies in batches),
    ]


def layer(
    kind: Callable[..., nn.Module], like: type[nn.Module], sizes: tuple, device: Any, **kwargs: Any
) -> nn.Module:
    """Build a layer on the device, with the initial weights of ``like``."""
    return with_weights_of(like, kind, sizes, **kwargs).to(device)


def fft_job(s: Session, sizes: Sizes, batch: int, pick: Pick, outputs: str) -> Job:
    """Make a job of the parallel layer."""
    k, n, d, length, _ = sizes
    build = partial(layer, LMUFFT, LMUFFT, sizes, s.device)
    step = partial(training_step, pick=pick, batch=batch, length=length)
    if pick is every:
        names = [name for name in ("auto", *READOUT_METHODS) if s.can_run(name)]
        builds = {f"LMUFFT {name}": partial(step, partial(build, method=name)) for name in names}
        flops = 6.0 * batch * length * ((d + k) * n + d)
        flops_of = "the read-out of the states of all steps, and adding the input to them"
    else:
        builds = {"LMUFFT": partial(step, partial(build, return_sequences=False))}
        flops = 6.0 * batch * (length * d + (d + k) * n)
        flops_of = "the last state from all inputs, and its read-out"
    textbook = partial(layer, TextbookLMUFFT, LMUFFT, sizes, s.device)
    builds["textbook: FFT of all states, read-out at all steps"] = partial(step, textbook)
    exact = partial(layer, NaiveLMUFFT, LMUFFT, sizes, "cpu")
    rivals = {}
    if pick is every:
        rivals = others(s, n, batch, length)
        rivals |= peers.parallel(n, d, batch, s.device.type, length)
    title = f"LMUFFT {n}/{d}, T {length}, batch {batch}, {outputs}, forward + backward"
    return Job(title, builds, partial(in_double, exact, step), rivals, flops, flops_of)


def lmu_job(s: Session, sizes: Sizes, distinct: int, copies: int) -> Job:
    """Make a job of the nonlinear layer; a large batch repeats a smaller one."""
    k, n, d, length = sizes
    batch = distinct * copies
    step = partial(training_step, pick=every, batch=distinct, length=length, copies=copies)
    # "parallel" cannot run: the hidden state is fed back.
    names = [name for name in ("auto", *LMU_METHODS) if name != "parallel" and s.can_run(name)]
    build = partial(layer, LMU, LMU, sizes, s.device)
    builds = {f"LMU {name}": partial(step, partial(build, method=name)) for name in names}
    textbook = partial(layer, StepwiseLMU, LMU, sizes, s.device)
    builds["textbook: the equations in a loop"] = partial(step, textbook)
    exact = partial(layer, StepwiseLMU, LMU, sizes, "cpu")
    rivals = others(s, n, batch, length)
    rivals |= peers.recurrent(n, d, batch, s.device.type)

    def repeated() -> list[Tensor]:
        once = partial(training_step, pick=every, batch=distinct, length=length)
        output, *grads = in_double(exact, once)
        return [output.repeat(copies, 1, 1), *(copies * grad for grad in grads)]

    flops = 6.0 * batch * length * (n * n + n * d + d * d + (k + 1) * (n + d))
    title = f"LMU {n}/{d}, T {length}, batch {batch}, all outputs, forward + backward"
    return Job(title, builds, repeated, rivals, flops, "the equations, step by step")


def others(s: Session, n: int, batch: int, length: int) -> dict[str, Callable[[], Contender]]:
    """Return PyTorch's layers, which users would take instead: on CUDA, those of cuDNN."""
    return {
        f"{name}(1, {n})": partial(
            incomparable,
            partial(lambda kind: kind(1, n, batch_first=True).to(s.device), kind),
            every,
            batch,
            length,
        )
        for name, kind in LSTM.items()
    }
