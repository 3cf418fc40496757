"""Layers whose parts, or which themselves, are wrapped, hooked, adapted or replaced."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from torch.nn.utils import parametrizations, parametrize, prune

from lmu import LMU, LMUFFT, Bidirectional, LMUStack, Stream
from lmu.models import SequenceClassifier
from tests import variants

F64 = torch.float64


class Adapted(nn.Module):
    """A linear map and a learned one of low rank, as adapters are."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, 2, bias=False, dtype=F64)
        self.up = nn.Linear(2, base.out_features, bias=False, dtype=F64)

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def bias(self) -> Tensor:
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class Scaled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def doubled(normed: Any) -> None:
    normed.parametrizations.weight.original0.data.mul_(2)


def own_forward(linear: nn.Linear) -> None:
    forward: Any = lambda x: 3 * nn.functional.linear(x, linear.weight, linear.bias)  # noqa: E731
    linear.forward = forward


CHANGES: dict[str, Callable[[Any, str], Any]] = {
    "adapter": lambda layer, part: setattr(layer, part, Adapted(getattr(layer, part))),
    "spectral norm": lambda layer, part: nn.utils.spectral_norm(getattr(layer, part)),
    "new spectral norm": lambda layer, part: parametrizations.spectral_norm(getattr(layer, part)),
    "weight norm": lambda layer, part: doubled(parametrizations.weight_norm(getattr(layer, part))),
    "pruning": lambda layer, part: prune.l1_unstructured(getattr(layer, part), "weight", 0.5),
    "parametrization": lambda layer, part: parametrize.register_parametrization(
        getattr(layer, part), "weight", Scaled()
    ),
    "forward hook": lambda layer, part: getattr(layer, part).register_forward_hook(
        lambda module, arguments, y: 2 * y
    ),
    "pre-hook": lambda layer, part: getattr(layer, part).register_forward_pre_hook(
        lambda module, arguments: (arguments[0] + 1,)
    ),
    "forward of an instance": lambda layer, part: own_forward(getattr(layer, part)),
    "no bias": lambda layer, part: setattr(
        layer, part, nn.Linear(*getattr(layer, part).weight.shape[::-1], bias=False, dtype=F64)
    ),
    "sequential": lambda layer, part: setattr(
        layer, part, nn.Sequential(getattr(layer, part), nn.Tanh())
    ),
}


