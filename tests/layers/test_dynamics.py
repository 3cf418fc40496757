"""What checkpoints tell of dynamics that they do not hold; learned windows of narrow layers."""

import io
from typing import Any

import pytest
import torch
from torch import nn

from lmu import LMU, LMUFFT, LMUStack


def saved(layer: nn.Module) -> Any:
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"theta": 21.0}, "layer '0' was saved with theta=20.0, and is built with theta=21.0"),
        ({"discretizer": "bilinear"}, "saved with discretizer='zoh', and is built with .*'bilin"),
        ({"theta": [20.0, 30.0], "memory_channels": 2, "encode_input": False, "input_size": 2},
         "size mismatch"),
    ],
)  # fmt: skip
def test_another_theta_is_told(changed: dict[str, Any], message: str) -> None:
    given = {"input_size": 1, "hidden_size": 4, "memory_size": 6, "theta": 20.0}
    one, other = nn.Sequential(LMU(**given)), nn.Sequential(LMU(**(given | changed)))
    with pytest.raises(RuntimeError, match=message):
        other.load_state_dict(saved(one))
    one.load_state_dict(saved(one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"theta": [5.0, 5.0]}, {"theta": 5.0}),
        ({"theta": torch.tensor([30.1, 5.0])}, {"theta": [30.1, 5.0]}),
        ({"theta": 100.0, "discretizer": "euler"}, {"discretizer": "euler-unchecked"}),
    ],
)
def test_equal_dynamics_load(one: dict[str, Any], other: dict[str, Any]) -> None:
    def build(**kwargs: Any) -> LMU:
        return LMU(2, 4, 4, **({"theta": 100.0, "memory_channels": 2} | kwargs))

    build(**other).load_state_dict(saved(build(**one)))
    build(**one).load_state_dict(saved(build(**other)))


def test_assigned_narrow_windows_are_widened() -> None:
    layer = LMU(1, 4, 4, 50.0, learn_theta=True, dtype=torch.bfloat16)
    theirs = LMU(1, 4, 4, 100.0, learn_theta=True).state_dict()
    narrow = {key: value.bfloat16() for key, value in theirs.items()}
    layer.load_state_dict(narrow, assign=True)
    assert layer.memory.log_theta.dtype == torch.float32
    assert layer.theta == pytest.approx(100, rel=0.02)


def test_weights_may_go_on_with_another_theta() -> None:
    one, other = LMUFFT(1, 4, 6, theta=20), LMUFFT(1, 4, 6, theta=30)
    other.load_state_dict(dict(saved(one)))
    assert other.theta == 30
    assert torch.equal(one.W_h.weight, other.W_h.weight)


def test_each_channel_and_layer_is_compared() -> None:
    def stack(theta: float) -> LMUStack:
        first = LMUFFT(2, 3, 4, theta=[9.0, theta], memory_channels=2)
        return LMUStack([first, LMU(3, 4, 4, 9.0)])

    with pytest.raises(RuntimeError, match=r"layers.0.*theta=\[9.0, 12.0\].*theta=\[9.0, 11.0\]"):
        stack(11.0).load_state_dict(saved(stack(12.0)))


def test_learned_windows_are_in_the_checkpoint() -> None:
    one = LMUFFT(1, 4, 6, theta=20, learn_theta=True)
    with torch.no_grad():
        one.memory.log_theta.add_(0.5)
    other = LMUFFT(1, 4, 6, theta=9, learn_theta=True)
    other.load_state_dict(saved(one))
    assert other.theta == one.theta
    with pytest.raises(RuntimeError, match="discretizer"):
        LMUFFT(1, 4, 6, theta=20, learn_theta=True, discretizer="bilinear").load_state_dict(
            saved(one)
        )


def test_assigned_matrices_are_told() -> None:
    one = LMU(1, 4, 6, 20)
    one.memory.Ad = one.memory.Ad * 0.9
    with pytest.raises(RuntimeError, match="saved with matrices that were assigned or passed"):
        LMU(1, 4, 6, 20).load_state_dict(saved(one))
    with pytest.raises(RuntimeError, match=r"saved with Legendre's, and is built with matrices"):
        one.load_state_dict(saved(LMU(1, 4, 6, 20)))
    one.load_state_dict(saved(one))
    one.memory.Ad = LMU(1, 4, 6, 20).memory.Ad
    one.load_state_dict(saved(LMU(1, 4, 6, 20)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_learned_windows_move_in_narrow_layers(dtype: torch.dtype) -> None:
    def build(**kwargs: Any) -> LMUFFT:
        return LMUFFT(1, 4, 6, theta=20, learn_theta=True, **kwargs)

    for layer in (build(dtype=dtype), build().to(dtype), build().double().to(dtype)):
        assert (layer.W_h.weight.dtype, layer.memory.log_theta.dtype) == (dtype, torch.float32)
        assert layer.theta == 20
        layer(torch.randn(2, 30, 1, dtype=dtype))[0].float().square().sum().backward()
        assert layer.memory.log_theta.grad is not None
        assert layer.memory.log_theta.grad.dtype == torch.float32
        # In bfloat16 such a step is lost: 3.0 - 1e-4 is 3.0.
        before = layer.memory.log_theta.item()
        torch.optim.SGD(
            [layer.memory.log_theta], 1e-4 / layer.memory.log_theta.grad.abs().item()
        ).step()
        assert before != layer.memory.log_theta.item()
        layer.zero_grad()
