"""Layers that are timed at a point of the grid: training steps of equal weights and inputs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import lmu
from benchmarks.baselines import StepwiseLMU, TextbookLMUFFT
from benchmarks.grid.cases import FFT, LMU, Case
from benchmarks.work import every, training
from lmu import LMUFFT, LegendreMemory
from lmu.ops import LMU_METHODS, MEMORY_METHODS, READOUT_METHODS
from lmu.ops.cost import can_run, present_machine

AUTO, TEXTBOOK = "auto", "textbook"
SLOWEST = 3e11  # FLOPs of a training step beyond which PyTorch's recurrent layers are left out
Step = Callable[[], list[Tensor]]


def methods(case: Case, device: str) -> list[str]:
    """Return the methods of a case's family that can run all of its steps here."""
    machine = present_machine()
    if case.layer == FFT:
        table: Any = READOUT_METHODS
    elif case.layer == LMU:
        table = {k: m for k, m in LMU_METHODS.items() if k != "parallel"}
    else:
        table = {k: m for k, m in MEMORY_METHODS.items() if m.all_states and m.terms}
    return [name for name, m in table.items() if can_run(m.needs, device, machine)]


def layer_of(case: Case, method: str) -> nn.Module:
    """Build one of our layers, the weights of seed 0."""
    torch.manual_seed(0)
    c, n, d, T = case.channels, case.units, case.order, case.length
    if case.layer == FFT:
        return LMUFFT(c, n, d, T, T, memory_channels=c, method=method)
    if case.layer == LMU:
        layer = lmu.LMU(c, n, d, T, method=method)
        assert layer.e_h is not None
        with torch.no_grad():  # which are zero at first, and then nothing would be fed back
            layer.e_h.normal_(std=0.3 / n**0.5)
        return layer
    return Trained(c, LegendreMemory(d, T, c, method=method))


class Trained(nn.Module):
    """A memory of encoded inputs, so that gradients go through it."""

    def __init__(self, channels: int, memory: LegendreMemory) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.memory = memory

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return all states and the last."""
        return self.memory(x * self.scale)


def chosen(case: Case, device: torch.device) -> str:
    """Return the method that the choice takes."""
    layer: Any = layer_of(case, AUTO).to(device)
    layer = layer.memory if isinstance(layer, Trained) else layer
    return layer.explain(case.length, case.batch).method


def textbook(case: Case) -> nn.Module | None:
    """Build the textbook's layer, with the weights of ours; None for a memory alone."""
    c, n, d, T = case.channels, case.units, case.order, case.length
    if case.layer == FFT:
        layer: nn.Module = TextbookLMUFFT(c, n, d, T, T, c)
    elif case.layer == LMU:
        layer = StepwiseLMU(c, n, d, T)
    else:
        return None
    layer.load_state_dict(layer_of(case, AUTO).state_dict())
    return layer


def others(case: Case) -> dict[str, Callable[[], nn.Module]]:
    """Return PyTorch's recurrent layers of equal units that take no minutes."""
    if not case.units:
        return {}
    kinds = {"nn.GRU": (nn.GRU, 3), "nn.LSTM": (nn.LSTM, 4)}
    kinds |= {"nn.RNN": (nn.RNN, 1)} if case.layer == LMU else {}
    width = case.units * (case.units + case.channels)
    return {
        name: partial(kind, case.channels, case.units, batch_first=True)
        for name, (kind, gates) in kinds.items()
        if 6.0 * case.batch * case.length * gates * width < SLOWEST
    }


def contenders(case: Case, device: torch.device) -> tuple[dict[str, Step], set[str]]:
    """Build training steps by name, and name those that compute the same function."""
    builds: dict[str, Callable[[], nn.Module | None]] = {
        name: partial(layer_of, case, name) for name in (AUTO, *methods(case, device.type))
    }
    builds[TEXTBOOK] = partial(textbook, case)
    layers = {name: build() for name, build in builds.items()}
    same = {name: layer for name, layer in layers.items() if layer is not None}
    different = {name: build() for name, build in others(case).items()}
    g = torch.Generator().manual_seed(0)
    x = torch.rand(case.batch, case.length, case.channels, generator=g).to(device)
    width = case.units or case.channels * case.order
    gradient = torch.randn(case.batch, case.length, width, generator=g).to(device)
    steps = {
        name: training(layer.to(device), x, gradient, every)
        for name, layer in (same | different).items()
    }
    return steps, set(same)
