"""Measure long windows and silence, for docs/numerics.md: ``python -m benchmarks.long_windows``.

Errors of the memory after a constant over two windows, against its closed form, for every
algorithm; and microseconds a step in a signal and in the silence after it. One thread.
"""

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.baselines import TextbookLMUFFT
from benchmarks.machine import machine
from benchmarks.measure import relative_error, take_turns
from lmu import LMU, LMUFFT, Stream
from lmu._files import write_json
from lmu.theory import discretize, legt

OUTPUT = Path(__file__).parent.parent / "results" / "long_windows.json"
ORDER, HIDDEN = 16, 4
THETAS = (1_000, 10_000, 100_000, 1_000_000)
PIECES = 100
SILENCE, ROUNDS = 2_000, 15
State = Any


def exact(theta: float, steps: int) -> Tensor:
    """Compute the memory after ``steps`` inputs of 1, the sum of a geometric series."""
    Ad, Bd = discretize(*legt(ORDER, theta))
    identity = torch.eye(ORDER, dtype=torch.float64)
    power = torch.linalg.matrix_power(Ad, steps)
    return torch.linalg.solve(identity - Ad, (identity - power) @ Bd)


def parallel(theta: float, **kwargs: Any) -> LMUFFT:
    """Build a layer with a linear memory of the input itself."""
    return LMUFFT(1, HIDDEN, ORDER, theta=theta, encode_input=False, **kwargs)


def recurrent(theta: float, **kwargs: Any) -> LMU:
    """Build an LMU with the same memory, whose feedback is zero."""
    layer = LMU(1, HIDDEN, ORDER, theta, encode_input=False, **kwargs)
    for encoder in (layer.e_h, layer.e_m):
        if encoder is not None:
            nn.init.zeros_(encoder)
    return layer


def whole(layer: Any, x: Tensor, state: State = None) -> State:
    """Return the state after a sequence."""
    kwargs = {"return_state": True} if isinstance(layer, LMUFFT) else {}
    return layer(x, state, **kwargs)[1]


def in_pieces(layer: Any, x: Tensor, dtype: torch.dtype) -> State:
    """Return the state after a sequence, in pieces."""
    state: State = (torch.zeros(1, HIDDEN), torch.zeros(1, ORDER, dtype=dtype))
    for piece in x.chunk(PIECES, dim=1):
        state = whole(layer, piece, state)
    return state


def streamed(layer: Any, x: Tensor) -> State:
    """Return the state after a sequence, by a stream."""
    stream = Stream(layer)
    for x_t in x.unbind(1):
        stream(x_t)
    return stream.state


def stepped(layer: Any, x: Tensor, dtype: torch.dtype) -> State:
    """Return the state after a sequence, by ``layer.step`` with a memory of ``dtype``."""
    state: State = (torch.zeros(1, HIDDEN), torch.zeros(1, ORDER, dtype=dtype))
    for x_t in x.unbind(1):
        state = layer.step(x_t, state)[1]
    return state


ALGORITHMS: dict[str, tuple[Callable[[float, Tensor], State], int]] = {
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
    """Measure the relative error of an algorithm for each window; None if it takes too long."""
    run, longest = ALGORITHMS[name]
    errors = {}
    for theta in THETAS:
        if theta > longest:
            errors[str(theta)] = None
            continue
        m = run(float(theta), torch.ones(1, 2 * theta, 1))[1].flatten()
        errors[str(theta)] = relative_error(m, exact(float(theta), 2 * theta))
    sys.stdout.write(f"{name}: {errors}\n")
    return {"way": name, "errors": errors}


class Stepper:
    """Wraps ``layer.step`` and keeps the state."""

    def __init__(self, layer: Any, state: State = None) -> None:
        self.layer, self.state = layer, state

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Advance one step."""
        y, self.state = self.layer.step(x, self.state)
        return y


def quiet(layer: Any) -> Any:
    """Make a layer's output decay without input: no bias, and a decaying hidden state."""
    if isinstance(layer, LMU):
        with torch.no_grad():
            for weight in (layer.W_h, layer.e_h):
                assert weight is not None
                weight.mul_(0.3)
    else:
        nn.init.zeros_(layer.W_u.bias)
    return layer


def steps() -> dict[str, Callable[[], Callable[[Tensor], Tensor]]]:
    """Return functions that build a step, by name."""

    def fft(kind: Any = LMUFFT) -> Any:
        return quiet(kind(1, 64, 256, 200, 200.0))

    def lmu() -> Any:
        return quiet(LMU(1, 212, 256, 200))

    return {
        "the equations as they stand": lambda: Stepper(fft(TextbookLMUFFT), torch.zeros(1, 256)),
        "`Stream(LMUFFT)`": lambda: Stream(fft()),
        "`LMUFFT.step`": lambda: Stepper(fft()),
        "`Stream(LMU)`": lambda: Stream(lmu()),
        "`LMU.step`": lambda: Stepper(lmu()),
    }  # fmt: skip


def silence(name: str) -> dict[str, Any]:
    """Measure microseconds a step in a signal and in silence, in turns."""
    build = steps()[name]
    torch.manual_seed(0)
    loud, still = build(), build()
    signal, zero = torch.randn(1, 1), torch.zeros(1, 1)
    for step in (loud, still):
        for _ in range(300):
            step(signal)
    for _ in range(SILENCE):
        still(zero)

    times = take_turns({"signal": lambda: loud(signal), "silence": lambda: still(zero)}, ROUNDS)
    in_signal, in_silence = (statistics.median(t) * 1e6 for t in times.values())
    ratio = statistics.median(b / a for a, b in zip(*times.values(), strict=True))
    row = {"way": name, "signal_us": in_signal, "silence_us": in_silence, "ratio": ratio}
    sys.stdout.write(f"{row}\n")
    return row


def main() -> None:
    """Measure everything and write the results."""
    torch.set_num_threads(1)
    with torch.no_grad():
        result = {
            "machine": machine(),
            "order": ORDER,
            "windows": [windows(name) for name in ALGORITHMS],
            "silence": [silence(name) for name in steps()],
        }
    write_json(OUTPUT, result)
    sys.stdout.write(f"wrote {OUTPUT.name}\n")


if __name__ == "__main__":
    main()
