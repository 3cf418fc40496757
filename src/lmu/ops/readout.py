"""The parallel layer's hidden units at all steps: chooses a way to compute them, or runs one."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from lmu._arguments import checked, explained, flag, instance, optional, word
from lmu._arguments import tensor as tensor_rule
from lmu.ops._autograd import is_transformed
from lmu.ops._channels import channels
from lmu.ops._precision import compute_dtype, no_autocast, widen
from lmu.ops.choice import Choice, Work, compare
from lmu.ops.chunked import chunked_readout
from lmu.ops.fft_readout import FFTReadout, convolve
from lmu.ops.memory import check_memory, memory, run_method, work_of
from lmu.ops.readout_kernels import kernels_readout
from lmu.theory import impulse_response
from lmu.theory.rounding import narrow

# (u, x, Ad, Bd, W_m, W_x, bias, m_0, H) -> hidden units of all steps and the last memory state.
Run = Callable[..., tuple[Tensor, Tensor]]


def states_readout(
    u: Tensor, x: Tensor, Ad: Tensor, Bd: Tensor, W_m: Tensor, W_x: Tensor, bias: Tensor,
    m_0: Tensor | None, H: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """All memory states first, then the read-out: as the equations say.

    Cost: that of the memory, and 2 b T c d r FLOPs; memory b T c d floats, several times over.
    """
    m, m_n = memory(u, Ad, Bd, m_0, H=H)
    if is_transformed():
        return torch.relu(m.flatten(2) @ W_m.mT + x @ W_x.mT + bias), m_n
    # In place: what comes before needs none of it for backward.
    z = torch.addmm(bias, x.flatten(0, 1), W_x.mT)
    z.addmm_(m.flatten(2).flatten(0, 1), W_m.mT).relu_()
    return z.unflatten(0, x.shape[:2]), m_n


def fft_readout(
    u: Tensor, x: Tensor, Ad: Tensor, Bd: Tensor, W_m: Tensor, W_x: Tensor, bias: Tensor,
    m_0: Tensor | None, H: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Convolve the input with ``W_m H``, which has a row for each hidden unit, by FFT.

    Cost: O(b r T log T) FLOPs for each channel and 2 r d T once; memory b T r floats. With ``m_0``
    also 2 b T c d r FLOPs.
    """
    length, order = u.shape[1], Bd.shape[-1]
    if H is None:
        H = narrow(impulse_response(widen(Ad), widen(Bd), length), u.dtype)
    K = W_m.unflatten(1, (-1, order)).transpose(0, 1) @ H[..., :length]  # (channels, rows, time)
    m_n = run_method("final", u, Ad, Bd, m_0, H)
    if m_0 is None and not is_transformed():
        return FFTReadout.apply(u.mT, K, x, W_x, bias)[0], m_n
    z = convolve(u.mT, K) + x @ W_x.mT + bias
    if m_0 is not None:
        z = z + _channels_readout(torch.zeros_like(u), Ad, Bd, W_m, m_0)[0][:, :length]
    return torch.relu(z), m_n


