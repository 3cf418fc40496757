"""Windows that are trained, and memories with a window for each channel."""

from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

from lmu import LMU
from lmu.theory import least_theta
from tests import variants
from tests.variants import LEGENDRE, each, fill, memory_of

F64 = torch.float64
QUICK = {"memory", "LMUCell", "LMU", "LMU-open", "LMU-channels", "LMUFFT", "LMUFFT-last"}
layers = each(LEGENDRE, expensive=True, quick=QUICK)


def built(name: str, theta, **kwargs) -> Any:
    sizes = {"input_size": 2, "hidden_size": 5, "memory_size": 4}
    return fill(variants.build(name, theta=theta, **sizes, **kwargs), 0.1)


def sample(layer: Any, length: int = 20, dtype: torch.dtype = F64):
    return variants.sample(layer, length, 3, dtype)


def loss(layer, x):
    return torch.stack([t.square().sum() for t in tree_leaves(layer(x))]).sum()


@layers
@pytest.mark.parametrize("discretizer", ["zoh", "bilinear", "euler"])
def test_gradient_of_theta_is_the_slope_of_the_loss(name, discretizer):
    theta, step = 22.0, 1e-4
    options = {"discretizer": discretizer, "dtype": F64}
    layer = built(name, theta, learn_theta=True, **options)
    x = sample(layer)
    windows = torch.tensor(layer.theta, dtype=F64).view(-1)  # proportional to theta
    assert windows[0] == pytest.approx(theta)
    assert not list(layer.buffers())
    (got,) = torch.autograd.grad(loss(layer, x), memory_of(layer).log_theta)
    above, below = (loss(built(name, theta + s, **options), x) for s in (step, -step))
    slope = (above - below).item() / (2 * step)
    by_log = windows - least_theta(4, discretizer)  # d theta / d log_theta
    total = (got.cpu() / by_log * windows / theta).sum()
    assert total.item() == pytest.approx(slope, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", ["LMUFFT", "LMUFFT-last"])
@pytest.mark.parametrize("method", ["fft", "chunked", "states"])
def test_each_channel_has_its_own_window(name, method):
    """Two channels with windows of their own are two layers, whose read-outs add up."""
    thetas = (6.0, 15.0)
    both = built(name, thetas, memory_channels=2, method=method, dtype=F64)
    x = sample(both)
    with torch.no_grad():
        both.W_h.bias.fill_(100.0)  # the relu lets everything pass
    parts = []
    for c, theta in enumerate(thetas):
        one = built(name, theta, method=method, dtype=F64)
        with torch.no_grad():
            one.W_u.weight.copy_(both.W_u.weight[c : c + 1])
            one.W_u.bias.copy_(both.W_u.bias[c : c + 1])
            one.W_h.weight[:, :4] = both.W_h.weight[:, 4 * c : 4 * c + 4]
            one.W_h.weight[:, 4:] = both.W_h.weight[:, 8:] / 2
            one.W_h.bias.fill_(50.0)
        parts.append(one(x, return_state=True))
    output, (_, m_n) = both(x, return_state=True)
    torch.testing.assert_close(output, parts[0][0] + parts[1][0])
    torch.testing.assert_close(m_n, torch.cat([parts[0][1][1], parts[1][1][1]], dim=1))
    state = (torch.zeros(3, 5, dtype=F64), m_n)
    h, (_, m) = both.step(x[:, 0], state)
    again, (_, m_again) = both(x[:, :1], state, return_state=True)
    torch.testing.assert_close((h, m), (again[:, -1] if again.ndim == 3 else again, m_again))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shared", [False, True])
def test_windows_of_channels_are_learned(channels, shared):
    theta = 9.0 if shared else tuple(9.0 + c for c in range(channels))
    layer = built("LMUFFT", theta, memory_channels=channels, learn_theta=True, dtype=F64)
    assert layer.memory.log_theta.shape == (1 if shared else channels,)
    fixed = built("LMUFFT", theta, memory_channels=channels, dtype=F64)
    x = sample(fixed)
    torch.testing.assert_close(layer(x), fixed(x))
    keys, values = zip(*layer.named_parameters(), strict=True)

    def call(*values):
        return torch.func.functional_call(layer, dict(zip(keys, values, strict=True)), (x[:1, :5],))

    assert torch.autograd.gradcheck(call, values)


@layers
def test_theta_moves_stays_positive_and_is_kept_in_checkpoints(name):
    layer = built(name, 14.0, learn_theta=True)
    x, first = sample(layer, dtype=torch.float32), torch.tensor(layer.theta)
    optimizer = torch.optim.Adam([memory_of(layer).log_theta], lr=2.0)
    for _ in range(3):
        loss(layer, x).backward()
        optimizer.step()
        optimizer.zero_grad()
        theta = torch.tensor(layer.theta)
        assert ((theta - first).abs() > 0.1 * first).all()
        assert (theta > 0).all()
        assert all(leaf.isfinite().all() for leaf in tree_leaves(layer(x)))
    twin = built(name, 3.0, learn_theta=True)
    twin.load_state_dict(layer.state_dict())
    assert twin.theta == layer.theta
    torch.testing.assert_close(twin(x), layer(x))


@layers
def test_euler_stays_stable_whatever_is_learned(name):
    bound = least_theta(4, "euler")
    layer = built(name, 2 * bound, learn_theta=True, discretizer="euler", dtype=F64)
    with torch.no_grad():
        memory_of(layer).log_theta.fill_(-30.0)
    assert torch.linalg.eigvals(memory_of(layer).Ad).abs().max() <= 1 + 1e-12


@layers
def test_changed_theta_is_noticed_without_gradients(name):
    layer = built(name, 14.0, learn_theta=True, dtype=F64)
    x = sample(layer)
    with torch.no_grad():
        first = layer(x)[0]
        torch.testing.assert_close(layer(x)[0], first, rtol=0, atol=0)
        memory_of(layer).log_theta.data.add_(0.5)  # without a new version
        right = built(name, layer.theta, dtype=F64)
        torch.testing.assert_close(layer(x)[0], right(x)[0])


@each(["LMU", "LMUFFT", "memory"], expensive=True, quick={"LMU", "LMUFFT"})
def test_learned_theta_compiles_as_one_graph(name):
    torch._dynamo.reset()
    layer = built(name, 14.0, learn_theta=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = sample(layer, 30, torch.float32)
    torch.testing.assert_close(compiled(x), layer(x))
    got, right = (
        torch.autograd.grad(loss(f, x), memory_of(layer).log_theta) for f in (compiled, layer)
    )
    torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-5)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="choose one of the two"):
        built("LMU", 14.0, learn_theta=True, learn_a=True)
    with pytest.raises(ValueError, match=r"one for each of the 2 channels, got 3 numbers"):
        built("LMUFFT", (1.0, 2.0, 3.0), memory_channels=2)
    with pytest.raises(ValueError, match=r"theta must be a positive, finite .* got -1"):
        built("LMUFFT", (1.0, -1.0), memory_channels=2)
    with pytest.raises(TypeError, match="learn_theta must be True or False, got 1"):
        built("LMUFFT", 14.0, learn_theta=1)


@pytest.mark.parametrize(
    "given", [torch.tensor([9.0, 5.0]), (9, 5), range(9, 4, -4), [9.0, 5.0]], ids=str
)
def test_windows_of_channels_as_any_sequence(given):
    layer = LMU(1, 3, 4, given, memory_channels=2)
    assert layer.theta == (9.0, 5.0)
    assert layer.memory.Ad.shape == (2, 4, 4)


def test_a_window_that_is_a_tensor_without_axes():
    layer = LMU(1, 3, 4, torch.tensor(9.0), memory_channels=2)  # pyright: ignore[reportArgumentType]
    assert layer.theta == 9.0
    assert layer.memory.Ad.shape == (4, 4)
