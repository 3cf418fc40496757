"""One configuration: the layer, and its equations in float64, over the same random input."""

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import tree_leaves
from torch.utils._pytree import tree_map as map_leaves

from lmu import Stream
from lmu.models import SequenceClassifier
from lmu.ops import final_memory, memory
from lmu.theory import impulse_response
from tests.fuzz.configurations import Conf, activation, build, draw, holds, randomize, signal
from tests.fuzz.equations import F64, Equations, hidden, matrices
from tests.variants import step

TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
ROUNDING = {"float32": 6e-8, "float64": 1.1e-16}
# What a rounding of the arguments may do to the equations themselves, times this, is no fault.
AMPLIFIED = 100.0
REFUSED = ("cannot go on from a state, or with an activation that is not zero at zero",)


@dataclass
class Outcome:
    """What came of a configuration; ``what`` is exact, refused, sensitive or WRONG."""

    what: str
    error: float = 0.0
    gradient: float | None = None
    detail: str = ""


class Trial:
    """A layer, its twin in float64, and what both are called with."""

    def __init__(self, case: Conf) -> None:
        self.conf, self.call = case["layer"], case["call"]
        self.dtype = getattr(torch, self.call["dtype"])
        self.g = torch.Generator().manual_seed(case["seed"] * 1_000_003 + case["number"])
        self.inner = self.conf.get("layer", self.conf)
        self.layer = build(self.conf, self.dtype)
        randomize(self.layer, self.g)
        plain = not self._drops(self.conf)
        self.layer.train(self.call["training"] and plain)
        self.twin = copy.deepcopy(self.layer).double()
        x = signal(self.call, self.inner["input_size"], self.dtype, self.g)
        self.batch, time = x.shape[:2]
        lengths = self.call["lengths"]
        self.lengths = torch.tensor(lengths or [time] * self.batch, dtype=torch.long)
        if lengths is not None and self.batch:
            outside = (torch.arange(time) >= self.lengths[:, None])[..., None]
            x = torch.where(outside, torch.nan, x)
        self.x = x
        resets = self.call["resets"]
        self.resets = (
            None
            if resets is None
            else torch.tensor(resets, dtype=torch.bool).view(self.batch, time)
        )
        self.state = self._state()
        if self.conf["kind"] == "LegendreMemory":
            size = self.conf["rows"], self.conf["hidden_size"]
            W, b = (torch.randn(n, generator=self.g, dtype=F64) for n in (size, size[:1]))
            # What float32 holds, for both.
            self.weights = (W / size[1] ** 0.5).to(self.dtype).double(), b.to(self.dtype).double()
            self.read = activation(self.conf["activation"], self.dtype)

    def _drops(self, conf: Conf) -> bool:
        parts = conf.get("layers", []) + ([conf["layer"]] if "layer" in conf else [])
        own = conf.get("dropout") or conf.get("recurrent_dropout") or conf["kind"] == "LMUStack"
        return bool(own) or any(map(self._drops, parts))

    def _state(self) -> Any:
        """A state other than zero, of each sequence or of one that is meant for all."""
        if self.call["state"] is None or not self.batch:
            return None
        batch = 1 if self.call["state"] == "one" else self.batch
        if "layers" in self.conf:
            x = torch.randn(batch, 3, self.inner["input_size"], generator=self.g, dtype=F64)
            with torch.no_grad():
                return self.layer(x.to(self.dtype))[1]
        make = lambda n: torch.randn(batch, n, generator=self.g, dtype=F64).to(self.dtype)  # noqa: E731
        n, size = self.conf["hidden_size"], self.conf["memory_channels"] * self.conf["memory_size"]
        if self.conf["kind"] == "LegendreMemory":
            return make(size)
        h = (make(n), make(n)) if self.conf.get("cell") == "lstm" else make(n)
        return h, make(size)

    # The layer.

    def ours(self, x: Tensor, state: Any) -> Any:
        """Output and state by the layer, called in the way that was drawn."""
        way = self.call["way"]
        given = self._given()
        if isinstance(self.layer, SequenceClassifier):
            x = self._pack(x) if way == "packed" else x
            return (self.layer(x, **({} if way == "packed" else given)),)
        whole = {"return_state": True} if self.conf["kind"] == "LMUFFT" else {}
        if way == "packed":
            y, after = self.layer(self._pack(x), state, **whole)
            y = y if isinstance(y, Tensor) else pad_packed_sequence(y, batch_first=True)[0]
            return y, after
        if way == "final":
            m = self.layer.final(x, state, self._given().get("lengths"))
            return m, m
        if way == "readout":
            W, b = (w.to(x.dtype) for w in self.weights)
            return self.layer.readout(x, W, state, bias=b, activation=self.read)
        if way == "record":
            found, after = self.layer.record(x, state)
            return (found.output if self.conf["return_sequences"] else hidden(after)), after
        if way == "whole":
            return self.layer(x, state, **given, **whole)
        return {"split": self._split, "steps": self._steps, "stream": self._stream}[way](x, state)

    def _given(self) -> dict[str, Any]:
        given: dict[str, Any] = {}
        if self.call["lengths"] is not None:
            given["lengths"] = self.lengths
        if self.resets is not None:
            given["resets"] = self.resets
        return given

    def _pack(self, x: Tensor) -> Any:
        return pack_padded_sequence(x, self.lengths, batch_first=True, enforce_sorted=False)

    def _split(self, x: Tensor, state: Any) -> Any:
        time = x.shape[1]
        cuts = torch.randint(1, time + 1, (3,), generator=self.g).tolist()
        cuts = sorted({0, time, *cuts})
        whole = {"return_state": True} if self.conf["kind"] == "LMUFFT" else {}
        outputs, y = [], None
        for start, stop in itertools.pairwise(cuts):
            given = self._given()
            if "lengths" in given:
                given["lengths"] = (self.lengths - start).clamp(0, stop - start)
            if "resets" in given:
                given["resets"] = given["resets"][:, start:stop]
            y, state = self.layer(x[:, start:stop], state, **given, **whole)
            outputs.append(y)
        return (torch.cat(outputs, 1) if self.conf["return_sequences"] else y), state

    def _steps(self, x: Tensor, state: Any) -> Any:
        outputs = []
        for x_t in x.unbind(1):
            if self.conf["kind"] == "LMUCell":
                state = self.layer(x_t, state)
                y = hidden(state)
            else:
                y, state = step(self.layer, x_t, state)
            outputs.append(y)
        return (torch.stack(outputs, 1) if self.conf["return_sequences"] else outputs[-1]), state

    def _stream(self, x: Tensor, state: Any) -> Any:
        stream = Stream(self.layer, self.batch)
        if state is not None:
            stream.state = state
        y = x.new_zeros(self.batch, x.shape[1], self.conf["hidden_size"])
        for t, x_t in enumerate(x.unbind(1)):
            alive = self.lengths > t
            if self.resets is not None and (anew := self.resets[:, t] & alive).any():
                stream.reset(anew)
            if alive.all():
                y[:, t] = stream(x_t)
            elif alive.any():
                y[alive, t] = stream(x_t[alive], streams=alive)
        after = stream.state
        return (y if self.conf["return_sequences"] else hidden(after)), after

    # The equations.

    def theirs(self, twin: Any, x: Tensor, state: Any) -> tuple[Any, Equations]:
        """The same by the equations."""
        equations = Equations()
        layer = twin.layer if self.inner is not self.conf else twin
        y, after = equations.run(self.inner, layer, x, state, self.lengths, self.resets)
        if self.call["way"] == "final":
            return (after, after), equations
        if self.call["way"] == "readout":
            W, b = self.weights
            inside = torch.ones(len(y), y.shape[1], 1, dtype=torch.bool)
            y = equations.bend(self.conf["activation"], y @ W.mT + b, inside, None)
            return (y, after), equations
        if self.inner is not self.conf:
            head = twin.classifier
            return (hidden(after) @ head.weight.T + head.bias,), equations
        return (y, after), equations

    def compared(self, found: Any) -> list[Tensor]:
        """The tensors that must agree."""
        y = found[0]
        if self.inner is not self.conf:
            return [y]
        state = found[1]
        return [y, *tensors_of(state)]


