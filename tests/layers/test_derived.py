"""What follows from theta is no state of a module: other code finds parameters alone."""

import copy
import threading
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_map

from lmu import LMU, LMUFFT, LMUCell, LMUStack
from lmu.ops import memory
from tests import devices, variants
from tests.variants import (
    CONSTANT,
    LEGENDRE,
    OPAQUE,
    PARAMETRIC,
    SEQUENCES,
    TRANSFORMED,
    each,
    memory_of,
    step,
)

F64 = torch.float64
THETA = 20.0
KINDS = [name for name in CONSTANT if name in SEQUENCES]
LEARNS_THETA = [name for name in LEGENDRE if name in SEQUENCES]
with_parameters = each([name for name in KINDS if name in PARAMETRIC], expensive=True)
layers = each(KINDS)


def build(name: str, theta: float = THETA, **kwargs: Any) -> Any:
    return variants.build(name, theta=theta, **kwargs)


def sample(layer: Any, length: int = 30, dtype: torch.dtype = torch.float32) -> Tensor:
    return variants.sample(layer, length, dtype=dtype)


@layers
@pytest.mark.parametrize("learned", [{}, {"learn_theta": True}, {"learn_a": True}])
def test_no_layer_has_buffers(name, learned):
    if "learn_theta" in learned and name not in LEGENDRE:
        pytest.skip("the window of another system is not learned")
    layer = build(name, **learned)
    layer(sample(layer))
    assert not list(layer.buffers())
    keys = {key.split(".")[-1] for key in layer.state_dict()} - {*learned} - {"log_theta"}
    assert not {"Bd", "H", "E"} & keys
    assert ("Ad" in keys) == ("learn_a" in learned)


@with_parameters
def test_weights_are_averaged_with_buffers(name):
    layer = build(name, dtype=F64)
    average = AveragedModel(layer, use_buffers=True)
    for length in (30, 50):
        layer(sample(layer, length, F64))
        average.update_parameters(layer)
    x = sample(layer, 60, F64)
    torch.testing.assert_close(average(x), layer(x))


@layers
def test_made_on_meta_and_loaded(name):
    """As model hubs and accelerate do, which fill with garbage what no checkpoint holds."""
    right = build(name)
    x = sample(right)
    with torch.device("meta"):
        layer = build(name)
    layer.load_state_dict(right.state_dict(), assign=True)
    torch.testing.assert_close(layer(x), right(x), rtol=0, atol=0)
    with torch.device("meta"):
        layer = build(name)
    for value in (*layer.parameters(), *layer.buffers()):
        assert value.is_meta
    layer.to_empty(device=devices.current).load_state_dict(right.state_dict())
    torch.testing.assert_close(layer(x), right(x), rtol=0, atol=0)
    with torch.device("meta"):
        layer = build(name)
    layer.load_state_dict(right.state_dict(), assign=True)
    layer = layer.to(devices.current).double().float()
    torch.testing.assert_close(layer(x), right(x), rtol=0, atol=0)


@each(
    [name for name in LEARNS_THETA if name in PARAMETRIC and name in {*TRANSFORMED} - {*OPAQUE}],
    expensive=True,
    quick={"LMU", "LMU-e_m", "LMU-prelu", "LMUFFT", "LMUFFT-fft", "LMUFFT-last"},
)  # fmt: skip
@pytest.mark.parametrize("how", ["learned", "stacked too"])
def test_ensembles_of_several_thetas(name, how):
    """A vmap over members leaves nothing of its tensors in the module that is called."""
    learned = {"learn_theta": how == "learned"}
    members = [build(name, theta, dtype=F64, **learned) for theta in (10.0, 20.0, 40.0)]
    x = sample(members[0], dtype=F64)
    right = torch.stack([member(x)[0] for member in members])
    parameters, buffers = stack_module_state(members)
    if how == "stacked too":
        for matrix in ("Ad", "Bd"):
            each = [getattr(member.memory, matrix) for member in members]
            buffers[f"memory.{matrix}"] = torch.stack(each)

    for base in (members[0], copy.deepcopy(members[1]).to("meta")):

        def run(parameters: Any, base: Any = base) -> Tensor:
            call = lambda p, b: functional_call(base, (p, b), (x,))[0]  # noqa: E731
            return vmap(call)(parameters, buffers)

        for _ in range(2):
            torch.testing.assert_close(run(parameters), right)
        gradients = grad(lambda p: run(p).square().sum())(parameters)
        for i, member in enumerate(members):
            member.zero_grad()
            member(x)[0].square().sum().backward()
            for key, parameter in member.named_parameters():
                torch.testing.assert_close(gradients[key][i], parameter.grad)
    torch.testing.assert_close(members[0](x)[0], right[0])


def test_an_ensemble_that_may_be_of_several_thetas_says_so():
    members = [build("LMU", theta) for theta in (11.5, 12.5)]
    state, x = stack_module_state(members), sample(members[0])
    with pytest.warns(
        UserWarning, match="stack 'memory.Ad' and 'memory.Bd' of each into the buffers too"
    ):
        vmap(lambda p, b: functional_call(members[0], (p, b), (x,))[0])(*state)
    members, x = [LMU(5, 9, 11, 13.0), LMU(5, 9, 11, 13.0)], torch.randn(1, 4, 5)
    state = stack_module_state(members)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vmap(lambda p, b: functional_call(members[0], (p, b), (x,))[0])(*state)


