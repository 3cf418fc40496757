"""Modules that are wrapped, hooked or adapted by other packages."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

# The attribute in which a wrapper holds the module that it calls.
_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")


def unwrap(module: Any) -> Any:
    """The module that ``torch.compile``, checkpointing, FSDP and data parallel wrap.

    Ask it for sizes and signatures, but call the wrapper.
    """
    while isinstance(module, nn.Module):
        if isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            module = module.module
            continue
        inner = [module._modules[name] for name in _WRAPPERS if name in module._modules]
        if not inner:
            break
        module = inner[0]
    return module


def is_hooked(module: nn.Module) -> bool:
    """True if a call does more than the class's ``forward``, such as making weights in hooks."""
    # Written out: a step of a stream asks, in microseconds.
    return bool(
        "forward" in module.__dict__
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    )


def is_simple(linear: Any) -> bool:
    """True if a call is ``F.linear`` with the weights that are read from the module."""
    return (
        type(linear) is nn.Linear
        and not is_hooked(linear)
        and _is_dense(read(linear, "weight"))
        and _is_dense(read(linear, "bias"))
    )


def read(module: Any, name: str) -> Any:
    """The attribute, of which parameters are found four times as fast as by ``getattr``."""
    parameter = module._parameters.get(name)
    return getattr(module, name, None) if parameter is None else parameter


def _is_dense(weight: Any) -> bool:
    """Not for None, and tensors that are made of others: sharded, quantized."""
    usual = type(weight) is nn.Parameter
    return usual or (isinstance(weight, Tensor) and not hasattr(weight, "__tensor_flatten__"))


def name_of(module: Any) -> str:
    """The kind of a module, for messages."""
    name = type(module).__name__
    return f"{name} with hooks" if isinstance(module, nn.Module) and is_hooked(module) else name


def name_of_function(function: Any) -> str:
    """An activation's name, for ``extra_repr``."""
    return (
        repr(function)
        if function is None or isinstance(function, str)
        else getattr(function, "__name__", type(function).__name__)
    )


def reset_modules(*parts: object) -> None:
    """Call ``reset_parameters`` of modules and of all that they hold, where it exists."""
    for part in parts:
        for module in part.modules() if isinstance(part, nn.Module) else ():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()


def in_evaluation(module: Any) -> Any:
    """The module in evaluation mode, sharing its weights, while the module itself stays as it is.

    Not a deep copy: that would double the weights, and pruned modules refuse it.
    """
    if not isinstance(module, nn.Module) or isinstance(module, torch.jit.ScriptModule):
        return module
    for name in _WRAPPERS[:2]:  # they would call the module itself
        if name in module._modules:
            return in_evaluation(module._modules[name])
    children = {name: in_evaluation(child) for name, child in module._modules.items()}
    same = module.__new__(type(module))
    # Past __setattr__, which a module may hand on to another.
    object.__setattr__(same, "__dict__", vars(module) | {"training": False, "_modules": children})
    return same
