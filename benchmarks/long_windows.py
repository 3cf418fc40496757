"""Long windows and silence, for docs/numerics.md: ``python -m benchmarks.long_windows``.

Errors of the memory after a constant over two windows, against its closed form, by every way to
compute it; and microseconds a step in a signal and in the silence after it. One thread.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.machine import machine
from lmu import LMU, LMUFFT, Stream
from lmu._files import write_json
from lmu.theory import discretize, legt

OUTPUT = Path(__file__).parent.parent / "results" / "long_windows.json"
ORDER, HIDDEN = 16, 4
THETAS = (1_000, 10_000, 100_000, 1_000_000)
PIECES = 100
SILENCE, ROUND, ROUNDS = 2_000, 500, 15
State = Any


def exact(theta: float, steps: int) -> Tensor:
    """The memory after so many ones: the sum of a geometric series."""
    Ad, Bd = discretize(*legt(ORDER, theta))
    identity = torch.eye(ORDER, dtype=torch.float64)
    power = torch.linalg.matrix_power(Ad, steps)
    return torch.linalg.solve(identity - Ad, (identity - power) @ Bd)


def parallel(theta: float, **kwargs: Any) -> LMUFFT:
    """The linear memory of the input as it is."""
    return LMUFFT(1, HIDDEN, ORDER, theta=theta, encode_input=False, **kwargs)


def recurrent(theta: float, **kwargs: Any) -> LMU:
    """The same in a layer that could feed back."""
    layer = LMU(1, HIDDEN, ORDER, theta, encode_input=False, **kwargs)
    for encoder in (layer.e_h, layer.e_m):
        if encoder is not None:
            nn.init.zeros_(encoder)
    return layer


def whole(layer: Any, x: Tensor, state: State = None) -> State:
    """The state after a sequence."""
    kwargs = {"return_state": True} if isinstance(layer, LMUFFT) else {}
    return layer(x, state, **kwargs)[1]


def in_pieces(layer: Any, x: Tensor, dtype: torch.dtype) -> State:
    """The same from piece to piece."""
    state: State = (torch.zeros(1, HIDDEN), torch.zeros(1, ORDER, dtype=dtype))
    for piece in x.chunk(PIECES, dim=1):
        state = whole(layer, piece, state)
    return state


def streamed(layer: Any, x: Tensor) -> State:
    """The same by a stream."""
    stream = Stream(layer)
    for x_t in x.unbind(1):
        stream(x_t)
    return stream.state


def stepped(layer: Any, x: Tensor, dtype: torch.dtype) -> State:
    """The same by ``layer.step``, with a memory of some dtype."""
    state: State = (torch.zeros(1, HIDDEN), torch.zeros(1, ORDER, dtype=dtype))
    for x_t in x.unbind(1):
        state = layer.step(x_t, state)[1]
    return state


WAYS: dict[str, tuple[Callable[[float, Tensor], State], int]] = {
    "`LMUFFT`, by FFT": (lambda t, x: whole(parallel(t, method="fft"), x), 10**6),
    "`LMUFFT`, in chunks": (lambda t, x: whole(parallel(t, method="chunked"), x), 10**6),
    "`LMUFFT`, last output": (lambda t, x: whole(parallel(t, return_sequences=False), x), 10**6),
    "`LMUFFT`, 100 pieces": (lambda t, x: in_pieces(parallel(t), x, torch.float32), 10**6),
    "`LMU`, in blocks": (lambda t, x: whole(recurrent(t, method="blocks"), x), 10**6),
    "`LMU`, nothing fed back": (
        lambda t, x: whole(recurrent(t, hidden_to_memory=False, memory_to_memory=False), x), 10**6
    ),
    "`Stream(LMUFFT)`": (lambda t, x: streamed(parallel(t), x), 10**6),
    "`Stream(LMU)`": (lambda t, x: streamed(recurrent(t), x), 10**6),
    "`LMU`, by loop": (lambda t, x: whole(recurrent(t, method="loop"), x), 10**5),
    "`step`, m in float64": (lambda t, x: stepped(parallel(t), x, torch.float64), 10**5),
    "`step`, m in float32": (lambda t, x: stepped(parallel(t), x, torch.float32), 10**5),
}  # fmt: skip


def windows(name: str) -> dict[str, Any]:
    """The relative error of a way for each window; None where it would take too long."""
    run, longest = WAYS[name]
    errors = {}
    for theta in THETAS:
        if theta > longest:
            errors[str(theta)] = None
            continue
        m = run(float(theta), torch.ones(1, 2 * theta, 1))[1].double().flatten()
        right = exact(float(theta), 2 * theta)
        errors[str(theta)] = ((m - right).norm() / right.norm()).item()
    sys.stdout.write(f"{name}: {errors}\n")
    return {"way": name, "errors": errors}


class Textbook:
    """A step of [C21], equations 18 to 20, term by term, which flushes nothing."""

    def __init__(self, layer: LMUFFT) -> None:
        self.layer = layer
        Ad, Bd = discretize(*legt(layer.memory_size, float(layer.theta)))  # pyright: ignore[reportArgumentType]
        self.Ad, self.Bd = Ad.float().mT.contiguous(), Bd.float()[None]
        self.m = torch.zeros(1, layer.memory_size)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Advance one step."""
        u = torch.relu(self.layer.W_u(x))
        self.m = self.m @ self.Ad + u * self.Bd
        return torch.relu(self.layer.W_h(torch.cat([self.m, x], dim=1)))