def equations(layer: LMUFFT, x: Tensor) -> Tensor:
    """By calls of the layer's modules, one step after another."""
    m, outputs = x.new_zeros(len(x), layer.memory_size), []
    for x_t in x.unbind(1):
        assert layer.W_u is not None
        u = torch.relu(layer.W_u(x_t))
        m = m @ layer.memory.Ad.mT + u * layer.memory.Bd
        outputs.append(torch.relu(layer.W_h(torch.cat([m, x_t], dim=1))))
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize("part", ["W_h", "W_u"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_module_is_called(change, part):
    torch.manual_seed(0)
    layer, x = LMUFFT(2, 4, 6, None, 20.0, dtype=F64), torch.randn(3, 30, 2, dtype=F64)
    before = layer(x)[0]
    CHANGES[change](layer, part)
    layer(x)[0].sum().backward()
    layer(x)[0].sum().backward()  # a second step of training
    layer.eval()  # or a spectral norm goes on with each call
    right = equations(layer, x)
    assert (right - before).abs().max() > 1e-3
    torch.testing.assert_close(layer(x)[0], right)
    state, stream = None, Stream(layer, 3)
    for x_t, right_t in zip(x.unbind(1), right.unbind(1), strict=True):
        y, state = layer.step(x_t, state)
        torch.testing.assert_close(y, right_t)
        torch.testing.assert_close(stream(x_t), right_t)
    half = layer(x[:, :10], return_state=True)[1]
    torch.testing.assert_close(layer(x[:, 10:], half)[0], right[:, 10:])
    for parameter in layer.parameters():
        assert parameter.grad is not None or not parameter.requires_grad


def test_the_choice_says_that_a_module_is_called():
    layer = LMUFFT(2, 4, 6, None, 20.0)
    layer.W_h.register_forward_hook(lambda *_: None)
    choice = layer.explain(500, 8)
    assert choice.method == "states"
    assert choice.reason == "W_h is a Linear with hooks: it is called, which takes all states"
    forced = LMUFFT(2, 4, 6, None, 20.0, method="fft")
    forced.W_h = nn.Sequential(forced.W_h)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="'fft' reads weights, and W_h is a Sequential that must"):
        forced(torch.zeros(1, 9, 2))


@pytest.mark.parametrize("kind", ["LMU", "open", "GRU"])
def test_pruned_weights_of_the_layer_are_made_in_each_step(kind):
    """Pruning makes weights in hooks, which only a call runs."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"hidden_to_memory": kind == "LMU"}
    if kind == "GRU":
        options["hidden_cell"] = nn.GRUCell(8, 4, dtype=F64)
    trained, layer = (LMU(2, 4, 6, 20.0, dtype=F64, **options) for _ in "ab")
    for each in (trained, layer):
        if kind == "GRU":
            prune.l1_unstructured(each.hidden_cell, "weight_hh", 0.5)
        else:
            prune.random_unstructured(each, "W_h", 0.5)
    layer.load_state_dict(trained.state_dict())
    x = torch.randn(3, 30, 2, dtype=F64)
    right = trained(x)[0]
    state, stream = None, Stream(layer, 3)
    for x_t, right_t in zip(x.unbind(1), right.unbind(1), strict=True):
        y, state = layer.step(x_t, state)
        torch.testing.assert_close(y, right_t)
        torch.testing.assert_close(stream(x_t), right_t)


def test_a_quantized_read_out_is_called():
    torch.manual_seed(0)
    layer, x = LMUFFT(2, 4, 6, None, 20.0), torch.randn(2, 30, 2)
    right = layer(x)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.ao.quantization.quantize_dynamic(nn.Sequential(layer).eval())
    got = quantized(x)[0]
    assert not list(quantized.parameters())
    assert 0 < (got - right).abs().max() < 0.1 * right.abs().max()


def test_a_stream_leaves_the_module_as_it_is():
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 4, dtype=F64))
    layer = LMU(2, 4, 6, 20.0, hidden_cell=inner, dtype=F64)
    stack = LMUStack([layer], norm=None, dropout=0.5)
    x = torch.randn(1, 12, 2, dtype=F64)
    right = stack.eval()(x)[0]
    stack.train()
    stream = Stream(stack)
    got = torch.stack([stream(x_t) for x_t in x.unbind(1)], dim=1)
    torch.testing.assert_close(got, right)
    assert all(module.training for module in stack.modules())


WRAPPERS = {
    "checkpoint": checkpoint_wrapper,
    "compiled": lambda layer: torch.compile(layer, backend="eager"),
    "data parallel": lambda layer: nn.DataParallel(layer, device_ids=[]),
}
KINDS = ["LMUFFT", "LMU", "LMU-sigmoid", "LMUFFT-gelu"]


def build(name: str, seed: int = 0) -> Any:
    return variants.build(name, input_size=4, hidden_size=4, theta=20.0, dtype=F64, seed=seed)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler's own
@pytest.mark.parametrize("wrapper", WRAPPERS)
@variants.each(KINDS, expensive=True, quick={"LMUFFT", "LMU"})
def test_wrapped_layers_in_stacks_both_ways_and_streams(wrapper, name):
    torch._dynamo.reset()
    one, other = build(name), build(name, 1)
    wrap = WRAPPERS[wrapper]
    x = torch.randn(3, 20, 4, dtype=F64)
    plain = LMUStack([one, other], norm=None)
    right, end = plain(x)
    stack = LMUStack([wrap(one), wrap(other)], norm=None)
    got, state = stack(x[:, :8])
    rest, after = stack(x[:, 8:], state)
    torch.testing.assert_close((torch.cat([got, rest], 1), after), (right, end))
    lengths = [20, 5, 0]
    torch.testing.assert_close(stack(x, lengths=lengths), plain(x, lengths=lengths))
    y, _ = stack.step(x[:, 0])
    torch.testing.assert_close(y, right[:, 0])
    both = Bidirectional(wrap(one), wrap(other))
    torch.testing.assert_close(both(x), Bidirectional(one, other)(x))
    stream = Stream(wrap(one), 3)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(stream(x[:, 0]), one(x)[0][:, 0])


def test_wrapped_after_the_stack_was_built():
    torch.manual_seed(0)
    stack = LMUStack([build("LMUFFT"), build("LMU")], norm=None)
    x = torch.randn(2, 20, 4, dtype=F64, requires_grad=True)
    right, end = stack(x)
    (wanted,) = torch.autograd.grad(right.square().sum(), x)
    apply_activation_checkpointing(stack, check_fn=lambda m: isinstance(m, (LMU, LMUFFT)))
    y, state = stack(x[:, :8])
    rest, after = stack(x[:, 8:], state)
    y = torch.cat([y, rest], dim=1)
    torch.testing.assert_close((y, after), (right, end))
    torch.testing.assert_close(torch.autograd.grad(y.square().sum(), x)[0], wanted)


def test_what_is_no_layer_is_refused_in_a_wrapper_too():
    with pytest.raises(TypeError, match=r"must be a layer such as lmu\.LMU"):
        LMUStack([checkpoint_wrapper(nn.Linear(2, 2))])
    with pytest.raises(TypeError, match="LMU, LMUFFT, LMUStack or LegendreMemory, got Linear"):
        Stream(checkpoint_wrapper(nn.Linear(2, 2)))  # pyright: ignore[reportArgumentType]


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler's own
def test_a_stream_of_compiled_parts_leaves_them_whole():
    torch._dynamo.reset()
    torch.manual_seed(0)
    inner = build("LMUFFT")
    compiled: Any = torch.compile(checkpoint_wrapper(inner), backend="eager")
    stack = LMUStack([compiled], norm=None)
    x, keys = torch.randn(3, 9, 4, dtype=F64), list(stack.state_dict())
    stream, right = Stream(stack, 3), LMUStack([inner], norm=None)(x)[0]
    for x_t, right_t in zip(x.unbind(1), right.unbind(1), strict=True):
        torch.testing.assert_close(stream(x_t), right_t)
    assert list(stack.state_dict()) == keys


@variants.each(KINDS)
def test_a_replaced_forward_is_called_in_steps_too(name):
    """As hooks of accelerate's do, which bring the weights."""
    torch.manual_seed(0)
    layer, x = build(name), torch.randn(3, 9, 4, dtype=F64)
    plain = layer.forward

    def forward(x: Tensor, *arguments: Any, **kwargs: Any) -> Any:
        return plain(2 * x, *arguments, **kwargs)

    layer.forward = forward
    stream, state = Stream(layer, 3), None
    for x_t, right in zip(x.unbind(1), layer(x)[0].unbind(1), strict=True):
        y, state = layer.step(x_t, state)
        torch.testing.assert_close((y, stream(x_t)), (right, right))


def test_weights_that_are_elsewhere_until_a_call():
    """As with accelerate's cpu_offload: meta but in the call of the module."""
    torch.manual_seed(0)
    layer, x = build("LMUFFT"), torch.randn(3, 9, 4, dtype=F64)
    right, weights = layer(x)[0], layer.W_h.weight.detach().clone()
    meta = nn.Parameter(weights.to("meta"))
    layer.W_h.register_forward_pre_hook(
        lambda module, _: module._parameters.update(weight=nn.Parameter(weights))
    )
    layer.W_h.register_forward_hook(lambda module, *_: module._parameters.update(weight=meta))
    layer.W_h._parameters["weight"] = meta
    torch.testing.assert_close(layer(x)[0], right)
    torch.testing.assert_close(layer.step(x[:, 0])[0], right[:, 0])


@pytest.mark.parametrize("wrap", [checkpoint_wrapper, nn.DataParallel, WRAPPERS["compiled"]])
def test_a_classifier_over_wrapped_layers(wrap):
    torch._dynamo.reset()
    torch.manual_seed(0)
    x = torch.randn(3, 9, 4)
    for layer in (nn.LSTM(4, 5, batch_first=True), LMUFFT(4, 5, 6, None, 20.0)):
        plain = SequenceClassifier(layer, 2)
        wrapped = SequenceClassifier(wrap(layer), 2)
        wrapped.classifier.load_state_dict(plain.classifier.state_dict())
        torch.testing.assert_close(wrapped(x), plain(x))
    with pytest.raises(ValueError, match="must have batch_first=True"):
        SequenceClassifier(wrap(nn.LSTM(4, 5)), 2)


@pytest.mark.filterwarnings("ignore:.torch.jit.script")
def test_an_adapter_is_compiled_once_for_all_lengths():
    torch._dynamo.reset()
    torch.manual_seed(0)
    layer = LMUFFT(2, 4, 6, None, 20.0, dtype=F64)
    layer.W_h = Adapted(layer.W_h)  # pyright: ignore[reportAttributeAccessIssue]
    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    for length in (200, 300, 7, 64, 65, 128, 420):
        x = torch.randn(2, length, 2, dtype=F64)
        torch.testing.assert_close(compiled(x)[0], layer(x)[0])
    assert counter.frame_count <= 3