@each(KINDS, expensive=True)
@pytest.mark.parametrize("learned", [{}, {"learn_theta": True}])
def test_fake_and_meta_runs_leave_nothing_behind(name, learned):
    if "learn_theta" in learned and name not in LEGENDRE:
        pytest.skip("the window of another system is not learned")
    layer = build(name, dtype=F64, **learned)
    x = sample(layer, dtype=F64)
    right = copy.deepcopy(layer)(x)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = tree_map(lambda p: mode.from_tensor(p), dict(layer.named_parameters()))
        functional_call(layer, fake, (mode.from_tensor(x),))
    meta = {key: p.to("meta") for key, p in layer.named_parameters()}
    if meta:
        functional_call(layer, meta, (x.to("meta"),))
    torch.testing.assert_close(layer(x), right)
    with FakeTensorMode():
        layer = build(name, dtype=F64)
    first = layer.theta[0] if isinstance(layer.theta, tuple) else layer.theta
    assert first == THETA


@each(KINDS, expensive=True)
def test_threads_with_lengths_of_their_own(name):
    layer = build(name, dtype=F64)
    lengths = [5, 40, 17, 100, 64, 130, 9, 200] * 3
    inputs = {n: sample(layer, n, F64) for n in set(lengths)}
    right = {n: copy.deepcopy(layer)(x)[0] for n, x in inputs.items()}
    wrong: list[int] = []

    def work(length: int) -> None:
        for _ in range(5):
            if not torch.allclose(layer(inputs[length])[0], right[length], atol=1e-9):
                wrong.append(length)

    threads = [threading.Thread(target=work, args=(n,)) for n in lengths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("how", ["assigned", "in place"])
@layers
def test_a_matrix_of_the_users_is_what_all_paths_compute_with(name, how):
    layer = build(name, dtype=F64)
    x, kept = sample(layer, dtype=F64), memory_of(layer)
    layer(x)  # what followed from the old one was kept
    Ad, Bd = 0.9 * kept.Ad, 0.5 * kept.Bd
    if how == "assigned":
        kept.Ad, kept.Bd = Ad, Bd.float()
    else:
        kept.Ad.mul_(0.9)
        kept.Bd.mul_(0.5)
    torch.testing.assert_close(kept.Ad, Ad)
    right, y, state = layer(x)[0], x, None
    for x_t in x.unbind(1):
        y, state = step(layer, x_t, state)
    torch.testing.assert_close(y, right if right.ndim == 2 else right[:, -1])
    again = memory_of(copy.deepcopy(layer).float().double())
    torch.testing.assert_close(again.Ad, kept.Ad, rtol=0, atol=0)
    if name == "LMUFFT-last":
        m = memory(torch.relu(layer.W_u(x)), layer.memory.Ad, layer.memory.Bd, method="naive")[1]
        torch.testing.assert_close(layer(x, return_state=True)[1][1], m.flatten(1))


def test_a_wrong_matrix_is_refused():
    with pytest.raises(ValueError, match=r"Ad must be a floating tensor \(6, 6\), got \(5, 5\)"):
        build("LMU").memory.Ad = torch.eye(5)
    with pytest.raises(ValueError, match="got list"):
        build("LMUFFT").memory.Bd = [1.0] * 6
    with pytest.raises(ValueError, match="follows from log_theta"):
        build("LMU", learn_theta=True).memory.Ad = torch.eye(6)


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.Linear(1, 1)])
def test_modules_of_the_users_are_built_on_meta_too(activation):
    activation = copy.deepcopy(activation)
    with torch.device("meta"):
        layer = LMUFFT(2, 4, 6, None, 20.0, encoder_activation=activation)
    assert layer.W_h.weight.is_meta


def test_long_responses_are_not_kept():
    layer = LMUFFT(1, 2, 64, None, 1000.0, return_sequences=False)
    length = (1 << 24) // 64 + 1
    layer(torch.zeros(1, length, 1))
    kept = [value for _, value in layer._system()._kept.values() if isinstance(value, Tensor)]
    assert all(value.numel() <= 1 << 24 for value in kept)


def test_a_pickle_of_another_package_says_what_to_do():
    stranger = nn.Module()
    layer = LMUCell.__new__(LMUCell)
    with pytest.raises(TypeError, match="load it there, save its state_dict"):
        layer.__setstate__(stranger.__dict__)


def test_nothing_is_counted_twice():
    stack = LMUStack([LMUFFT(3, 8, 6, None, 12.0), LMU(8, 8, 6, 12.0)])
    assert sum(p.numel() for p in stack.parameters()) == sum(
        value.numel() for value in stack.state_dict().values()
    )


def test_an_ensemble_taken_back_leaves_no_mark():
    members, x = [LMU(5, 9, 13, theta) for theta in (17.0, 17.0)], torch.randn(1, 4, 5)
    parameters, buffers = stack_module_state(members)
    run = vmap(lambda p, b: functional_call(members[0], (p, b), (x,))[0])
    stacked = {
        f"memory.{name}": torch.stack([getattr(m.memory, name) for m in members])
        for name in ("Ad", "Bd")
    }
    right = run(parameters, stacked)
    torch.testing.assert_close(run(parameters, buffers), right)  # and warns of nothing
