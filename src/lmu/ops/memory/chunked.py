"""All states in chunks of time: one matrix product in each, a short recurrence between them."""

from math import log2

import torch
from torch import Tensor
from torch.nn.functional import pad

from lmu.ops._modes import widen
from lmu.ops.cost import Cost, Machine, Problem, beyond
from lmu.ops.memory.final import final
from lmu.ops.recurrence import recurrence
from lmu.theory import apply_power, apply_powers, impulse_response, krylov
from lmu.theory.rounding import narrow

COMPILED = 1 << 13  # length for which a compiled program cuts chunks
LARGEST_OPERATOR = 1 << 22  # floats: it is read for each chunk and should stay in the cache
# Fitted to runs of all methods on two cores, forward and backward; see docs/engine.md.


def chunk_length(length: int, order: int, rows: int) -> int:
    """Steps per chunk: a power of two from 16 to 256, as long as the operator stays small.

    Short chunks cost less arithmetic, (L + order) * rows per step, long ones fewer sequential
    steps. And building the operator must not cost more than a sequence that uses it.
    """
    if torch.compiler.is_compiling():
        length = COMPILED  # one graph for all lengths
    largest = min(LARGEST_OPERATOR // rows, length)
    steps = 16
    while steps < 256 and (2 * steps + order) * 2 * steps <= largest:
        steps *= 2
    return min(length, steps)


def chunk_operator(Ad: Tensor, Bd: Tensor, W: Tensor, steps: int) -> Tensor:
    """The matrix that gives ``W m`` at all steps of a chunk from its input and the state before.

    Row s < steps is the response to input s, ``W Ad^{t-s} Bd`` at the steps t >= s; row steps + i
    is that to the i-th component of the state, ``W Ad^{t+1}``. Channels come one after another.

    Shapes: ``W`` (rows, channels * order), of the dtype of the result; returns (channels * (steps +
    order), steps * rows).
    """
    Ad, Bd = widen(Ad), widen(Bd)
    rows, each = len(W), (W.shape[1] // len(Bd), len(W))
    columns = W.mT.unflatten(0, (-1, len(Bd))).transpose(0, 1).flatten(1)  # channels, then rows
    K = narrow(impulse_response(Ad, Bd, steps), W.dtype).mT @ columns
    padded = torch.cat([K.new_zeros(steps - 1, each[0] * rows), K])
    t = torch.arange(steps, device=K.device)
    delay = t - t[:, None]
    forced = padded[delay + steps - 1]  # (steps, steps, columns); zero where the delay is negative
    free = krylov(Ad.mT, Ad.mT.to(W.dtype) @ columns, steps)  # (order, steps, columns)
    responses = torch.cat([forced, free]).unflatten(2, each)
    return responses.permute(2, 0, 1, 3).reshape(-1, steps * rows)


def chunk_states(u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor) -> Tensor:
    """The states before each chunk, ``m_{j+1} = Ad^L m_j + sum_k H[:, k] u_{jL+L-1-k}``.

    The sums are float64: see :func:`lmu.ops.memory.recurrent.memory_step`.

    Shapes: ``u`` (batch, chunks, steps), ``m_0`` (batch, order); returns (batch, chunks, order), in
    the dtype for powers.
    """
    Ad, Bd, m_0 = widen(Ad), widen(Bd), widen(m_0)
    steps = u.shape[2]
    identity = torch.eye(len(Bd), dtype=Ad.dtype, device=Ad.device)
    power = apply_power(Ad, identity, steps)
    H = narrow(impulse_response(Ad, Bd, steps), u.dtype)
    if torch.compiler.is_compiling():
        # The last chunk's input is not needed, but a compiler would specialize on a single chunk.
        following = recurrence(widen(u.flip(2) @ H.mT), m_0, power, "identity")
        return torch.cat([m_0.unsqueeze(1), following], dim=1)[:, :-1]
    arriving = u[:, :-1].flip(2) @ H.mT
    E = narrow(power - identity, u.dtype)
    states = [m_0]
    for v in arriving.unbind(1):
        m = states[-1]
        states.append(m + torch.addmm(v, narrow(m, u.dtype), E.mT))
    return torch.stack(states, dim=1)


def chunked_readout(
    u: Tensor, Ad: Tensor, Bd: Tensor, W: Tensor, m_0: Tensor | None, z: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``W m_t`` at all steps and the last state, without forming all states.

    Shapes: ``u`` (batch, time, channels), ``W`` (rows, channels * order), ``m_0`` (batch, channels,
    order); returns (batch, whole chunks of time, rows), whose steps beyond the input are
    meaningless, and (batch, channels, order) of the dtype of ``m_0``. With ``z`` of the former
    shape the result is added to it, in place.

    Cost: 2 b T c (L + d) r FLOPs with chunks of L steps and r rows, besides 2 c L r d^2 once;
    memory b T r floats, and c (L + d) L r for the operator.
    """
    batch, length, channels = u.shape
    order = len(Bd)
    steps = chunk_length(length, order, len(W))
    chunks = _number(length, steps)
    rows = u.mT.flatten(0, 1)
    padded = pad(rows, (0, chunks * steps - length)).unflatten(1, (-1, steps))
    start = u.new_zeros(batch * channels, order) if m_0 is None else m_0.flatten(0, 1)
    states = chunk_states(padded, Ad, Bd, start)
    operator = chunk_operator(Ad, Bd, W, steps)
    sources = torch.cat([padded, narrow(states, u.dtype)], dim=2).unflatten(0, (-1, channels))
    sources = sources.transpose(1, 2).flatten(2)
    if z is None:
        z = (sources @ operator).unflatten(2, (steps, -1)).flatten(1, 2)
    else:
        z.view(batch * chunks, -1).addmm_(sources.flatten(0, 1), operator)
    last = _last(padded, states, Ad, Bd, length).to(start.dtype)
    return z, last.unflatten(0, (-1, channels))


def channels_at_once(length: int, order: int, rows: int) -> int:
    """Channels whose operator is one matrix; more would leave the cache."""
    steps = chunk_length(length, order, rows)
    return max(1, LARGEST_OPERATOR // ((steps + order) * steps * rows))


def _number(length: int, steps: int) -> int:
    """Chunks of a sequence; compiled, one more, as a compiler would specialize on one."""
    return -(-length // steps) + (1 if torch.compiler.is_compiling() else 0)


def _last(u: Tensor, states: Tensor, Ad: Tensor, Bd: Tensor, length: int) -> Tensor:
    """Return the state (batch, order) after ``length`` steps from those of :func:`chunk_states`."""
    steps = u.shape[2]
    last = (length - 1) // steps
    if not torch.compiler.is_compiling():
        rest = u[:, last, : length - last * steps, None]
        return final(rest, Ad, Bd, states[:, last, None], None).squeeze(1)
    # The same with a mask, as a compiler must not specialize on the number of steps left.
    Ad, Bd = widen(Ad), widen(Bd)
    before = states.select(1, last)
    left = length - last * steps
    age = left - 1 - torch.arange(steps, device=u.device)
    H = narrow(impulse_response(Ad, Bd, steps), u.dtype)[:, age.clamp(min=0)]
    forced = torch.where(age >= 0, u.select(1, last), u.new_zeros(())) @ H.mT
    exponents = torch.full((u.shape[0],), left, device=u.device)
    return forced + apply_powers(Ad, before.mT, exponents, steps).mT


def chunked_final(
    u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None, H: Tensor | None
) -> Tensor:
    """The last state alone, from that before the last chunk; the number of chunks may be symbolic.

    Shapes and arguments as :func:`chunked`; returns (batch, channels, order).

    Cost: 2 b c T d FLOPs, besides 2 L d^2 + 2 d^3 log2(L) once with chunks of L = 64 steps.
    """
    del H
    (batch, length, number), order = u.shape, len(Bd)
    steps = 64
    chunks = _number(length, steps)
    padded = pad(u.mT.flatten(0, 1), (0, chunks * steps - length)).unflatten(1, (-1, steps))
    start = u.new_zeros(batch * number, order) if m_0 is None else m_0.flatten(0, 1)
    m = _last(padded, chunk_states(padded, Ad, Bd, start), Ad, Bd, length)
    return m.to(start.dtype).unflatten(0, (-1, number))


def chunked(u: Tensor, Ad: Tensor, Bd: Tensor, m_0: Tensor | None, H: Tensor | None) -> Tensor:
    """All memory states, chunk by chunk.

    Shapes: ``u`` (batch, time, channels), ``Ad`` (order, order), ``Bd`` (order,), ``m_0`` (batch,
    channels, order); returns (batch, time, channels, order). ``H`` is not used.

    Cost: 2 b c T (L + d) d FLOPs with chunks of L steps; memory b c T d floats.
    """
    del H
    channels = u.shape[2]
    identity = torch.eye(len(Bd), dtype=u.dtype, device=u.device)
    start = None if m_0 is None else m_0.flatten(0, 1)
    start = None if start is None else start.unsqueeze(1)
    m, _ = chunked_readout(u.mT.flatten(0, 1).unsqueeze(2), Ad, Bd, identity, start)
    return m[:, : u.shape[1]].unflatten(0, (-1, channels)).transpose(1, 2)


def chunked_cost(problem: Problem) -> Cost:
    """Cost of all states in chunks."""
    T, d = problem.length, problem.order
    values, steps = problem.batch * T * problem.channels * d, chunk_length(T, d, d)
    flops = 2.0 * values * (steps + d) + 2.0 * steps * d**3
    return Cost(flops, 4.0 * values + 4.0 * (steps + d) * steps * d)


def chunked_terms(problem: Problem, machine: Machine) -> dict[str, float]:
    """Terms of the time of all states in chunks, forward and backward."""
    del machine
    p = problem
    return terms_of_chunks(p, chunked_cost(p).flops, p.order, p.batch * p.channels, parts=1)


def terms_of_chunks(
    problem: Problem, flops: float, rows: int, sequences: int, parts: int
) -> dict[str, float]:
    """Terms of ``rows`` results a step of a number of sequences, in ``parts`` separate calls."""
    steps = chunk_length(problem.length, problem.order, rows)
    values = 4.0 * sequences * problem.length * rows
    operator = 4.0 * (steps + problem.order) * steps * rows
    return {
        "calls": 60.0,
        "loops": parts,
        "preparation": 2.0 * parts * problem.order**3 * log2(steps + 1),
        "steps": parts * problem.length / steps,
        "flops": 3.0 * flops,
        "bytes": values * parts + operator * parts,
        "far_bytes": beyond(values, 1 << 20) * parts,
        "new_bytes": beyond(values, 1 << 25) * parts,
    }