def chunks_readout(
    u: Tensor, x: Tensor, Ad: Tensor, Bd: Tensor, W_m: Tensor, W_x: Tensor, bias: Tensor,
    m_0: Tensor | None, H: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One matrix product per chunk of time, a short recurrence between chunks.

    Cost: 2 b T c (L + d) r FLOPs with chunks of L steps; memory b T r floats.
    """
    del H
    z, m_n = _channels_readout(u, Ad, Bd, W_m, m_0)
    length = x.shape[1]
    x1 = pad(x, (0, 1, 0, z.shape[1] - length), value=1.0)
    W1 = torch.cat([W_x, bias[:, None]], dim=1)
    if is_transformed():
        return torch.relu(z + x1 @ W1.mT)[:, :length], m_n
    # In place: what comes before needs none of it for backward.
    z.flatten(0, 1).addmm_(x1.flatten(0, 1), W1.mT).relu_()
    return z[:, :length], m_n


def _channels_readout(
    u: Tensor, Ad: Tensor, Bd: Tensor, W_m: Tensor, m_0: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The chunked read-out summed over channels, and the last states (batch, channels, order)."""
    z, last = None, []
    each = zip(W_m.split(Bd.shape[-1], dim=1), channels(u.shape[2], Ad, Bd, None), strict=True)
    for c, (W, (A, B, _)) in enumerate(each):
        start = None if m_0 is None else m_0[:, c]
        if is_transformed() and z is not None:
            part, m_n = chunked_readout(u[..., c], A, B, W, start)
            z = z + part
        else:
            z, m_n = chunked_readout(u[..., c], A, B, W, start, z)
        last.append(m_n)
    assert z is not None
    return z, torch.stack(last, dim=1)


READOUTS: dict[str, Run] = {
    "states": states_readout,
    "fft": fft_readout,
    "chunked": chunks_readout,
    "triton": kernels_readout,
}
CHOSEN = ("states", "fft", "chunked")  # from among these; kernels run by name only, as yet


@checked(work=instance(Work), initial_state=flag, transformed=flag)
def choose_readout(work: Work, *, initial_state: bool = False, transformed: bool = False) -> Choice:
    """Pick the method of a read-out: a pure function, the same everywhere."""
    if work.length == 1:
        return work.choice("states", "a single step has no time to share")
    if initial_state:
        return work.choice("chunked", "an initial state is one more row of a chunk's product")
    if transformed:
        return work.choice("chunked", "compilers and torch.func see plain products in it")
    seconds = {method: work.readout_seconds(method) for method in CHOSEN}
    best, second = sorted(seconds, key=lambda method: seconds[method])[:2]
    faster = compare(seconds[best], seconds[second])
    return work.choice(best, f"all outputs: {faster} by method {second!r}")


_tensor = tensor_rule(floating=True)


@explained(
    u=_tensor,
    x=_tensor,
    Ad=_tensor,
    Bd=_tensor,
    W_m=_tensor,
    W_x=_tensor,
    bias=_tensor,
    m_0=optional(_tensor),
    method=word,
    H=optional(_tensor),
)
def readout(
    u: Tensor,
    x: Tensor,
    Ad: Tensor,
    Bd: Tensor,
    W_m: Tensor,
    W_x: Tensor,
    bias: Tensor,
    m_0: Tensor | None = None,
    *,
    method: str = "auto",
    H: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Hidden units ``relu(W_m m_t + W_x x_t + b)`` of the memory ``m_t = Ad m_{t-1} + Bd u_t``.

    The read-out is linear before the relu, so that the memory's states need not be formed. All in
    the dtype of ``u`` but at least float32, also under autocast. Differentiable in every argument.

    Args:
        u: Encoded input (batch, time, channels).
        x: Input (batch, time, input).
        Ad: (order, order), of the precision of ``u`` or better.
        Bd: (order,), of the dtype of ``Ad``.
        W_m: (hidden, channels * order), channel after channel.
        W_x: (hidden, input).
        bias: (hidden,).
        m_0: Memory before the first step (batch, channels, order); zeros if None.
        method: ``"auto"``, or a key of :data:`READOUTS`.
        H: The impulse response (order, at least time), to save computing it.

    Returns:
        Hidden units (batch, time, hidden) and the last memory state (batch, channels, order).

    Raises:
        TypeError: An argument is not floating, or dtypes are mixed.
        ValueError: A rank, size or device does not fit; the method is unknown.

    Source: Chilkuri & Eliasmith, ICML 2021, equations 19, 20 and 26.
    """
    check_memory(u, Ad, Bd, m_0, H)
    _check_readout(u, x, Bd, W_m, W_x, bias)
    if method == "auto":
        method = choose_readout(
            work_of(u, Bd, len(W_m)),
            initial_state=m_0 is not None,
            transformed=is_transformed(),
        ).method
    if not isinstance(method, str) or method not in READOUTS:
        raise ValueError(f"method must be 'auto' or one of {list(READOUTS)}, got {method!r}")
    dtype = compute_dtype(u.dtype)
    with no_autocast(u.device):
        u, x, W_m, W_x, bias = (t.to(dtype) for t in (u, x, W_m, W_x, bias))
        if not torch.compiler.is_compiling() and not len(u):  # transforms refuse an empty batch
            u, x = (pad(t, (0, 0, 0, 0, 0, 1)) for t in (u, x))
            y, m_n = READOUTS[method](u, x, Ad, Bd, W_m, W_x, bias, None, H)
            return y[:0], m_n[:0]
        return READOUTS[method](u, x, Ad, Bd, W_m, W_x, bias, m_0, H)


def _check_readout(
    u: Tensor, x: Tensor, Bd: Tensor, W_m: Tensor, W_x: Tensor, bias: Tensor
) -> None:
    rows = W_m.shape[0] if W_m.ndim else -1
    expected = {
        "x": (x, (*u.shape[:2], x.shape[-1] if x.ndim else -1)),
        "W_m": (W_m, (rows, u.shape[2] * Bd.shape[-1])),
        "W_x": (W_x, (rows, x.shape[-1] if x.ndim else -1)),
        "bias": (bias, (rows,)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor.shape != shape:
            raise ValueError(f"{name} must have the shape {shape}, got {tuple(tensor.shape)}")
        if tensor.device != u.device:
            raise ValueError(f"u is on {u.device} but {name} on {tensor.device}: move one of them")
        if torch.promote_types(tensor.dtype, compute_dtype(u.dtype)) != compute_dtype(u.dtype):
            raise TypeError(f"{name} is {tensor.dtype}, wider than u of {u.dtype}: convert one")
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating, got {tensor.dtype}")
