"""Argument checks. Messages give the value, what was expected and the fix."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

from lmu._arguments import LARGEST, shown
from lmu.layers._hidden import RNN, size_of
from lmu.ops._activations import ACTIVATIONS, check_activation
from lmu.ops._modes import compute_dtype, power_dtype


def check_size(name: str, value: int) -> int:
    """Return ``value`` if it is a positive int."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    if value > LARGEST:
        raise ValueError(f"{name} must be at most {LARGEST}, got {shown(value)}")
    return int(value)


def check_flag(name: str, value: bool) -> bool:
    """Return ``value`` if it is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def check_probability(name: str, value: float) -> float:
    """Return ``value`` if it is a probability below 1."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= value < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {value}")
    return float(value)


def check_hidden_cell(cell: object, hidden_size: int | None, read: int) -> int:
    """Return the number of hidden units of a cell that reads ``read`` numbers."""
    if isinstance(cell, str) and cell != RNN:
        hint = ": pass it as hidden_activation" if cell in ACTIVATIONS else ""
        raise ValueError(f"hidden_cell must be {RNN!r}, None or a module, got {cell!r}{hint}")
    if cell is not None and not isinstance(cell, (str, nn.Module)):
        raise TypeError(f"hidden_cell must be {RNN!r}, None or a module, got {cell!r}")
    inputs = getattr(cell, "in_features", getattr(cell, "input_size", read))
    if isinstance(cell, nn.Module) and inputs != read:
        raise ValueError(
            f"hidden_cell must take {read} features, those of the memory and, with "
            f"input_to_hidden, of the input, but takes {inputs}"
        )
    size = None if isinstance(cell, str) else size_of(cell, read)
    if hidden_size is None:
        if size is None:
            raise ValueError("hidden_size must be given: the hidden cell does not tell its own")
        return size
    hidden_size = check_size("hidden_size", hidden_size)
    if size is not None and hidden_size != size:
        raise ValueError(f"hidden_size must be {size}, that of the hidden cell, got {hidden_size}")
    return hidden_size


def check_parts(cell: nn.Module, like: Tensor) -> None:
    """Check that a hidden cell is of the layer's dtype and device."""
    for name, parameter in cell.named_parameters():
        if (parameter.dtype, parameter.device) != (like.dtype, like.device):
            raise ValueError(
                f"{name} of the hidden cell is {parameter.dtype} on {parameter.device} but the "
                f"layer {like.dtype} on {like.device}: build both with the same dtype and device"
            )


def check_encoder_activation(value: Any) -> Any:
    """Return an encoder's activation as a function, or None for none."""
    if value is None:
        return None
    value = check_activation(value, "encoder_activation")
    return ACTIVATIONS[value].function if isinstance(value, str) else value


def check_cell_state(
    state: Any, cell: Any, recurrent: bool, shape: tuple[int, int], like: Tensor
) -> Any:
    """Return the state of a hidden cell; None is what the cell starts from.

    PyTorch's kernels would read beyond a state of a wrong size.
    """
    if state is None:
        return None
    if isinstance(cell, nn.LSTMCell):
        if not isinstance(state, (tuple, list)) or len(state) != 2:
            raise TypeError(
                "the state must be ((h, c), m), as the hidden cell is an LSTMCell, "
                f"got {type(state).__name__} in the first place"
            )
        return tuple(check_state(*part, shape, like) for part in zip("hc", state, strict=True))
    if not recurrent or isinstance(cell, nn.RNNCellBase):
        return check_state("h", state, shape, like)
    for part in state if isinstance(state, (tuple, list)) else (state,):
        # Only the cell knows its shape, but the batch must fit.
        if isinstance(part, Tensor) and part.shape[:1] != shape[:1]:
            raise ValueError(
                f"the state of the hidden cell must be of {shape[0]} sequences, "
                f"got {tuple(part.shape)}"
            )
    return state


def check_thetas(theta: Any, channels: int) -> Any:
    """Return one window that all channels share, or a tuple with that of each."""
    if hasattr(theta, "tolist"):  # an array or a tensor
        try:
            theta = theta.tolist()
        except RuntimeError as error:  # of a sparse tensor, or one on the meta device
            raise TypeError(f"theta must be numbers of time steps, got {shown(theta)}") from error
    if not isinstance(theta, Sequence) or isinstance(theta, str):
        return theta  # a number, or refused where it is used
    if len(theta) != channels:
        raise ValueError(
            f"theta must be one number or one for each of the {channels} channels, "
            f"got {len(theta)} numbers"
        )
    return tuple(theta)


def check_dtype(dtype: torch.dtype | None) -> torch.dtype | None:
    """Return ``dtype`` if parameters can have it: real floating, or None for PyTorch's default."""
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be a torch.dtype, got {dtype!r}")
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating one such as torch.float32, got {dtype}")
    return dtype


