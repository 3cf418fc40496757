"""The layers' equations in float64, one step after another: written from the papers.

Nothing here comes from ``lmu.ops`` or a layer's code. Parameters are those of a *twin*, a copy of
the layer in float64, of which nothing but the parameters and PyTorch's own modules are used. A
layer is described by the plain data of :mod:`tests.fuzz.configurations`.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lmu.theory import least_theta

F64 = torch.float64


def legendre_system(order: int, theta: Tensor) -> tuple[Tensor, Tensor]:
    """``A`` and ``B`` of Voelker et al. (2019), equations 1 and 2."""
    sign = [(-1) ** i for i in range(order)]
    A = [
        [(2 * i + 1) * (-1 if i < j else -sign[i] * sign[j]) for j in range(order)]
        for i in range(order)
    ]
    B = [(2 * i + 1) * sign[i] for i in range(order)]
    return torch.tensor(A, dtype=F64) / theta, torch.tensor(B, dtype=F64) / theta


def discrete(order: int, theta: Tensor, method: str) -> tuple[Tensor, Tensor]:
    """One step of that system by the rule of each name."""
    return step_of(*legendre_system(order, theta), method)


def step_of(A: Tensor, B: Tensor, method: str) -> tuple[Tensor, Tensor]:
    """One step of a continuous system."""
    order = len(A)
    one = torch.eye(order, dtype=F64)
    if method.startswith("euler"):
        return one + A, B
    if method == "bilinear":
        left = torch.linalg.inv(one - A / 2)
        return left @ (one + A / 2), left @ B
    block = torch.cat([torch.cat([A, B[:, None]], 1), torch.zeros(1, order + 1, dtype=F64)])
    exact = torch.linalg.matrix_exp(block)
    return exact[:order, :order], exact[:order, order]


def fourier_system(order: int, theta: float) -> tuple[Tensor, Tensor]:
    """``A`` and ``B`` of Gu et al. (2023), FouT: a constant, and pairs of cosine and sine."""
    g = torch.tensor([1.0] + [math.sqrt(2), 0.0] * (order // 2), dtype=F64)
    A = -2 * torch.outer(g, g)
    for k in range(1, order // 2 + 1):
        A[2 * k - 1, 2 * k] -= 2 * math.pi * k
        A[2 * k, 2 * k - 1] += 2 * math.pi * k
    return A / theta, 2 * g / theta


def rotations(order: int, channels: int) -> tuple[Tensor, Tensor]:
    """A discrete system of damped rotations, other ones in each channel."""
    Ad = torch.zeros(channels, order, order, dtype=F64)
    for c in range(channels):
        for i in range(0, order - 1, 2):
            angle, damping = 0.3 * (i + 1) + 0.1 * c, 0.9 - 0.05 * c
            turn = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
            Ad[c, i : i + 2, i : i + 2] = damping * torch.tensor(turn, dtype=F64)
        Ad[c, -1, -1] += 0.5 * (order % 2)
    return Ad, torch.linspace(-1, 1, channels * order, dtype=F64).view(channels, order)


def system_of(conf: dict[str, Any]) -> Any:
    """The argument ``system`` of a layer, by its name if it has one; None is Legendre's."""
    name, d = conf.get("system"), conf["memory_size"]
    if name == "fourier":
        return fourier_system(d, conf["theta"])
    return rotations(d, conf["memory_channels"]) if name == "discrete" else name


def matrices(conf: dict[str, Any], thetas: Tensor) -> tuple[Tensor, Tensor]:
    """``Ad`` (order, order) and ``Bd`` (order,), or of each channel."""
    if conf.get("system") is not None:
        A, B, *_ = system_of(conf)
        return (A, B) if conf["discretizer"] is None else step_of(A, B, conf["discretizer"])
    systems = [discrete(conf["memory_size"], theta, conf["discretizer"]) for theta in thetas]
    Ad, Bd = (torch.stack(parts) for parts in zip(*systems, strict=True))
    return (Ad, Bd) if len(thetas) > 1 else (Ad[0], Bd[0])


def dynamics(conf: dict[str, Any], twin: nn.Module) -> tuple[Tensor, Tensor]:
    """``Ad`` (channels, order, order) and ``Bd`` (channels, order)."""
    d, c, method = conf["memory_size"], conf["memory_channels"], conf["discretizer"]
    given = {name.rpartition(".")[2]: p for name, p in twin.named_parameters()}
    if conf["learn_theta"]:
        thetas = least_theta(d, method) + given["log_theta"].exp()
    else:
        thetas = torch.tensor(conf["theta"], dtype=F64).reshape(-1)
    Ad, Bd = matrices(conf, thetas)
    Ad = given.get("Ad", Ad)
    Bd = given.get("Bd", Bd)
    return Ad.expand(c, d, d), Bd.expand(c, d)


