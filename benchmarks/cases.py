"""The registry of cases: a new one is one entry of :data:`CASES`."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.baselines import TextbookLMUFFT
from benchmarks.harness import Case, Contender
from lmu import LMUFFT
from lmu.ops import memory

BATCH, LENGTH = 100, 784


def images(dtype: torch.dtype = torch.float32) -> Tensor:
    """A batch as psMNIST gives it: (100, 784, 1), values from 0 to 1."""
    g = torch.Generator().manual_seed(0)
    return torch.rand(BATCH, LENGTH, 1, dtype=torch.float64, generator=g).to(dtype)


def gradient(like: Tensor) -> Tensor:
    """A fixed gradient of the output: a loss would cost as much as some layers do."""
    g = torch.Generator().manual_seed(1)
    return torch.randn(like.shape, dtype=torch.float64, generator=g).to(like.dtype)


def training_step(layer: nn.Module, pick: Callable[[tuple], Tensor]) -> Contender:
    """Forward and backward of what ``pick`` takes from the layer's output."""
    x = images(next(layer.parameters()).dtype)
    with torch.no_grad():
        grad = gradient(pick(layer(x)))

    def work() -> None:
        layer.zero_grad()
        pick(layer(x)).backward(grad)

    def result() -> list[Tensor]:
        layer.zero_grad()
        output = pick(layer(x))
        output.backward(grad)
        return [output.detach()] + [p.grad for p in layer.parameters() if p.grad is not None]

    return Contender(work, result)


class ExactLMUFFT(LMUFFT):
    """The layer with its memory run step by step, in float64."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """All hidden states and the last."""
        m, _ = memory(torch.relu(self.W_u(x)), self.Ad, self.Bd, method="reference")
        h = torch.relu(self.W_h(torch.cat([m[:, :, 0], x], dim=2)))
        return h, h[:, -1]


PAPER = (1, 346, 468, 784, 784)  # input, hidden, memory, seq_len, theta


def same_weights(layer: nn.Module) -> nn.Module:
    """The layer with the weights that all contenders of a case share."""
    torch.manual_seed(0)
    layer.load_state_dict(LMUFFT(*PAPER).state_dict())
    return layer


def last(outputs: tuple) -> Tensor:
    """The last hidden state, which layers return in the second place."""
    return outputs[1]


def final_ours() -> Contender:
    """The layer as a classifier uses it."""
    return training_step(same_weights(LMUFFT(*PAPER, return_sequences=False)), last)


def final_textbook() -> Contender:
    """All hidden states, of which all but the last are thrown away."""
    return training_step(same_weights(TextbookLMUFFT(*PAPER)), last)


def final_exact() -> list[Tensor]:
    """Last output and gradients in float64."""
    result = training_step(same_weights(ExactLMUFFT(*PAPER)).double(), last).result
    assert result is not None
    return result()


CASES: dict[str, Case] = {
    "lmufft-final": Case(
        "LMUFFT 346/468, T 784, batch 100, last output, forward + backward",
        {
            "LMUFFT(return_sequences=False)": final_ours,
            "textbook: FFT of all states, read-out at all steps": final_textbook,
        },
        final_exact,
    ),
}