def check_device(device: Any) -> Any:
    """Return ``device`` if PyTorch knows it."""
    try:
        return device if device is None else torch.device(device) and device
    except (RuntimeError, TypeError) as error:
        kind = ValueError if isinstance(device, str) else TypeError
        raise kind(f"device must be one such as 'cpu' or 'cuda:0', got {shown(device)}") from error


def check_sequence(x: Tensor, input_size: int, like: Tensor, name: str = "input_size") -> None:
    """Check a sequence (batch, time, input_size), which no tracer of one length may record."""
    check_input(x, ("batch", "time"), input_size, like, name)
    if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        raise RuntimeError(
            "torch.jit.trace would record this one length of sequence: use torch.export, "
            "torch.onnx.export(dynamo=True) or lmu.interop, which keep it variable"
        )


def check_sequences(built: bool, asked: bool | None) -> bool:
    """True if a call gives all steps: the call's argument, or else the layer's."""
    return built if asked is None else check_flag("return_sequences", asked)


def check_input(
    x: Tensor, axes: tuple[str, ...], input_size: int, like: Tensor, name: str = "input_size"
) -> None:
    """Check rank, size, device and dtype of the input against the layer's parameter ``like``.

    ``name`` is that of the last axis.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"the input must be a torch.Tensor, got {type(x).__name__}")
    _check_dense("the input", x)
    if x.ndim != len(axes) + 1 or x.shape[-1] != input_size:
        # Not before: the size of one layer among several may be symbolic to torch.compile.
        shape = f"({', '.join(axes)}, {name}={input_size})"
        hint = ""
        if x.ndim == len(axes) + 1 == 3 and x.shape[1] == input_size:
            hint = ": time comes before the features, x.transpose(1, 2)"
        if x.ndim == len(axes) and (input_size == 1 or x.shape[-1] == input_size):
            hint = f": add the missing axis with x.unsqueeze({-1 if input_size == 1 else 0})"
        raise ValueError(f"the input must have the shape {shape}, got {tuple(x.shape)}{hint}")
    if len(axes) > 1 and x.shape[1] == 0:
        raise ValueError(f"the input must have at least one time step, got {tuple(x.shape)}")
    _check_device("the input", x, like)
    _check_dtype("the input", x, like)


def check_state(name: str, state: Tensor, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return one tensor of a state, that of a single sequence being meant for all.

    It may be float32 where the layer is narrower, and the memory ``m`` float64 too.
    """
    if not isinstance(state, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(state).__name__}")
    _check_dense(name, state)
    if state.shape != shape:
        if state.shape != (1, *shape[1:]):
            raise ValueError(f"{name} must have the shape {shape}, got {tuple(state.shape)}")
        state = state.expand(shape)
    _check_device(name, state, like)
    wide = {compute_dtype(like.dtype), *([power_dtype(like.device)] if name == "m" else [])}
    if state.dtype not in wide:
        _check_dtype(name, state, like)
    return state


def check_weight(name: str, weight: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    """Check shape, device and dtype of weights that are handed to a call."""
    _check_dense(name, weight)
    if not weight.numel():
        raise ValueError(f"{name} must not be empty, got {tuple(weight.shape)}")
    if weight.shape != shape:
        raise ValueError(f"{name} must have the shape {shape}, got {tuple(weight.shape)}")
    _check_device(name, weight, like)
    if weight.dtype != compute_dtype(like.dtype):
        _check_dtype(name, weight, like)


def check_pair(state: Any, hint: str = "") -> tuple[Any, Any]:
    """Return a state that is a pair ``(h, m)``; the hint says how to get one."""
    if not isinstance(state, (tuple, list)):
        raise TypeError(f"the state must be a pair (h, m), got {type(state).__name__}{hint}")
    if len(state) != 2:
        raise TypeError(f"the state must be a pair (h, m), got {len(state)} items{hint}")
    return state[0], state[1]


def _check_dense(name: str, tensor: Tensor) -> None:
    if tensor.layout is not torch.strided:
        raise TypeError(f"{name} must be dense, got {tensor.layout}: give its .to_dense()")


def _check_device(name: str, tensor: Tensor, like: Tensor) -> None:
    if tensor.device != like.device:
        raise ValueError(
            f"{name} is on {tensor.device} but the layer on {like.device}: move one of them"
        )


def _check_dtype(name: str, tensor: Tensor, like: Tensor) -> None:
    fits = tensor.dtype == like.dtype
    if not fits and tensor.is_floating_point() and torch.is_autocast_enabled(like.device.type):
        # The layers upstream hand over a narrower dtype, and that is meant.
        fits = torch.promote_types(tensor.dtype, like.dtype) == like.dtype
    if not fits:
        raise TypeError(
            f"{name} is {tensor.dtype} but the layer {like.dtype}: convert one of them with .to()"
        )