def tree_map(function: Callable[[Tensor], Tensor], state: Any) -> Any:
    """A function of each tensor of a state; None stays None."""
    return map_leaves(lambda s: None if s is None else function(s), state)


def tensors_of(state: Any) -> list[Tensor]:
    """All tensors of a state."""
    return [s for s in tree_leaves(state) if s is not None]


def largest_error(found: list[Tensor], right: list[Tensor], scales: list[float]) -> float:
    """The largest difference, relative to the largest value of each tensor."""
    worst = 0.0
    for a, b, scale in zip(found, right, scales, strict=True):
        if a.shape != b.shape:
            raise AssertionError(f"the shape {tuple(a.shape)} is not {tuple(b.shape)}")
        if not b.numel():
            continue
        difference = (a.double() - b).abs().max().item()
        bound = max(b.abs().max().item(), scale, 1e-30)
        worst = max(worst, difference / bound if difference == difference else math.inf)
    return worst


def gradients(outputs: list[Tensor], inputs: list[Tensor], seed: int) -> list[Tensor]:
    """Of a random linear function of the outputs, with respect to the inputs."""
    g = torch.Generator().manual_seed(seed)
    total = sum(
        (t * torch.randn(t.shape, generator=g, dtype=F64).to(t.dtype)).sum() for t in outputs
    )
    if not isinstance(total, Tensor) or not total.requires_grad:
        return [torch.zeros_like(t) for t in inputs]
    found = torch.autograd.grad(total, inputs, allow_unused=True)
    return [torch.zeros_like(t) if f is None else f for f, t in zip(found, inputs, strict=True)]


