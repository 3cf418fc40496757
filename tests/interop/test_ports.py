"""Other PyTorch ports: their checkpoints, whole-model pickles and optimizer states.

The stand-ins have the parameters of the ports, in their order, and compute the papers' equations.
"""

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lmu
from lmu import LMU, LMUFFT, LMUCell
from lmu.interop.ports import translate_optimizer
from lmu.theory import discretize, impulse_response, legt

PAGE = Path(__file__).parents[2] / "docs" / "from-others.md"
K, N, D, THETA, STEPS = 2, 5, 4, 12.0, 9


def system() -> tuple[Tensor, Tensor]:
    """The matrices as ports keep them, (order, order) and (order, 1)."""
    A, B = discretize(*legt(D, THETA))
    return A, B[:, None]


def recurrence(x: Tensor, p: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    h, m = x.new_zeros(len(x), N), x.new_zeros(len(x), D)
    outputs = []
    for x_t in x.unbind(1):
        u = x_t @ p["e_x"].T + h @ p["e_h"].T + m @ p["e_m"].T
        m = m @ p["A"].T + u @ p["B"].T
        h = torch.tanh(x_t @ p["W_x"].T + h @ p["W_h"].T + m @ p["W_m"].T)
        outputs.append(h)
    return torch.stack(outputs, 1), h, m


class Cell(nn.Module):
    """Of hrshtv/pytorch-lmu and its copies: the matrices come first, learned or as buffers."""

    def __init__(self, learn_a: bool = True, learn_b: bool = True) -> None:
        super().__init__()
        for name, value, learned in zip("AB", system(), (learn_a, learn_b), strict=True):
            if learned:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        shapes = {"e_x": (1, K), "e_h": (1, N), "e_m": (1, D)}
        shapes |= {"W_x": (N, K), "W_h": (N, N), "W_m": (N, D)}
        for name, shape in shapes.items():
            value = torch.randn(shape, dtype=torch.float64) / 3
            self.register_parameter(name, nn.Parameter(value))


class Known(nn.Module):
    def __init__(self, learn_a: bool = True, learn_b: bool = True) -> None:
        super().__init__()
        self.cell = Cell(learn_a, learn_b)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        output, h, m = recurrence(x, dict(self.cell.named_parameters()))
        return output, (h, m)


class Classifier(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.lmu = layer
        self.out = nn.Linear(N, 3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lmu(x)[1][0])


def ours(**kwargs: Any) -> LMU:
    return LMU(K, N, D, THETA, dtype=torch.float64, **kwargs)


def both() -> tuple[Classifier, Classifier]:
    theirs, mine = Classifier(Known()), Classifier(ours(learn_a=True, learn_b=True))
    mine.load_state_dict(theirs.state_dict())
    return theirs, mine


def train(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        x = torch.randn(6, STEPS, K, dtype=torch.float64, generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x), torch.arange(6) % 3).backward()
        optimizer.step()


def names(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def assert_same_parameters(theirs: Classifier, mine: Classifier) -> None:
    expected = Classifier(ours(learn_a=True, learn_b=True))
    expected.load_state_dict(theirs.state_dict())
    for name, parameter in mine.named_parameters():
        want = expected.get_parameter(name)
        torch.testing.assert_close(parameter, want, rtol=0, atol=1e-10, msg=name)


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, weight_decay=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.002, centered=True, momentum=0.5),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("keys", ["parameters", "state_dict"])
def test_training_goes_on_as_it_would_have_there(make, keys):
    theirs, mine = both()
    optimizer = make(theirs.parameters())
    train(theirs, optimizer, 1)
    mine.load_state_dict(theirs.state_dict())
    other = make(mine.parameters())
    given = names(theirs) if keys == "parameters" else theirs.state_dict()
    other.load_state_dict(translate_optimizer(optimizer.state_dict(), given, mine, other))
    train(theirs, optimizer, 2)
    train(mine, other, 2)
    assert_same_parameters(theirs, mine)


def groups(model: Classifier) -> list[dict[str, Any]]:
    """The matrices at a rate of their own, behind the others."""
    dynamics = [p for n, p in model.named_parameters() if n[-2:] in (".A", ".B", "Ad", "Bd")]
    rest = [p for p in model.parameters() if all(p is not d for d in dynamics)]
    return [{"params": rest}, {"params": dynamics, "lr": 0.001}]


def test_groups_keep_their_options():
    theirs, mine = both()
    optimizer = torch.optim.Adam(groups(theirs), lr=0.01)
    train(theirs, optimizer, 1)
    mine.load_state_dict(theirs.state_dict())
    rest, dynamics = groups(mine)
    dynamics["params"].reverse()  # the order within a group is free
    other = torch.optim.Adam([rest, dynamics], lr=1.0)
    order = [n for n in names(theirs) if n[-2:] not in (".A", ".B")] + ["lmu.cell.A", "lmu.cell.B"]
    other.load_state_dict(translate_optimizer(optimizer.state_dict(), order, mine, other))
    assert [group["lr"] for group in other.param_groups] == [0.01, 0.001]
    train(theirs, optimizer, 2)
    train(mine, other, 2)
    assert_same_parameters(theirs, mine)


def test_named_groups_are_renamed():
    theirs, mine = both()
    state = torch.optim.Adam(theirs.parameters()).state_dict()
    state["param_groups"][0]["param_names"] = names(theirs)
    other = torch.optim.Adam(mine.parameters())
    translated = translate_optimizer(state, names(theirs), mine, other)
    assert translated["param_groups"][0]["param_names"] == names(mine)


@pytest.mark.parametrize("learned", [True, False])
def test_buffers_and_frozen_parameters_are_passed_over(learned):
    theirs, mine = Known(learn_a=False, learn_b=False), ours()
    if learned:  # some ports have parameters that are not trained
        theirs = Known().requires_grad_(False)
    optimizer = torch.optim.Adam(theirs.parameters())
    other = torch.optim.Adam(mine.parameters())
    translated = translate_optimizer(optimizer.state_dict(), theirs.state_dict(), mine, other)
    assert translated["param_groups"][0]["params"] == list(range(6))


def stepped(model: nn.Module) -> dict[str, Any]:
    optimizer = torch.optim.Adam(model.parameters())
    torch.stack([p.square().sum() for p in model.parameters()]).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def test_what_does_not_fit_is_named():
    theirs, mine = Known(), ours(learn_a=True, learn_b=True)
    state, other, right = stepped(theirs), torch.optim.Adam(mine.parameters()), names(theirs)

    def fails(match: str, state=state, given=right, model=mine, optimizer=other) -> None:
        with pytest.raises(ValueError, match=match):
            translate_optimizer(state, given, model, optimizer)

    fixed = ours(learn_a=True)
    adam = torch.optim.Adam(fixed.parameters())
    fails(r"no parameter for cell\.B: build .* learn_b=True", model=fixed, optimizer=adam)
    fails(r"of 8 parameters, but 7 .* and not more: .* learn_a", given=right[1:])
    fails(r"of 8 parameters, but 7 .* and not cell\.x, y:", given=[*right[1:], "cell.x", "y"])
    fails("several names lead to memory.Ad: give each name once", given=["Ad", *right[:-1]])
    fails(
        r"exp_avg of cell\.B has the shape \(4, 4\), ours is \(4,\)",
        given=[right[1], right[0], *right[2:]],
    )
    fails("parameters that are not of model", model=ours())
    split = torch.optim.Adam([{"params": [p]} for p in mine.parameters()])
    fails("has 1 parameter groups, optimizer 8: build it", optimizer=split)
    fails(
        "group 0 of optimizer lacks cell.A, cell.B: add them",
        optimizer=torch.optim.Adam([*mine.parameters()][:-2]),
    )
    small = Known(learn_a=False, learn_b=False)
    fails(
        "group 0 of the state_dict has nothing for memory.Ad, memory.Bd",
        state=stepped(small),
        given=names(small),
    )


def fft_weights() -> dict[str, Tensor]:
    """Of an LMUFFT of hrshtv/pytorch-lmu, or an LMUFFTCell of zeyuliu1037/LMUFormer."""
    weights = {"W_u.weight": (1, K), "W_u.bias": (1,), "W_h.weight": (N, D + K), "W_h.bias": (N,)}
    state = {name: torch.randn(shape, dtype=torch.float64) for name, shape in weights.items()}
    A, B = system()
    H = impulse_response(A, B[:, 0], STEPS)
    return state | {"A": A, "B": B, "H": H, "fft_H": torch.fft.rfft(H, 2 * STEPS)}


@pytest.mark.filterwarnings("error")
def test_weights_of_the_parallel_layer():
    p = fft_weights()
    layer = LMUFFT(K, N, D, STEPS, THETA, dtype=torch.float64)
    layer.load_state_dict(p)
    x = torch.randn(3, STEPS, K, dtype=torch.float64)
    m, outputs = x.new_zeros(3, D), []
    for x_t in x.unbind(1):
        u = torch.relu(F.linear(x_t, p["W_u.weight"], p["W_u.bias"]))
        m = m @ p["A"].T + u @ p["B"].T
        z = torch.cat([m, x_t], 1)
        outputs.append(torch.relu(F.linear(z, p["W_h.weight"], p["W_h.bias"])))
    output, h_n = layer(x)
    torch.testing.assert_close(output, torch.stack(outputs, 1), rtol=0, atol=1e-10)
    torch.testing.assert_close(h_n, outputs[-1], rtol=0, atol=1e-10)


def assert_computes(layer: LMU, p: dict[str, Tensor]) -> None:
    x = torch.randn(3, STEPS, K, dtype=torch.float64)
    output, states = layer(x)
    for got, want in zip((output, *states), recurrence(x, p), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("learn_a", [False, True])
@pytest.mark.parametrize("learn_b", [False, True])
def test_weights_of_the_known_port(learn_a, learn_b):
    state = Known(learn_a, learn_b).state_dict()
    for name, learned in (("cell.A", learn_a), ("cell.B", learn_b)):
        state[name] += 0.01 * learned * torch.randn_like(state[name])
    layer = ours(learn_a=learn_a, learn_b=learn_b)
    layer.load_state_dict(state)
    flat = {name.removeprefix("cell."): value for name, value in state.items()}
    assert_computes(layer, flat)
    layer.load_state_dict(flat)
    cell = LMUCell(K, N, D, THETA, learn_a, learn_b, dtype=torch.float64)
    cell.load_state_dict(flat)
    x = torch.randn(3, K, dtype=torch.float64)
    torch.testing.assert_close(cell(x)[0], recurrence(x[:, None], flat)[1], rtol=0, atol=1e-10)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """By the function on the page for those who come from other packages."""
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(next(block for block in code if "def renamed" in block), namespace)
    return namespace["renamed"](state)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("port", ["bjkomer", "AbdouJaouhar"])
@pytest.mark.parametrize("learned", [False, True])
def test_weights_under_other_names(port, learned):
    p = {name: value.detach() for name, value in Cell().named_parameters()}
    p["A"] += 0.01 * learned * torch.randn_like(p["A"])
    parts = {"x": "input", "h": "hidden", "m": "memory"}
    state = {"AT": p["A"] - torch.eye(D), "BT": p["B"]}
    for part, word in parts.items():
        kinds = (f"{word}_encoders", f"{word}_kernel")
        if port == "AbdouJaouhar":
            kinds = (f"lmucell.encoder_{word}", f"lmucell.kernel_{word}")
        state |= dict(zip(kinds, (p[f"e_{part}"], p[f"W_{part}"]), strict=True))
    layer = ours(learn_a=learned)
    layer.load_state_dict(renamed(state))
    assert_computes(layer, p)


@pytest.mark.parametrize("name", ["LMU", "LMUCell", "LMUFFT"])
def test_a_whole_model_of_a_port_is_no_layer_of_ours(name, monkeypatch):
    theirs: type[nn.Module] = type(name, (nn.Module,), {"__module__": "lmu"})
    file = io.BytesIO()
    with monkeypatch.context() as context:
        context.setattr(lmu, name, theirs)  # as in a project whose own file is lmu.py
        torch.save(nn.Sequential(theirs()), file)
    file.seek(0)
    with pytest.raises(TypeError, match=rf"{name} of another package.*state_dict\(\)"):
        torch.load(file, weights_only=False)
