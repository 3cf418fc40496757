"""Graphs for export: a layer's arithmetic alone, in few operations.

Their constants are formed in float64 and rounded once. They check nothing and have no branches, so
that exporters trace products and sums.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from lmu.interop._layers import Parts, take_apart
from lmu.interop._loops import Loop
from lmu.ops.memory.chunked import chunk_operator
from lmu.theory import apply_power, impulse_response

FORMS = ("step", "sequence")
OUTPUTS = ("y", "h_n", "m_n")
# Steps per chunk if only the last state is needed, without an operator to keep small.
_CHUNK = 128
_LARGEST = (
    1 << 16
)  # numbers in the operator of a chunk, beyond which chunks are as short as possible


class Graph(nn.Module):
    """Base: one step of a layer, see :class:`lmu.interop._layers.Parts` for the equations."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.parts = parts
        self.channels = parts.layer.memory_channels
        self.order = parts.layer.memory_size
        if parts.cell is not None:
            self.cell = parts.cell.to(parts.dtype)
        if isinstance(parts.encoder, nn.Module):
            self.encoder = parts.encoder.to(parts.dtype)
        if isinstance(parts.hidden, nn.Module):
            self.hidden = parts.hidden.to(parts.dtype)
        for name, value in parts.weights.items():
            self._keep(name, value)

    def _keep(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.to(self.parts.dtype).contiguous())

    def _plus(self, total: Tensor, signal: Tensor, name: str) -> Tensor:
        """Return ``total + signal @ weight`` if there is such a weight, else ``total``."""
        return total + signal @ self.get_buffer(name) if name in self._buffers else total

    def _biased(self, total: Tensor, name: str) -> Tensor:
        return total + self.get_buffer(name) if name in self._buffers else total

    def inputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the shares of x in u and in the hidden units, at any number of steps at once."""
        u = x if "e_x" not in self._buffers else x @ self.get_buffer("e_x")
        h = x if self.parts.hidden is None else x @ self.get_buffer("W_x")
        return self._biased(u, "b_u"), self._biased(h, "b_h")

    def encode(self, u: Tensor) -> Tensor:
        """Apply the encoder's activation f."""
        return u if self.parts.encoder is None else self.parts.encoder(u)

    def advance(self, u: Tensor, h_x: Tensor, h: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """Advance ``h`` and ``m`` one step, from the shares of x in u and in the hidden units."""
        for signal, name in ((h, "e_h"), (m, "e_m")):
            u = self._plus(u, signal, name)
        m = self.remember(self.encode(u), m)
        return self.read(h_x, h, m), m

    def remember(self, u: Tensor, m: Tensor) -> Tensor:
        """Return ``m + m E + u B``, channel by channel; u (batch, channels), m (batch, order)."""
        E, B = self.get_buffer("E"), self.get_buffer("B")
        if self.channels == 1 and E.ndim == 2:
            return m + m @ E + u * B
        m = m.unflatten(1, (self.channels, self.order))
        return (m + times(m, E) + u.unsqueeze(2) * B).flatten(1)

    def read(self, h_x: Tensor, h: Tensor, m: Tensor) -> Tensor:
        """Compute the hidden units, from the share of x, the new memory and the last state."""
        if self.parts.hidden is None:
            return self._read_cell(h_x, h, m)
        for signal, name in ((h, "W_h"), (m, "W_m")):
            h_x = self._plus(h_x, signal, name)
        return self.parts.hidden(h_x)

    def _read_cell(self, x: Tensor, h: Tensor, m: Tensor) -> Tensor:
        # A copy: tensors of a loop's state must not alias, and a cell may return its input.
        z = torch.cat([m, x], dim=1) if self.parts.joins_input else m.clone()
        if self.parts.cell is None:
            return z
        return self.cell(z, h) if self.parts.recurrent else self.cell(z)

    def answer(self, h: Tensor) -> Tensor:
        """Compute the output: logits, or the hidden units themselves."""
        if "W_y" not in self._buffers:
            return h.clone()  # a graph's outputs must not alias
        return self._biased(h @ self.get_buffer("W_y"), "b_y")


class StepGraph(Graph):
    """One step of a stream, (x, h, m) -> (y, h_n, m_n)."""

    def forward(self, x: Tensor, h: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Shapes: x (batch, input), h (batch, hidden), m (batch, channels * order)."""
        h, m = self.advance(*self.inputs(x), h, m)
        return self.answer(h), h, m


class RecurrentGraph(Graph):
    """A whole sequence step by step, x -> (y, h_n, m_n), from an empty memory."""

    def __init__(self, parts: Parts, loop: Loop) -> None:
        super().__init__(parts)
        self.loop = loop

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Shapes: x (batch, time, input); y (batch, time, hidden) or logits."""
        u, h_x = (t.transpose(0, 1).contiguous() for t in self.inputs(x))
        h = x.new_zeros(x.shape[0], self.parts.layer.hidden_size)
        m = x.new_zeros(x.shape[0], self.channels * self.order)

        def step(state: tuple[Tensor, ...], slices: tuple[Tensor, ...]) -> Any:
            h, m = self.advance(*slices, *state)
            return (h, m), h

        (h, m), y = self.loop(step, (h, m), (u, h_x), not self.parts.last_only)
        return self.answer(h) if y is None else y.transpose(0, 1), h, m


class ChunkGraph(Graph):
    """A whole sequence of a layer whose memory is linear, in chunks of time, from an empty memory.

    Zeros before the input fill the first chunk: they leave an empty memory empty, so that any
    length is exact, and the last chunk ends where the input does.

    With chunks of L steps, ``m_{j+1} = Ad^L m_j + sum_k H[:, k] u_{jL+L-1-k}``, and the read-out of
    a chunk is one product of ``[u; m_j]`` with :func:`lmu.ops.memory.chunked.chunk_operator`.
    """

    def __init__(self, parts: Parts, loop: Loop) -> None:
        super().__init__(parts)
        self.loop = loop
        n, c, d = parts.layer.hidden_size, self.channels, self.order
        self.steps = L = _CHUNK if parts.last_only else _chunk_length(c, d, n)
        E, B = parts.weights["E"], parts.weights["B"]
        eye = torch.eye(d, dtype=E.dtype)
        each = zip(E.reshape(-1, d, d), B.reshape(-1, d), strict=True)
        systems = [(e.mT + eye, b) for e, b in each]
        power = torch.stack([apply_power(Ad, eye, L).mT for Ad, _ in systems])
        arriving = torch.stack([impulse_response(Ad, Bd, L).flip(1).mT for Ad, Bd in systems])
        self._keep("power", power.reshape(*E.shape[:-2], d, d))
        self._keep("arriving", arriving.reshape(*E.shape[:-2], L, d))
        del self.E, self.B
        if not parts.last_only:
            W_m = parts.weights["W_m"].unflatten(0, (c, d))
            every = zip(systems if E.ndim == 3 else systems * c, W_m, strict=True)
            responses = [chunk_operator(Ad, Bd, W.mT, L) for (Ad, Bd), W in every]
            self._keep("responses", torch.cat(responses))
            del self.W_m

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Shapes: x (batch, time, input); y (batch, time, hidden), (batch, hidden) or logits."""
        u_x, h_x = self.inputs(x)
        batch, length, L = x.shape[0], x.shape[1], self.steps
        # One more than needed: torch.export refuses a number that may be 1 or more.
        chunks = (length + 2 * L - 1) // L
        missing = chunks * L - length
        u = pad(self.encode(u_x), (0, 0, missing, 0))
        u = u.reshape(batch, chunks, L, self.channels).transpose(2, 3)
        arriving = times(u, self.get_buffer("arriving")).movedim(1, 0).contiguous()
        power = self.get_buffer("power")

        def step(state: tuple[Tensor, ...], slices: tuple[Tensor, ...]) -> Any:
            return (times(state[0], power) + slices[0],), state[0]

        m = x.new_zeros(batch, self.channels, self.order)
        (m,), before = self.loop(step, (m,), (arriving,), not self.parts.last_only)
        if before is None:
            h = self.read(h_x[:, -1], h_x, m.flatten(1))
            return self.answer(h), h, m.flatten(1)
        z = torch.cat([u, before.movedim(0, 1)], dim=3).flatten(2) @ self.get_buffer("responses")
        z = z.reshape(batch, chunks * L, -1)[:, missing:]
        assert self.parts.hidden is not None
        y = self.parts.hidden(z + h_x)
        return y, y[:, -1], m.flatten(1)


def _chunk_length(channels: int, order: int, rows: int) -> int:
    """Choose the steps per chunk: 16 to 64, while the operator adds little to the file."""
    steps = 16
    while steps < 64 and channels * (2 * steps + order) * 2 * steps * rows <= _LARGEST:
        steps *= 2
    return steps


def times(signal: Tensor, matrix: Tensor) -> Tensor:
    """Multiply (..., channels, i) by (i, o), or by (channels, i, o), a matrix for each channel."""
    if matrix.ndim == 2:
        return signal @ matrix
    return (signal.unsqueeze(-2) @ matrix).squeeze(-2)


def build_graph(model: nn.Module, form: str, loop: Loop) -> Graph:
    """Build the graph of a model's step, or of a whole sequence.

    Raises:
        TypeError: The model is of a kind that cannot be exported.
        ValueError: The form is unknown, or the layer's hidden cell cannot be exported.
    """
    if form not in FORMS:
        raise ValueError(f"form must be 'step' or 'sequence', got {form!r}")
    parts = take_apart(model)
    if form == "step":
        return StepGraph(parts).eval()
    graph = ChunkGraph if parts.is_linear else RecurrentGraph
    return graph(parts, loop).eval()
