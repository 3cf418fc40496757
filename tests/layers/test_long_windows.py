"""Windows of a million steps in float32, and silence after a signal."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lmu import LMU, LMUFFT, LegendreMemory, LMUCell, LMUStack, Stream
from lmu.ops import MEMORY_METHODS, memory
from lmu.ops.system import System
from lmu.theory import discretize, impulse_response, legt
from tests import cores, variants

ORDER, STEPS = 8, 3000


def after_constant(theta: float, steps: int) -> Tensor:
    """The memory after ones from zero, in closed form: the sum of a geometric series."""
    Ad, Bd = discretize(*legt(ORDER, theta), "zoh")
    identity = torch.eye(ORDER, dtype=torch.float64)
    power = torch.linalg.matrix_power(Ad, steps)
    return torch.linalg.solve(identity - Ad, (identity - power) @ Bd)


def open_loop(**kwargs: Any) -> LMU:
    """A layer whose memory gets the input as it is, in the way of those with feedback."""
    layer = LMU(1, 2, ORDER, 1e6, encode_input=False, **kwargs)
    with torch.no_grad():
        for encoder in (layer.e_h, layer.e_m):
            if encoder is not None:
                encoder.zero_()
    return layer


def parallel(**kwargs: Any) -> LMUFFT:
    return LMUFFT(1, 2, ORDER, theta=1e6, encode_input=False, **kwargs)


@torch.no_grad()
def whole(layer: Any, x: Tensor) -> Tensor:
    kwargs = {"return_state": True} if isinstance(layer, LMUFFT) else {}
    return layer(x, **kwargs)[1][1]


@torch.no_grad()
def pieces(layer: Any, x: Tensor) -> Tensor:
    """From float64 states a few steps at a time, as a caller who cares would."""
    kwargs = {"return_state": True} if isinstance(layer, LMUFFT) else {}
    state: Any = (torch.zeros(1, 2), torch.zeros(1, ORDER, dtype=torch.float64))
    for piece in x.split(100, dim=1):
        state = layer(piece, state, **kwargs)[1]
    return state[1]


@torch.no_grad()
def steps(layer: Any, x: Tensor) -> Tensor:
    state: Any = (torch.zeros(1, 2), torch.zeros(1, ORDER, dtype=torch.float64))
    for x_t in x.unbind(1):
        state = variants.step(layer, x_t, state)[1]
    assert state[1].dtype == torch.float64
    return state[1]


def streamed(layer: Any, x: Tensor) -> Tensor:
    stream = Stream(layer)
    for x_t in x.unbind(1):
        stream(x_t)
    m = stream.state[1]
    assert m.dtype == torch.float32
    return m


def streamed_alone(layer: Any, x: Tensor) -> Tensor:
    """One of two streams, by the rows that step."""
    stream = Stream(layer, 2)
    for x_t in x.unbind(1):
        stream(x_t, streams=1)
    return stream.state[1][1]


def cell(**kwargs: Any) -> LMUCell:
    made = LMUCell(1, 2, ORDER, 1e6, encode_input=False, hidden_to_memory=False)
    assert made.e_m is not None
    torch.nn.init.zeros_(made.e_m)
    return made


@pytest.mark.parametrize(
    ("build", "run"),
    [
        (parallel, whole), (parallel, pieces), (parallel, steps), (parallel, streamed),
        (parallel, streamed_alone),
        (lambda: parallel(method="states"), whole), (lambda: parallel(method="fft"), whole),
        (lambda: parallel(method="chunked"), whole),
        (lambda: parallel(return_sequences=False), whole),
        (open_loop, whole), (open_loop, pieces), (open_loop, streamed),
        (open_loop, streamed_alone),
        (lambda: open_loop(method="loop"), whole), (lambda: open_loop(method="loop"), steps),
        (lambda: open_loop(hidden_to_memory=False, memory_to_memory=False), whole),
        (lambda: open_loop(hidden_to_memory=False, memory_to_memory=False), pieces),
        (lambda: open_loop(hidden_cell=nn.Linear(ORDER + 1, 2)), whole),
        (lambda: open_loop(hidden_cell=nn.Linear(ORDER + 1, 2)), streamed),
        (cell, steps),
    ],
)  # fmt: skip
def test_a_constant_over_a_window_of_a_million_steps(build: Any, run: Any) -> None:
    # Float32 sums of increments would err by a hundredth: each is rounded in the same way.
    m = run(build(), torch.ones(1, STEPS, 1)).double().flatten()
    exact = after_constant(1e6, STEPS)
    assert (m - exact).norm() < 1e-5 * exact.norm()


def test_a_stack_streams_long_windows_too() -> None:
    stack = LMUStack([parallel()], norm=None, residual=False)
    stream = Stream(stack)
    for x_t in torch.ones(1, STEPS, 1).unbind(1):
        stream(x_t)
    m = stream.state[1][0][1].double().flatten()
    exact = after_constant(1e6, STEPS)
    assert m.dtype == torch.float64
    assert (m - exact).norm() < 1e-5 * exact.norm()


@pytest.mark.parametrize(
    "method", [cores.param(name) for name, m in MEMORY_METHODS.items() if m.all_states]
)
def test_a_wide_state_gives_a_wide_state(method: str) -> None:
    system = System(*discretize(*legt(4, 30.0), "zoh"), constant=True)
    u, m_0 = torch.randn(2, 20, 3), torch.randn(2, 3, 4, dtype=torch.float64)
    m, m_n = memory(u, system.Ad, system.Bd, m_0, method=method)
    exact, _ = memory(u.double(), system.Ad, system.Bd, m_0, method="naive")
    assert (m.dtype, m_n.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(m_n, exact[:, -1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(m.double(), exact, atol=1e-5, rtol=1e-5)


def denormal(*tensors: Tensor) -> int:
    """How many numbers are so small that processors take long."""
    return sum(
        int(((t != 0) & (t.abs() < torch.finfo(t.dtype).tiny)).sum())
        for t in tensors
        if t.is_floating_point()
    )


SILENT = ["LMU-blocks", "LMU-loop", "LMU-open", "LMU-linear", "LMU-relu", "LMU-gelu",
          "LMU-identity", "LMUFFT", "LMUFFT-fft", "LMUFFT-tanh", "memory"]  # fmt: skip


def silenced(name: str) -> Any:
    """A layer whose hidden state dies away too."""
    layer = variants.build(name, input_size=1, hidden_size=5, memory_size=ORDER, theta=4.0)
    with torch.no_grad():
        for key, parameter in layer.named_parameters():
            if key in {"W_h", "e_h"}:
                parameter.mul_(0.1)
            elif key.split(".")[-1] == "bias" and "W_h" not in key:
                parameter.zero_()
    return layer


@pytest.mark.parametrize("name", SILENT)
def test_silence_leaves_nothing_denormal(name: str) -> None:
    # With denormal numbers in it a step takes up to fifty times as long, for ever.
    layer = silenced(name)
    # Hidden states are flushed now and then: in between they may pass through such numbers.
    x = torch.cat([torch.randn(1, 50, 1), torch.zeros(1, 450, 1)], dim=1)
    y, state = variants.run(layer, x)
    assert not denormal(y[:, -50:], *tree_leaves(state))
    stepped = None
    with torch.no_grad():
        for x_t in x.unbind(1):
            stepped = variants.step(layer, x_t, stepped)[1]
    assert not denormal(*tree_leaves(stepped))
    if isinstance(layer, LegendreMemory):
        return
    stream = Stream(layer)
    for x_t in x.unbind(1):
        stream(x_t)
    assert not denormal(*stream.state)
    assert not denormal(stream(torch.zeros(1, 1)))
    again = stream(x[:, 0])
    torch.testing.assert_close(again, y[:, 0])  # as if it had no past


def test_what_is_kept_is_not_denormal() -> None:
    layer = LMUFFT(1, 5, ORDER, theta=4.0)
    system = layer._system()
    H = system.response(2000, torch.float32)
    assert H is not None
    assert not denormal(H, *system.block_dynamics(1, 300, torch.float32))
    assert int((H != 0).sum()) > 100


def test_gradients_pass_what_is_flushed() -> None:
    cell = LMUCell(1, 3, ORDER, 20.0, memory_bias=True)
    assert cell.b_u is not None
    torch.nn.init.zeros_(cell.b_u)
    _, m = cell(torch.zeros(1, 1))
    m.sum().backward()
    assert not m.any()
    torch.testing.assert_close(cell.b_u.grad, cell.memory.Bd.sum().float().view(1))


def test_a_wide_memory_stays_wide_with_lengths() -> None:
    layer = LMU(2, 4, 5, 30.0, hidden_to_memory=False, memory_to_memory=False)
    x, m = torch.randn(3, 20, 2), torch.zeros(3, 5, dtype=torch.float64)
    wide = layer(x, (torch.zeros(3, 4), m), lengths=[20, 0, 7])[1][1]
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.float(), layer(x, lengths=[20, 0, 7])[1][1])


def test_operations_in_float16_are_not_flushed() -> None:
    Ad, Bd = discretize(*legt(4, 10.0), "zoh")
    H = impulse_response(Ad, Bd.half(), 5)
    torch.testing.assert_close(H.double(), impulse_response(Ad, Bd, 5), atol=2e-3, rtol=2e-3)


def test_nan_and_infinity_are_not_flushed() -> None:
    from lmu.theory.rounding import flush

    given = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e-20, -1e-35, 0.0])
    wanted = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e-20, 0.0, 0.0])
    torch.testing.assert_close(flush(given), wanted, equal_nan=True, atol=0, rtol=1e-6)
