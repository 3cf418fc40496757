"""What every method must get right: inputs, the float64 answer on the CPU, and gradients."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from lmu import LMU
from lmu.ops import LMU_METHODS, MEMORY_METHODS, READOUT_METHODS, final_memory, memory, readout
from lmu.theory import discretize, legt

F64 = torch.float64
Arguments = dict[str, Tensor]
Run = Callable[[Arguments], list[Tensor]]
KINK = 1e-2  # gradients are zero where a relu's argument is closer to its kink, in their rms


@dataclass(frozen=True)
class Size:
    """Of a problem; ``theta`` in steps, ``hidden`` units and ``features`` of the input."""

    batch: int
    length: int
    channels: int
    order: int
    theta: float
    hidden: int = 20
    features: int = 1

    def __str__(self) -> str:
        return (
            f"batch {self.batch}, T {self.length}, channels {self.channels}, order {self.order}, "
            f"hidden {self.hidden}"
        )


@dataclass(frozen=True)
class Problem:
    """A function of named tensors that several methods compute.

    Attributes:
        methods: Their names.
        inputs: Arguments in float64 on the CPU, of which all are differentiated.
        wide: Names of arguments that stay in float64.
        prepare: ``(method, device) -> run``; a compiler can be given ``run(arguments) -> outputs``.
        exact: ``(method, arguments) -> outputs`` by steps, in float64.
        variant: ``method -> key``; methods of one key have one answer.
        masked: Whether gradients spare the relu's kink.
    """

    methods: tuple[str, ...]
    inputs: Arguments
    wide: frozenset[str]
    prepare: Callable[[str, torch.device], Run]
    exact: Callable[..., list[Tensor]]
    variant: Callable[[str], object] = lambda method: None
    masked: bool = False

    def answer(self, method: str) -> "Answer":
        """What a method should get."""
        leaves = {key: t.clone().requires_grad_() for key, t in self.inputs.items()}
        outputs = self.exact(method, leaves)
        g = torch.Generator().manual_seed(1)
        given = [torch.randn(y.shape, dtype=F64, generator=g).float().double() for y in outputs]
        if self.masked:
            z = outputs.pop(0).detach()
            given = given[1:]
            given[0] *= z.abs() > KINK * z.square().mean().sqrt()
        grads = torch.autograd.grad(
            outputs, list(leaves.values()), given, allow_unused=True, materialize_grads=True
        )
        # Where there is no influence, or one long forgotten, a relative error means nothing.
        least = 1e-6 * max(g.norm() for g in given)
        found = {key: grad for key, grad in zip(leaves, grads, strict=True) if grad.norm() > least}
        return Answer([y.detach() for y in outputs], given, found)

    def attempt(
        self, run: Run, answer: "Answer", device: torch.device, forward: AbstractContextManager
    ) -> list[Tensor]:
        """What a method gets in float32 on a device, to compare with all of the answer.

        ``forward`` is the context of the forward pass: autocast is not for backward.
        """
        leaves = {
            key: t.to(device, F64 if key in self.wide else torch.float32, copy=True)
            for key, t in self.inputs.items()
        }
        for leaf in leaves.values():
            leaf.requires_grad_()
        with forward:
            outputs = run(leaves)
        given = [g.to(y) for g, y in zip(answer.given, outputs, strict=True)]
        grads = torch.autograd.grad(outputs, [leaves[key] for key in answer.gradients], given)
        return [*(y.detach() for y in outputs), *grads]


@dataclass(frozen=True)
class Answer:
    """Outputs, the gradients that they are given, and those of the arguments that matter."""

    outputs: list[Tensor]
    given: list[Tensor]
    gradients: Arguments

    @property
    def all(self) -> list[Tensor]:
        """Outputs and gradients, in the order of :meth:`Problem.attempt`."""
        return [*self.outputs, *self.gradients.values()]


def _draw(size: Size, **shapes: tuple[int, ...]) -> Arguments:
    """Normal numbers that float32 holds exactly."""
    g = torch.Generator().manual_seed(size.length)
    return {
        key: torch.randn(shape, dtype=F64, generator=g).float().double()
        for key, shape in shapes.items()
    }


def memory_problem(size: Size) -> Problem:
    """All states and the last one, or the last one alone."""
    b, T, c, d = size.batch, size.length, size.channels, size.order
    Ad, Bd = discretize(*legt(d, size.theta))
    inputs = {**_draw(size, u=(b, T, c), m_0=(b, c, d)), "Ad": Ad, "Bd": Bd}

    def prepare(method: str, device: torch.device) -> Run:
        def everything(a: Arguments) -> list[Tensor]:
            return list(memory(a["u"], a["Ad"], a["Bd"], a["m_0"], method=method))

        def last(a: Arguments) -> list[Tensor]:
            return [final_memory(a["u"], a["Ad"], a["Bd"], a["m_0"], method=method)]

        return everything if MEMORY_METHODS[method].all_states else last

    def exact(method: str, a: Arguments) -> list[Tensor]:
        states = stepped(a["u"], a["Ad"], a["Bd"], a["m_0"])
        last = states[:, -1]
        return [states, last] if MEMORY_METHODS[method].all_states else [last]

    wide = frozenset({"Ad", "Bd"})
    return Problem(
        tuple(MEMORY_METHODS),
        inputs,
        wide,
        prepare,
        exact,
        lambda method: MEMORY_METHODS[method].all_states,
    )


def stepped(u: Tensor, Ad: Tensor, Bd: Tensor, m: Tensor) -> Tensor:
    """All states, by the equation, a step at a time."""
    states = []
    for u_t in u.unbind(1):
        m = m @ Ad.mT + u_t[..., None] * Bd
        states.append(m)
    return torch.stack(states, dim=1)


def readout_problem(size: Size, initial: bool = True) -> Problem:
    """Hidden units of all steps and the last state, from a state or from zero."""
    b, T, c, d, n, k = (
        size.batch, size.length, size.channels, size.order, size.hidden, size.features
    )  # fmt: skip
    Ad, Bd = discretize(*legt(d, size.theta))
    drawn = _draw(
        size, u=(b, T, c), x=(b, T, k), W_m=(n, c * d), W_x=(n, k), bias=(n,), m_0=(b, c, d)
    )
    drawn["W_m"] /= 2 ** round((c * d) ** 0.5).bit_length()  # a power of two rounds nothing
    if not initial:
        del drawn["m_0"]
    names = ("u", "x", "Ad", "Bd", "W_m", "W_x", "bias")

    def prepare(method: str, device: torch.device) -> Run:
        return lambda a: list(
            readout(*[a[name] for name in names], m_0=a.get("m_0"), method=method)
        )

    def exact(method: str, a: Arguments) -> list[Tensor]:
        del method
        m_0 = a["m_0"] if initial else a["u"].new_zeros(b, c, d)
        m = stepped(a["u"], a["Ad"], a["Bd"], m_0)
        z = m.flatten(2) @ a["W_m"].mT + a["x"] @ a["W_x"].mT + a["bias"]
        return [z, torch.relu(z), m[:, -1]]

    inputs = {**drawn, "Ad": Ad, "Bd": Bd}
    wide = frozenset({"Ad", "Bd"})
    return Problem(tuple(READOUT_METHODS), inputs, wide, prepare, exact, masked=True)


def lmu_problem(size: Size) -> Problem:
    """Hidden states of the nonlinear layer and its last state."""
    b, n, d = size.batch, size.hidden, size.order
    sizes = (size.features, n, d, size.theta)
    torch.manual_seed(0)
    weights = {key: p.detach().double() for key, p in LMU(*sizes).named_parameters()}
    weights["e_m"] = _draw(size, e_m=(1, d))["e_m"] / 64
    drawn = _draw(size, x=(b, size.length, size.features), h=(b, n), m=(b, d))
    drawn |= {"h": drawn["h"] / 8, "m": drawn["m"] / 8}
    Ad, Bd = discretize(*legt(d, size.theta))

    def fed_back(method: str) -> bool:
        return method != "parallel"

    def prepare(method: str, device: torch.device) -> Run:
        layer = LMU(*sizes, method=method, hidden_to_memory=fed_back(method)).to(device)
        names = [key for key in weights if key != "e_h" or fed_back(method)]

        def run(a: Arguments) -> list[Tensor]:
            own = {key: a[key] for key in names}
            y, (h, m) = torch.func.functional_call(layer, own, (a["x"], (a["h"], a["m"])))
            return [y, h, m]

        return run

    def exact(method: str, a: Arguments) -> list[Tensor]:
        h, m, outputs = a["h"], a["m"], []
        e_h = a["e_h"] * fed_back(method)
        for x in a["x"].unbind(1):
            u = x @ a["e_x"].mT + h @ e_h.mT + m @ a["e_m"].mT
            m = m @ Ad.mT + u * Bd
            h = torch.tanh(x @ a["W_x"].mT + h @ a["W_h"].mT + m @ a["W_m"].mT)
            outputs.append(h)
        return [torch.stack(outputs, dim=1), h, m]

    return Problem(tuple(LMU_METHODS), {**drawn, **weights}, frozenset(), prepare, exact, fed_back)
