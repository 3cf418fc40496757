import pytest
import torch
from torch import nn

from lmu import LMU, LMUFFT
from lmu.plots import plot_window


def held(channels: int) -> tuple[LMU, torch.Tensor, torch.Tensor]:
    """A memory alone, the last 300 inputs, and the state that they leave."""
    layer = LMU(
        channels, None, 40, 200.0, memory_channels=channels, encode_input=False, hidden_cell=None,
        hidden_to_memory=False, memory_to_memory=False, input_to_hidden=False,
    )  # fmt: skip
    t = torch.arange(300.0)[:, None]
    signal = torch.sin(t / (20 + 7 * torch.arange(channels)))
    return layer, signal, layer(signal[None])[1][1][0]


@pytest.mark.parametrize("channels", [1, 2])
def test_memory_is_drawn_over_the_inputs_it_was_told(channels):
    layer, signal, m = held(channels)
    axes = plot_window(layer, m, signal)
    memories, inputs = axes.lines[::2], axes.lines[1::2]
    assert len(memories) == len(inputs) == channels
    for c, (memory, given) in enumerate(zip(memories, inputs, strict=True)):
        x, y = (torch.as_tensor(v) for v in memory.get_data())
        assert (x[0].item(), x[-1].item()) == (0.5, -199.5)
        inside = (x < -5) & (x > -195)
        expected = torch.sin((299 + x[inside]) / (20 + 7 * c))
        torch.testing.assert_close(y[inside].double(), expected, atol=0.01, rtol=0)
        steps, values = (torch.as_tensor(v) for v in given.get_data())
        assert (steps[0].item(), steps[-1].item()) == (-199, 0)
        torch.testing.assert_close(values, signal[100:, c])
    axes.figure.canvas.draw()


def test_draws_into_given_axes_and_takes_channels_of_several_windows():
    layer = LMUFFT(2, 3, 4, None, (9.0, 5.0), memory_channels=2)
    first = plot_window(layer, torch.randn(8))
    assert plot_window(layer, torch.randn(8), axes=first) is first
    assert len(first.lines) == 4
    assert torch.as_tensor(first.lines[0].get_xdata())[-1] == -4.5  # the shortest window


def test_wrong_shapes():
    layer = LMU(1, 3, 4, 9.0)
    for m, inputs, message in (
        (torch.zeros(2, 4), None, r"one state, with a single axis, got \(2, 4\)"),
        (torch.zeros(4), torch.zeros(9), r"\(time, memory_channels=1\), got \(9,\)"),
        (torch.zeros(5), None, r"must have the shape \(..., 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            plot_window(layer, m, inputs)


def test_decode_of_any_delay_is_differentiable_and_checked():
    layer, signal, m = held(1)
    got = layer.decode(m[None], [10, 50.5, 120.25])
    expected = torch.sin((299 - torch.tensor([10, 50.5, 120.25])) / 20)
    torch.testing.assert_close(got[0, :, 0], expected, atol=0.005, rtol=0)
    assert layer.decode(m).shape == (200, 1)
    torch.testing.assert_close(
        layer.decode(m)[20:180, 0], signal[120:280, 0].flip(0), atol=0.01, rtol=0
    )
    state = m.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda m: layer.decode(m, [3.0, 7.5]), state)
    with pytest.raises(
        ValueError, match=r"delays must have the shape \(points,\), or .*, got \(\)"
    ):
        layer.decode(m, torch.tensor(3.0))
    for delays in ([-0.6], [199.6], [float("nan")]):
        with pytest.raises(ValueError, match=r"within -0.5 and 199.5 steps, the window, got"):
            layer.decode(m, delays)


def test_decode_of_a_learned_window():
    layer = LMU(1, 3, 40, 150.0, learn_theta=True, memory_to_memory=False, hidden_to_memory=False)
    assert layer.e_x is not None
    nn.init.ones_(layer.e_x)
    signal = torch.sin(torch.arange(300.0) / 20)
    _, (_, m) = layer(signal[None, :, None])
    torch.testing.assert_close(
        layer.decode(m, [30.0, 90.0])[0, :, 0], signal[[269, 209]], atol=0.01, rtol=0
    )