def ask_for_gradients(x: Tensor, state: Any) -> tuple[Tensor, Any]:
    """The same numbers, to be differentiated, in the same layout."""
    x = x.detach().requires_grad_()
    return x, tree_map(lambda s: s.detach().requires_grad_(), state)


def evaluate(trial: Trial, twin: Any, x: Tensor, state: Any, graph: bool) -> tuple[Any, ...]:
    """Tensors, their gradients, and what else the equations tell."""
    x, state = x.double(), tree_map(lambda s: s.double(), state)
    if graph:
        x, state = ask_for_gradients(x, state)
    with torch.set_grad_enabled(graph):
        found, equations = trial.theirs(twin, x, state)
        tensors = trial.compared(found)
    inputs = [x, *tensors_of(state), *twin.parameters()] if graph else []
    return tensors, gradients(tensors, inputs, 1) if graph else [], equations


def disturbed(trial: Trial) -> tuple[Any, Tensor, Any]:
    """The twin and its arguments, each number rounded at random as its precision does."""
    size = ROUNDING[trial.call["dtype"]]

    def shake(t: Tensor) -> Tensor:
        t = t.detach().double()
        return t * (1 + size * torch.randn(t.shape, generator=trial.g, dtype=F64))

    twin = copy.deepcopy(trial.twin)
    with torch.no_grad():
        for p in twin.parameters():
            p.copy_(shake(p))
    return twin, shake(trial.x), tree_map(shake, trial.state)


def check(case: Conf) -> Outcome:
    """Whether a configuration computes what its equations say."""
    torch.manual_seed(case["seed"] * 1_000_003 + case["number"])
    if case["layer"]["kind"] == "memory":
        return check_memory(case)
    trial = Trial(case)
    graph = trial.call["gradients"] and trial.batch > 0
    x, state = ask_for_gradients(trial.x, trial.state) if graph else (trial.x, trial.state)
    try:
        with torch.set_grad_enabled(graph):
            found = trial.compared(trial.ours(x, state))
    except ValueError as refusal:
        if any(text in str(refusal) for text in REFUSED):
            return Outcome("refused", detail=str(refusal))
        raise
    inputs = [x, *tensors_of(state), *trial.layer.parameters()] if graph else []
    slopes = gradients(found, inputs, 1) if graph else []
    right, right_slopes, seen = evaluate(trial, trial.twin, trial.x, trial.state, graph)
    return judge(trial, (found, slopes), (right, right_slopes), seen)


