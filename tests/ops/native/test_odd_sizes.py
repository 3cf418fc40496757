"""Every kernel at sizes that fit no vector, tile or block, in each variant, against float64.

Under ``make sanitize`` these calls look for reads and writes beyond the buffers. What the results
must be in every other respect, the conformance tests of each family say.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from lmu import LMU, LMUFFT, LegendreMemory, Stream
from lmu.ops import (
    LMU_METHODS,
    MEMORY_METHODS,
    READOUT_METHODS,
    LMUWeights,
    final_memory,
    lmu_sequence,
    memory,
    native,
    readout,
)
from lmu.ops.lmu.naive import naive as naive_lmu
from lmu.ops.readout.naive import naive as naive_readout
from lmu.theory import discretize, legt

F64 = torch.float64
# (batch, time, channels, order, hidden, input)
SIZES = [
    (0, 3, 1, 2, 2, 1),
    (1, 1, 1, 1, 1, 1),
    (2, 3, 2, 5, 3, 1),
    (1, 7, 1, 17, 15, 3),
    (3, 2, 1, 8, 33, 2),
    (5, 41, 3, 3, 7, 2),
    (9, 19, 1, 33, 18, 1),
    (17, 67, 1, 12, 16, 5),
]
sizes = pytest.mark.parametrize("size", SIZES, ids=str)


def native_methods(table: dict[str, Any]) -> list[str]:
    return [name for name in table if name.startswith("native")]


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=F64) / max(shape[-1], 1) ** 0.5


def check(
    run: Callable[..., Sequence[Tensor]],
    right: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
    dtype: torch.dtype,
) -> None:
    """Results and all gradients, with one thread and with three."""
    exact = [t.clone().requires_grad_() for t in inputs]
    expected = right(*exact)
    seeds = [torch.randn_like(t) for t in expected]
    grads = torch.autograd.grad(expected, exact, seeds, materialize_grads=True, allow_unused=True)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-11
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            narrow = [t.to(dtype).requires_grad_() for t in inputs]
            got = run(*narrow)
            also = torch.autograd.grad(
                got, narrow, [s.to(dtype) for s in seeds], materialize_grads=True, allow_unused=True
            )
        finally:
            torch.set_num_threads(before)
        for actual, truth in zip((*got, *also), (*expected, *grads), strict=True):
            scale = max(1.0, truth.abs().max().item() if truth.numel() else 1.0)
            torch.testing.assert_close(actual.to(F64), truth, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("method", native_methods(LMU_METHODS))
@sizes
def test_lmu(variant, dtype, method, size):
    batch, length, channels, order, hidden, features = size
    systems = [discretize(*legt(order, 20.0 + c)) for c in range(channels)]
    E = torch.block_diag(*(Ad - torch.eye(order, dtype=F64) for Ad, _ in systems))
    Bd = torch.block_diag(*(Bd[:, None] for _, Bd in systems))
    states = channels * order
    inputs = [
        *(draw(batch, length, features), draw(batch, hidden), draw(batch, states)),
        *(draw(channels, features), draw(channels, hidden), draw(channels, states)),
        *(draw(hidden, features), draw(hidden, hidden), draw(hidden, states), E, Bd),
    ]
    for activation in LMU_METHODS[method].activations or ("tanh",):

        def run(x, h, m, *weights, name=activation):
            y, last = lmu_sequence(
                x, h, m, LMUWeights(*weights), method=method, activation=name
            )  # fmt: skip
            return y, *last

        def right(x, h, m, *weights, name=activation):
            return naive_lmu(x, h, m, LMUWeights(*weights), name)

        check(run, right, inputs, dtype)


@pytest.mark.parametrize("method", native_methods(MEMORY_METHODS))
@pytest.mark.parametrize("initial", [False, True])
@sizes
def test_memory(variant, dtype, method, size, initial):
    batch, length, channels, order = size[:4]
    inputs = [draw(batch, length, channels), *discretize(*legt(order, 20.0))]
    inputs += [draw(batch, channels, order)] if initial else []
    if MEMORY_METHODS[method].all_states:
        check(
            lambda *a: memory(*a, method=method), lambda *a: memory(*a, method="naive"),
            inputs, dtype,
        )  # fmt: skip
    else:
        check(
            lambda *a: [final_memory(*a, method=method)],
            lambda *a: [final_memory(*a, method="naive")], inputs, dtype,
        )  # fmt: skip


@pytest.mark.parametrize("method", native_methods(READOUT_METHODS))
@pytest.mark.parametrize("initial", [False, True])
@sizes
def test_readout(variant, dtype, method, size, initial):
    batch, length, channels, order, hidden, features = size
    inputs = [
        *(draw(batch, length, channels), draw(batch, length, features)),
        *discretize(*legt(order, 20.0)),
        *(draw(hidden, channels * order), draw(hidden, features), draw(hidden)),
    ]
    inputs += [draw(batch, channels, order)] if initial else []
    for activation in READOUT_METHODS[method].activations:

        def run(*a, name=activation):
            return readout(*a, method=method, activation=name)

        def right(*a, name=activation):
            return naive_readout(*a, activation=name)

        check(run, right, inputs, dtype)


LAYERS = {
    "LMU": lambda c, d, n, x: LMU(x, n, d, 20.0, memory_channels=c),
    "LMUFFT": lambda c, d, n, x: LMUFFT(x, n, d, theta=20.0, memory_channels=c),
    "LegendreMemory": lambda c, d, n, x: LegendreMemory(d, 20.0, x),
}


@pytest.mark.parametrize("kind", LAYERS)
@sizes
def test_layers_and_their_steps(variant, dtype, kind, size):
    """What the layers choose by themselves, sequences and steps, against PyTorch's operations."""
    batch, length, channels, order, hidden, features = size
    layer = LAYERS[kind](channels, order, hidden, features).double()
    x = draw(batch, length, features)
    with native.use(None):
        right = layer(x)[0].detach()
    layer = layer.to(dtype)
    x = x.to(dtype).requires_grad_()
    output = layer(x)[0]
    tolerance = (1e-4 if dtype == torch.float32 else 1e-10) * max(
        1.0, right.abs().max().item() if right.numel() else 1.0
    )
    torch.testing.assert_close(output.to(F64), right, rtol=0, atol=tolerance)
    output.sum().backward()
    if batch:
        with torch.no_grad():
            stream = Stream(layer, batch)
            steps = torch.stack([stream(x[:, t]) for t in range(length)], dim=1)
        torch.testing.assert_close(steps.to(F64), right, rtol=0, atol=tolerance)