def gelu(z: Tensor) -> Tensor:
    return z * (1 + torch.erf(z / math.sqrt(2))) / 2


def silu_above_zero(z: Tensor) -> Tensor:
    return z / (1 + torch.exp(-z)) + 0.25


ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda z: z,
    "identity": lambda z: z,
    "tanh": torch.tanh,
    "sigmoid": lambda z: 1 / (1 + torch.exp(-z)),
    "gelu": gelu,
    "shifted": silu_above_zero,
}


class Margin:
    """How near to its kink any relu was, relative to the largest value that it saw."""

    def __init__(self) -> None:
        self.least, self.largest = math.inf, 0.0

    def __call__(self, z: Tensor, alive: Tensor) -> Tensor:
        seen = z.detach().abs()[alive.expand_as(z)]
        if seen.numel():
            self.least = min(self.least, seen.min().item())
            self.largest = max(self.largest, seen.max().item())
        return torch.relu(z)


class Equations:
    """A layer of any kind over a padded batch; ``margin`` collects what its relus saw."""

    def __init__(self) -> None:
        self.margin = Margin()
        self.memory = 0.0  # the largest number that a memory held

    def run(
        self, conf: dict[str, Any], twin: Any, x: Tensor, state: Any, lengths: Tensor,
        resets: Tensor | None = None,
    ) -> tuple[Tensor, Any]:  # fmt: skip
        """Output, of all steps or of the last, and the state as the layer gives it."""
        kind = conf["kind"]
        if kind == "Bidirectional":
            return self._both_ways(conf, twin, x, state, lengths)
        if kind == "LMUStack":
            return self._stack(conf, twin, x, state, lengths)
        if kind == "LegendreMemory":
            state = None if state is None else (x.new_zeros(len(state), 1), state)
        y, after = self._steps(conf, twin, x, state, lengths, resets)
        if kind == "LegendreMemory":
            return y, after[1]
        last = after[0][0] if isinstance(after[0], tuple) else after[0]
        return (y if conf["return_sequences"] else last), after

    def _steps(
        self, conf: dict[str, Any], twin: Any, x: Tensor, state: Any, lengths: Tensor,
        resets: Tensor | None,
    ) -> tuple[Tensor, Any]:  # fmt: skip
        batch, time, _ = x.shape
        Ad, Bd = dynamics(conf, twin)
        c, d = Bd.shape
        h, m = self._start(conf, batch, state)
        m = m.unflatten(1, (c, d))
        outputs = []
        for t in range(time):
            alive = (t < lengths)[:, None]
            if resets is not None:
                anew = alive & resets[:, t, None]
                h = choose(anew, zeros(h), h)
                m = torch.where(anew[..., None], 0.0, m)
            x_t = torch.where(alive, x[:, t], 0.0)  # padding may be NaN
            u = self._input(conf, twin, x_t, h, m.flatten(1), alive)
            after = (Ad @ m[..., None]).squeeze(3) + Bd * u[..., None]
            y, h_after = self._hidden(conf, twin, after.flatten(1), x_t, h, alive)
            self.memory = max(self.memory, after.detach().abs().max().item() if batch else 0.0)
            h = choose(alive, h_after, h)
            m = torch.where(alive[..., None], after, m)
            outputs.append(torch.where(alive, y, 0.0))
        return torch.stack(outputs, 1), (h, m.flatten(1))

    def _start(self, conf: dict[str, Any], batch: int, state: Any) -> tuple[Any, Tensor]:
        n, size = conf["hidden_size"], conf["memory_channels"] * conf["memory_size"]
        if state is None:
            h = torch.zeros(batch, n, dtype=F64)
            h = (h, h) if conf.get("cell") == "lstm" else h
            return h, torch.zeros(batch, size, dtype=F64)
        grow = lambda s: s.expand(batch, -1)  # noqa: E731
        h, m = state
        return (tuple(map(grow, h)) if isinstance(h, tuple) else grow(h)), grow(m)

    def _input(
        self, conf: dict[str, Any], twin: Any, x: Tensor, h: Any, m: Tensor, alive: Tensor
    ) -> Tensor:
        """What goes into the memories (batch, channels)."""
        if conf["kind"] == "LegendreMemory":
            return x
        if conf["kind"] == "LMUFFT":
            u = x if twin.W_u is None else x @ twin.W_u.weight.T + twin.W_u.bias
        else:
            u = x if twin.e_x is None else x @ twin.e_x.T
            h = h[0] if isinstance(h, tuple) else h
            u = u if twin.b_u is None else u + twin.b_u
            u = u if twin.e_h is None else u + h @ twin.e_h.T
            u = u if twin.e_m is None else u + m @ twin.e_m.T
        return self.bend(conf["activation"], u, alive, twin.encoder_activation)

    def bend(self, name: str | None, z: Tensor, alive: Tensor, module: Any) -> Tensor:
        """An activation by its name; of ``"prelu"`` the module has the slope."""
        if name == "relu":
            return self.margin(z, alive)
        if name == "prelu":
            self.margin(z, alive)
            return torch.where(z > 0, z, module.weight * z)
        return ACTIVATIONS[name](z)

    def _hidden(
        self, conf: dict[str, Any], twin: Any, m: Tensor, x: Tensor, h: Any, alive: Tensor
    ) -> tuple[Tensor, Any]:
        """Output and hidden state of one step."""
        if conf["kind"] == "LegendreMemory":
            return m, h
        z = torch.cat([m, x], 1) if conf["input_to_hidden"] else m
        bend = conf.get("hidden_activation"), twin.hidden_activation
        if conf["kind"] == "LMUFFT":
            y = self.bend(bend[0], z @ twin.W_h.weight.T + twin.W_h.bias, alive, bend[1])
            return y, y
        cell = conf["cell"]
        if cell == "own":
            y = h @ twin.W_h.T + m @ twin.W_m.T
            y = y if twin.W_x is None else y + x @ twin.W_x.T
            y = self.bend(bend[0], y if twin.b_h is None else y + twin.b_h, alive, bend[1])
            return y, y
        if cell is None:
            return z, z
        if cell in {"linear", "linear without bias", "sequential"}:
            y = twin.hidden_cell(z)
            return y, y
        after = twin.hidden_cell(z, h)
        return (after[0] if cell == "lstm" else after), after

    def _both_ways(
        self, conf: dict[str, Any], twin: Any, x: Tensor, state: Any, lengths: Tensor
    ) -> tuple[Tensor, Any]:
        before = (None, None) if state is None else state[1]
        ahead, end = self.run(conf["layers"][0], twin.forward_layer, x, before[0], lengths)
        turned = backwards(x, lengths)
        back, start = self.run(conf["layers"][1], twin.backward_layer, turned, before[1], lengths)
        back = backwards(back, lengths) if back.ndim == 3 else back
        last = torch.cat([hidden(end), hidden(start)], 1)
        return torch.cat([ahead, back], -1), (last, (end, start))

    def _stack(
        self, conf: dict[str, Any], twin: Any, x: Tensor, state: Any, lengths: Tensor
    ) -> tuple[Tensor, Any]:
        before = [None] * len(conf["layers"]) if state is None else state[1]
        ended, index = [], (lengths - 1).clamp(min=0)
        rows = torch.arange(len(x))
        inside = (torch.arange(x.shape[1]) < lengths[:, None])[..., None]
        y = torch.where(inside, x, 0.0)
        for i, part in enumerate(conf["layers"]):
            given, after = self.run(part, twin.layers[i], twin.norms[i](y), before[i], lengths)
            ended.append(after)
            y = y[rows, index] if given.ndim == 2 else y
            y = twin.skips[i](y) + given if conf["residual"] else given
        y = twin.last_norm(y)
        first = 0.0 if state is None or state[0] is None else state[0]
        last = y if y.ndim == 2 else torch.where(inside, y, 0.0)[rows, index]
        last = torch.where(lengths[:, None] > 0, last, first)
        y = last if y.ndim == 2 else torch.where(inside, y, 0.0)
        return y, (last, tuple(ended))


def hidden(state: Any) -> Tensor:
    """The first tensor of a state."""
    return hidden(state[0]) if isinstance(state, tuple) else state


def zeros(h: Any) -> Any:
    """As many zeros as there are numbers in a hidden state."""
    return tuple(map(zeros, h)) if isinstance(h, tuple) else torch.zeros_like(h)


def choose(where: Tensor, new: Any, old: Any) -> Any:
    """Rows of one hidden state or of another."""
    if isinstance(new, tuple):
        return tuple(choose(where, a, b) for a, b in zip(new, old, strict=True))
    return torch.where(where, new, old)


def backwards(x: Tensor, lengths: Tensor) -> Tensor:
    """Each sequence from its end to its start; padding stays where it is."""
    turned = [
        torch.cat([row[: int(n)].flip(0), row[int(n) :]]) for row, n in zip(x, lengths, strict=True)
    ]
    return torch.stack(turned) if turned else x
