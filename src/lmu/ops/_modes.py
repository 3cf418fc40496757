"""Modes of execution: dtypes, autocast, compilers, transforms, and backward by autograd."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lmu.ops import native

_C: Any = torch._C  # its type stubs are incomplete
_FUNCTORCH = _C._functorch


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of a memory whose input has ``dtype``: itself, but at least float32."""
    return torch.promote_types(dtype, torch.float32)


def power_dtype(device: torch.device) -> torch.dtype:
    """Dtype in which matrices are raised to powers: float64 wherever the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def memory_dtype(m: Tensor, dtype: torch.dtype) -> torch.dtype:
    """Dtype of a memory ``m`` in a computation of ``dtype``: its own, if wider."""
    return m.dtype if m.dtype.itemsize > dtype.itemsize else dtype


def widen(tensor: Tensor) -> Tensor:
    """Convert a tensor to the dtype for powers."""
    if tensor.dtype is torch.float64:  # as a layer's constants are: a conversion takes as long
        return tensor
    return tensor.to(power_dtype(tensor.device))


def convert(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """``tensor.to(dtype)``, which takes half a microsecond where nothing is to be done."""
    return tensor if tensor.dtype is dtype else tensor.to(dtype)


# At import: PyTorch 2.6 cannot trace is_autocast_available.
_DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "mtia", torch._C._get_privateuse1_backend_name())
_AUTOCAST = {device for device in _DEVICES if torch.amp.is_autocast_available(device)}


def is_autocast(device: torch.device) -> bool:
    """True where tensors of the device are narrowed; never on those, such as meta, that lack it."""
    return device.type in _AUTOCAST and torch.is_autocast_enabled(device.type)


def no_autocast(device: torch.device) -> AbstractContextManager:
    """A context in which nothing is narrowed."""
    if not is_autocast(device):  # entering the context takes microseconds
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def is_transformed() -> bool:
    """True under torch.compile, torch.func or forward-mode AD, where only plain operations work."""
    return torch.compiler.is_compiling() or is_differentiated()


def is_differentiated() -> bool:
    """True under a transform of torch.func, and inside of a level of forward-mode AD."""
    # Neither has a public function.
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_exporting() -> bool:
    """True under ``torch.export``, whose graphs are to hold plain operators."""
    if hasattr(torch.compiler, "is_exporting"):
        return torch.compiler.is_exporting()
    # Early PyTorch reports non-strict export only; strict export looks like compiling.
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


@contextmanager
def not_recorded() -> Iterator[None]:
    """A context whose results torch.jit.trace takes for constants, so that all its runs agree."""
    state = _C._get_tracing_state()
    if state is None:
        yield
        return
    _C._set_tracing_state(None)
    try:
        yield
    finally:
        _C._set_tracing_state(state)


def is_plain(*tensors: Tensor) -> bool:
    """True for tensors with values of their own, that may be kept beyond the call.

    Not for those that are meta, fake, made in inference mode, or wrapped by a transform.
    """
    wrapped, functional = _FUNCTORCH.is_functorch_wrapped_tensor, torch._is_functional_tensor  # pyright: ignore[reportPrivateImportUsage]
    return all(
        type(t) in {Tensor, torch.nn.Parameter}
        and not (t.is_meta or t.is_inference())
        and not (wrapped(t) or functional(t))
        for t in tensors
    )


def has_kernels(*tensors: Tensor) -> bool:
    """True if the compiled core can run on these: plain, on the CPU, all float32 or all float64.

    Not while something records PyTorch's operations, which would not see the core's.
    """
    if not native.is_available(*tensors):
        return False
    dtype = tensors[0].dtype
    for tensor in tensors:
        if tensor.dtype != dtype or type(tensor) not in _PLAIN:
            return False
    return not (_C._len_torch_dispatch_stack() or _C._get_tracing_state())


_PLAIN = {Tensor, torch.nn.Parameter}


def is_batched(*tensors: Tensor) -> bool:
    """True where a vmap runs over one of the tensors, as over batched gradients in backward."""
    legacy, batched = _FUNCTORCH.is_legacy_batchedtensor, _FUNCTORCH.is_batchedtensor
    return any(legacy(t) or batched(t) for t in tensors)


def differentiable_backward(
    run: Callable[..., tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    grads: Sequence[Tensor],
    needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Gradients by plain operations, from a second run of a plain version of the forward pass.

    Where derivatives of the gradients are needed, the inputs keep their history, so that these
    derivatives reach whatever the inputs depend on. One input may depend on another, a path that
    is not this function's: so the plain version is run, and differentiated, on aliases.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        if create_graph:
            aliases = [tensor.view_as(tensor) for tensor in inputs]
        else:
            pairs = zip(inputs, needed, strict=True)
            aliases = [tensor.detach().requires_grad_(need) for tensor, need in pairs]
        outputs = run(*aliases)
    sources = [alias for alias, need in zip(aliases, needed, strict=True) if need]
    results = torch.autograd.grad(
        outputs,
        sources,
        grads,
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    remaining = iter(results)
    return tuple(next(remaining) if need else None for need in needed)
