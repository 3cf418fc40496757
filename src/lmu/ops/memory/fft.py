"""All states by convolution with the impulse response, by FFT."""

from math import log2

import torch
from torch import Tensor

from lmu.ops._modes import widen
from lmu.ops.cost import Cost, Machine, Problem, beyond, doublings
from lmu.theory import impulse_response, krylov
from lmu.theory.rounding import narrow


def fast_length(n: int) -> int:
    """Return a number >= n that is fast to transform: its prime factors are 2, 3 and 5, mostly 2.

    The smallest one that is even or, from 256 on, a multiple of 32: 1000 takes longer than 1024.
    """
    step = 2 if n < 256 else 32
    n = -(-n // step) * step
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += step


def fft(u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None, H: Tensor | None) -> Tensor:
    """All memory states, ``m_t = sum_k H[:, k] u_{t-k} + Ad^t m_0``, by zero-padded FFT.

    Shapes: ``u`` (batch, time, channels), ``Ad`` (order, order), ``Bd`` (order,), ``m_0`` (batch,
    channels, order), ``H`` (order, >= time) or None; returns (batch, time, channels, order).

    Cost: O(b c d T log T) FLOPs and several b c d T floats of memory; with ``m_0`` also
    2 b T c d^2 FLOPs.

    Source: Chilkuri & Eliasmith, ICML 2021, equation 26.
    """
    length = u.shape[1]
    if H is None:
        H = narrow(impulse_response(widen(Ad), widen(Bd), length), u.dtype)
    n = fast_length(2 * length - 1)
    spectrum = torch.fft.rfft(u.mT, n)[:, :, None] * torch.fft.rfft(H[:, :length], n)
    m = torch.fft.irfft(spectrum, n)[..., :length].movedim(3, 1)
    if m_0 is not None:
        columns = m_0.to(u.dtype).flatten(0, 1).mT
        free = krylov(widen(Ad), Ad.to(u.dtype) @ columns, length)
        m = m + free.permute(1, 2, 0).unflatten(1, m_0.shape[:2]).transpose(0, 1)
    return m


def fft_cost(problem: Problem) -> Cost:
    """Cost of all states by FFT."""
    n = fast_length(2 * problem.length - 1)
    signals = problem.batch * problem.channels * problem.order
    return Cost(signals * (2.5 * n * log2(n) + 3.0 * n), 8.0 * signals * n)


def fft_terms(problem: Problem, machine: Machine) -> dict[str, float]:
    """Terms of the time of all states by FFT, forward and backward."""
    del machine
    n = fast_length(2 * problem.length - 1)
    signals = problem.batch * problem.channels * problem.order
    size, transforms = 4.0 * n * signals, 2.5 * n * log2(n) * (2 * signals + problem.order)
    return {
        "calls": 20.0,
        "transforms": transforms,
        "far_transforms": transforms * doublings(8.0 * problem.length * problem.order),
        "bytes": size,
        "far_bytes": beyond(size, 1 << 20),
        "new_bytes": beyond(size, 1 << 25),
    }