def scales_of(trial: Trial, right: list[Tensor], seen: Equations) -> list[float]:
    """What rounding is relative to where a result is small by cancelling or by forgetting."""
    relus = seen.margin.largest if holds(trial.conf, "LMUFFT") else 0.0
    rest = 1e-3 * seen.memory
    return [max(rest, relus if t.shape == right[0].shape else 0.0) for t in right]


def judge(trial: Trial, ours: Any, theirs: Any, seen: Equations) -> Outcome:
    """Exact, or wrong, or a case that rounding alone would change as much."""
    bound = TOLERANCE[trial.call["dtype"]]
    scales = scales_of(trial, theirs[0], seen)
    error = largest_error(ours[0], theirs[0], scales)
    gradient, steepest = None, []
    if ours[1] and seen.margin.least > bound * seen.margin.largest:  # else a relu may have bent
        largest = max(t.abs().max().item() for t in theirs[1])
        steepest = [1e-3 * largest] * len(ours[1])
        gradient = largest_error(ours[1], theirs[1], steepest)
    if max(error, (gradient or 0.0) / 10) <= bound:
        return Outcome("exact", error, gradient)
    tensors, slopes, _ = evaluate(trial, *disturbed(trial), bool(ours[1]))
    unsure = AMPLIFIED * largest_error(tensors, theirs[0], scales)
    steep = AMPLIFIED * largest_error(slopes, theirs[1], steepest) if steepest else 0.0
    if error <= max(bound, unsure) and (gradient or 0.0) <= max(10 * bound, steep):
        return Outcome("sensitive", error, gradient)
    detail = f"error {error:.1e}, of gradients {gradient}, where rounding alone gives {unsure:.1e}"
    return Outcome("WRONG", error, gradient, detail)


def check_memory(case: Conf) -> Outcome:
    """The functional interface, by every method, against ``m_t = Ad m_{t-1} + Bd u_t``."""
    conf, call = case["layer"], case["call"]
    g = torch.Generator().manual_seed(case["seed"] * 1_000_003 + case["number"])
    dtype, c, d = getattr(torch, call["dtype"]), conf["memory_channels"], conf["memory_size"]
    u = signal(call, c, dtype, g)
    given = Ad, Bd = matrices(conf, torch.tensor(conf["theta"], dtype=F64).view(-1))
    m_0 = torch.randn(len(u), c, d, generator=g, dtype=F64).to(dtype) if call["state"] else None
    H = impulse_response(*given, u.shape[1] + 3).to(dtype) if conf["response"] else None
    method, everything = conf["method"], call["way"] == "all"
    if method in {"final", "chunked_final"}:
        everything = False
    if everything:
        found = list(memory(u, *given, m_0, method=method, H=H))
    else:
        found = [final_memory(u, *given, m_0, method=method, H=H)]
    m = torch.zeros(len(u), c, d, dtype=F64) if m_0 is None else m_0.double()
    states = []
    for u_t in u.double().unbind(1):
        m = (Ad @ m[..., None]).squeeze(3) + Bd * u_t[..., None]
        states.append(m)
    right = [torch.stack(states, 1), m] if everything else [m]
    # The last state may have all but died away, where rounding is of what went before.
    largest = torch.stack(states).abs().max().item() if m.numel() else 0.0
    error = largest_error(found, right, [largest] * len(right))
    wrong = error > TOLERANCE[call["dtype"]]
    return Outcome("WRONG" if wrong else "exact", error, detail=f"error {error:.1e}" * wrong)


def run(seed: int, number: int) -> tuple[Conf, Outcome]:
    """Draw a configuration and check it; an exception is an outcome too."""
    case = draw(seed, number)
    try:
        return case, check(case)
    except Exception as error:  # whatever a valid call raises is a finding
        return case, Outcome("WRONG", math.inf, detail=f"{type(error).__name__}: {error}")
