"""What each layer says about each wrong argument."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lmu import LMU, LMUFFT, LMUCell

GOOD = {"input_size": 3, "hidden_size": 7, "memory_size": 6, "theta": 12.0}
SIZES = [
    (0, ValueError, "{} must be at least 1, got 0"),
    (-2, ValueError, "{} must be at least 1, got -2"),
    (2.5, TypeError, "{} must be an int, got 2.5"),
    ("3", TypeError, "{} must be an int, got '3'"),
    (True, TypeError, "{} must be an int, got True"),
]
THETAS = [
    (0, ValueError, "theta must be a positive, finite number of time steps, got 0"),
    (-1.0, ValueError, "got -1.0"),
    (math.nan, ValueError, "got nan"),
    (math.inf, ValueError, "got inf"),
    (None, TypeError, "theta must be a number of time steps, got None"),
]
LAYERS = [LMUCell, LMU, LMUFFT]
layers = pytest.mark.parametrize("layer", LAYERS)


def make(layer: Callable[..., Any], **changed: Any) -> Any:
    hint = {"seq_len": 9} if layer is LMUFFT else {}
    return layer(**GOOD | hint | changed)


@pytest.mark.parametrize(
    ("layer", "argument"),
    [(layer, name) for layer in LAYERS for name in ("input_size", "hidden_size", "memory_size")]
    + [(LMUFFT, "seq_len")],
)
@pytest.mark.parametrize(("value", "error", "says"), SIZES)
def test_sizes(layer, argument, value, error, says):
    with pytest.raises(error, match=says.format(argument)):
        make(layer, **{argument: value})


@layers
@pytest.mark.parametrize(("value", "error", "says"), THETAS)
def test_theta(layer, value, error, says):
    with pytest.raises(error, match=says):
        make(layer, theta=value)


@pytest.mark.parametrize(
    ("layer", "argument"),
    [(layer, name) for layer in LAYERS for name in ("learn_a", "learn_b")]
    + [(LMUFFT, "return_sequences")],
)
def test_flags(layer, argument):
    with pytest.raises(TypeError, match=f"{argument} must be True or False, got 'yes'"):
        make(layer, **{argument: "yes"})


@layers
def test_discretizer(layer):
    with pytest.raises(ValueError, match=r"discretizer must be one of .* got 'tustin'"):
        make(layer, discretizer="tustin")
    with pytest.raises(
        ValueError, match=r"powers of Ad grow: .* a larger theta .* or a smaller order"
    ):
        make(layer, discretizer="euler", memory_size=20)


def test_method():
    for layer in (LMU, LMUFFT):
        with pytest.raises(ValueError, match=r"method must be 'auto' or one of .*, got 'magic'"):
            make(layer, method="magic")
    with pytest.raises(ValueError, match="'parallel' needs hidden_to_memory=False"):
        make(LMU, method="parallel")


@pytest.mark.parametrize("layer", [LMU, LMUFFT])
def test_step_wants_one_step(layer):
    with pytest.raises(ValueError, match=r"must have the shape \(batch, input_size=3\)"):
        make(layer).step(torch.zeros(1, 4, 3))
    with pytest.raises(ValueError, match=r"m must have the shape \(1, 6\), got \(2, 6\)"):
        make(layer).step(torch.zeros(1, 3), (torch.zeros(1, 7), torch.zeros(2, 6)))


@layers
def test_device_and_dtype(layer):
    with pytest.raises(ValueError, match=r"device must be one such as 'cpu' .* got 'nonsense'"):
        make(layer, device="nonsense")
    with pytest.raises(TypeError, match=r"dtype must be a torch.dtype, got 'nonsense'"):
        make(layer, dtype="nonsense")
    for dtype in (torch.int64, torch.complex64):
        with pytest.raises(TypeError, match=f"dtype must be a floating one .* got {dtype}"):
            make(layer, dtype=dtype)


def call(layer, x, *state):
    return make(layer)(x, *state)


@layers
@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda x: x.squeeze(0), ValueError, r"must have the shape \(batch.*, input_size=3\), got"),
        (lambda x: x[..., :2], ValueError, r"input_size=3\), got \(.*2\)"),
        (lambda x: x[None], ValueError, r"input_size=3\), got \(1, "),
        (lambda x: x.double(), TypeError, r"is torch.float64 but the layer torch.float32: convert"),
        (lambda x: x.int(), TypeError, r"is torch.int32 but the layer torch.float32"),
        (lambda x: x.to("meta"), ValueError, "the input is on meta but the layer on cpu: move"),
        (lambda x: x.tolist(), TypeError, "the input must be a torch.Tensor, got list"),
    ],
)
def test_input(layer, change, error, says):
    x = torch.zeros(1, 3) if layer is LMUCell else torch.zeros(1, 4, 3)
    with pytest.raises(error, match=says):
        call(layer, change(x))


@pytest.mark.parametrize("layer", [LMU, LMUFFT])
def test_forgotten_axis_is_named(layer):
    with pytest.raises(ValueError, match=r"add the missing axis with x.unsqueeze\(0\)"):
        call(layer, torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"add the missing axis with x.unsqueeze\(-1\)"):
        make(layer, input_size=1)(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"at least one time step, got \(2, 0, 3\)"):
        call(layer, torch.zeros(2, 0, 3))


H, M = torch.zeros(1, 7), torch.zeros(1, 6)


@layers
@pytest.mark.parametrize(
    ("state", "error", "says"),
    [
        (H, TypeError, r"the state must be a pair \(h, m\), got Tensor"),
        ((H, M, M), TypeError, r"the state must be a pair \(h, m\), got 3 items"),
        ((H, None), TypeError, "m must be a torch.Tensor, got NoneType"),
        ((M, M), ValueError, r"h must have the shape \(1, 7\), got \(1, 6\)"),
        ((H, H), ValueError, r"m must have the shape \(1, 6\), got \(1, 7\)"),
        ((H[None], M), ValueError, r"h must have the shape \(1, 7\), got \(1, 1, 7\)"),
        ((H, M.expand(2, 6)), ValueError, r"m must have the shape \(1, 6\), got \(2, 6\)"),
        ((H, M.half()), TypeError, "m is torch.float16 but the layer torch.float32"),
        ((H.to("meta"), M), ValueError, "h is on meta but the layer on cpu"),
    ],
)
def test_state(layer, state, error, says):
    x = torch.zeros(1, 3) if layer is LMUCell else torch.zeros(1, 4, 3)
    with pytest.raises(error, match=says):
        call(layer, x, state)