class Stepper:
    """``layer.step`` with the state kept."""

    def __init__(self, layer: Any) -> None:
        self.layer, self.state = layer, None

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Advance one step."""
        y, self.state = self.layer.step(x, self.state)
        return y


def quiet(layer: Any) -> Any:
    """A layer that falls silent with its input: no bias, and a hidden state that forgets."""
    if isinstance(layer, LMUFFT):
        nn.init.zeros_(layer.W_u.bias)
        return layer
    with torch.no_grad():
        layer.W_h.mul_(0.3)
        layer.e_h.mul_(0.3)
    return layer


def steps() -> dict[str, Callable[[], Callable[[Tensor], Tensor]]]:
    """What is timed in silence."""

    def fft() -> LMUFFT:
        return quiet(LMUFFT(1, 64, 256, theta=200))

    def lmu() -> LMU:
        return quiet(LMU(1, 212, 256, 200))

    return {
        "the equations as they stand": lambda: Textbook(fft()),
        "`Stream(LMUFFT)`": lambda: Stream(fft()),
        "`LMUFFT.step`": lambda: Stepper(fft()),
        "`Stream(LMU)`": lambda: Stream(lmu()),
        "`LMU.step`": lambda: Stepper(lmu()),
    }  # fmt: skip


def silence(name: str) -> dict[str, Any]:
    """Microseconds a step in a signal and in silence, in turns."""
    build = steps()[name]
    torch.manual_seed(0)
    loud, still = build(), build()
    signal, zero = torch.randn(1, 1), torch.zeros(1, 1)
    for step in (loud, still):
        for _ in range(300):
            step(signal)
    for _ in range(SILENCE):
        still(zero)

    def timed(step: Callable[[Tensor], Tensor], x: Tensor) -> float:
        start = time.perf_counter()
        for _ in range(ROUND):
            step(x)
        return (time.perf_counter() - start) / ROUND * 1e6

    pairs = [(timed(loud, signal), timed(still, zero)) for _ in range(ROUNDS)]
    before, after = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    found = {"way": name, "signal_us": before, "silence_us": after, "ratio": ratio}
    sys.stdout.write(f"{found}\n")
    return found


def main() -> None:
    """Measure all and write it."""
    torch.set_num_threads(1)
    with torch.no_grad():
        found = {
            "machine": machine(),
            "order": ORDER,
            "windows": [windows(name) for name in WAYS],
            "silence": [silence(name) for name in steps()],
        }
    write_json(OUTPUT, found)
    sys.stdout.write(f"wrote {OUTPUT.name}\n")


if __name__ == "__main__":
    main()
