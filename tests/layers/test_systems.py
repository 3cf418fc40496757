"""Systems other than Legendre's, continuous and discrete, with and without a decoder."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lmu import LMU, LMUFFT, LegendreMemory, LMUCell, LMUStack, Stream
from lmu.theory import decode_window, discretize, fourier, fourier_basis, legt
from tests import variants

F64 = torch.float64
KINDS = ["memory", "LMUCell", "LMU", "LMU-open", "LMUFFT", "LMUFFT-last"]
kinds = pytest.mark.parametrize("name", KINDS)


def build(name: str, **kwargs: Any) -> Any:
    return variants.fill(variants.build(name, dtype=F64, **kwargs))


def same(name: str, one: Any, other: Any) -> None:
    """Both layers give the same from the same weights."""
    other.load_state_dict(dict(one.state_dict()), strict=False)
    x = variants.sample(one, 25, dtype=F64)
    torch.testing.assert_close(variants.run(one, x), variants.run(other, x))
    state = variants.run(one, x)[1]
    torch.testing.assert_close(variants.run(one, x, state), variants.run(other, x, state))


@kinds
@pytest.mark.parametrize("method", ["zoh", "bilinear", "euler-unchecked", None])
def test_legendres_system_by_hand_is_the_built_in_one(name, method):
    A, B = legt(6, 12.0)
    plain = build(name, discretizer=method or "zoh")
    pair = (A, B) if method else discretize(A, B, "zoh")
    same(name, plain, build(name, system=pair, discretizer=method))
    narrow = tuple(t.float() for t in pair)  # of what a float32 matrix holds nothing is lost
    layer = variants.memory_of(build(name, system=narrow, discretizer=None))
    assert layer.Ad.dtype == F64
    torch.testing.assert_close(layer.Ad, narrow[0].double(), rtol=0, atol=0)


@kinds
def test_each_channel_may_have_a_system_of_its_own(name):
    channels = {"channels" if name == "memory" else "memory_channels": 2}
    pairs = [legt(6, 12.0), legt(6, 30.0)]
    A, B = (torch.stack(matrices) for matrices in zip(*pairs, strict=True))
    plain = build(name, theta=(12.0, 30.0), **channels)
    same(name, plain, build(name, system=(A, B), **channels))
    discrete = [torch.stack(t) for t in zip(*(discretize(*p) for p in pairs), strict=True)]
    same(name, plain, build(name, system=discrete, discretizer=None, **channels))


@pytest.mark.parametrize("kind", [LMU, LMUFFT, LMUCell, LegendreMemory])
def test_the_window_of_fourier_is_read_by_its_decoder(kind):
    theta, order = 50.0, 21
    system = (*fourier(order, theta), fourier_basis)
    memory = LegendreMemory(order, theta, system=system, dtype=F64)
    t = torch.arange(400, dtype=F64)
    u = (torch.sin(2 * torch.pi * t / 50) + 0.5 * torch.cos(4 * torch.pi * t / 50))[None, :, None]
    _, m = memory(u)
    delays = torch.arange(3, 47)
    right = u[0, 399 - delays, 0]
    layer = memory if kind is LegendreMemory else kind(
        1, 3, order, theta=theta, system=system, dtype=F64
    )  # fmt: skip
    got = layer.decode(m, delays)
    assert got.shape == (1, 44, 1)
    assert (got[0, :, 0] - right).abs().max() < 0.05
    r = (delays.double() + 0.5) / theta
    torch.testing.assert_close(got[0, :, 0], fourier_basis(order, r) @ m[0])


def test_a_decoder_reads_each_channel_in_its_window():
    seen: list[Tensor] = []

    def decoder(order: int, r: Tensor) -> Tensor:
        seen.append(r)
        return r[..., None].expand(*r.shape, order)

    A, B = legt(4, 9.0)
    memory = LegendreMemory(4, (9.0, 18.0), 2, system=(A, B, decoder), dtype=F64)
    m = torch.randn(3, 8, dtype=F64)
    got = memory.decode(m, [0.0, 4.0])
    for c, theta in enumerate((9.0, 18.0)):
        r = torch.tensor([0.5, 4.5], dtype=F64) / theta
        torch.testing.assert_close(seen[c], r)
        torch.testing.assert_close(got[..., c], m[:, 4 * c : 4 * c + 4].sum(1)[:, None] * r)
    memory.decode(m, torch.rand(3, 2))
    assert seen[-1].shape == (3, 2)


def test_legendres_decoder_is_one_too():
    def decoder(order: int, r: Tensor) -> Tensor:
        # P_i(2r - 1) is what a state of only the i-th coefficient is decoded to.
        return torch.stack([decode_window(e[None], r)[0] for e in torch.eye(order)], dim=-1)

    own, plain = (
        LegendreMemory(6, 12.0, system=system, dtype=F64)
        for system in ((*legt(6, 12.0), decoder), None)
    )
    m = torch.randn(5, 6, dtype=F64)
    torch.testing.assert_close(own.decode(m), plain.decode(m))


@pytest.mark.parametrize("how", ["none", "is None"])
def test_without_a_decoder_there_is_no_window(how):
    system = legt(4, 9.0) if how == "none" else (*legt(4, 9.0), None)
    for layer in (LegendreMemory(4, 9.0, system=system), LMU(1, 2, 4, 9.0, system=system)):
        with pytest.raises(ValueError, match=r"no decoder: pass system=\(A, B, decoder\)"):
            layer.decode(torch.zeros(1, 4))


@pytest.mark.parametrize("wrong", [torch.zeros(2, 3), [1.0], None])
def test_a_decoder_that_gives_other_shapes_is_told(wrong):
    layer = LegendreMemory(4, 9.0, system=(*legt(4, 9.0), lambda order, r: wrong))
    with pytest.raises(ValueError, match=r"decoder of system must give a tensor \(2, 4\), got"):
        layer.decode(torch.zeros(1, 4), [0.0, 1.0])


def test_matrices_of_another_system_are_learned():
    A, B = fourier(5, 12.0)
    memory = LegendreMemory(5, 12.0, system=(A, B), learn_a=True, learn_b=True)
    Ad, Bd = discretize(A, B)
    torch.testing.assert_close((memory.Ad.double(), memory.Bd.double()), (Ad, Bd))
    memory(torch.randn(2, 9, 1))[0].square().sum().backward()
    for parameter in memory.parameters():
        assert parameter.grad is not None
        assert parameter.grad.any()
        nn.init.zeros_(parameter)
    memory.reset_parameters()
    torch.testing.assert_close(memory.Ad.double(), Ad)


def test_copies_keep_the_system_and_its_decoder():
    layer = LMUFFT(1, 2, 5, theta=12.0, system=(*fourier(5, 12.0), fourier_basis))
    x, m = torch.randn(2, 9, 1), torch.randn(2, 5)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(twin(x), layer(x), rtol=0, atol=0)
        torch.testing.assert_close(twin.decode(m), layer.decode(m), rtol=0, atol=0)
        torch.testing.assert_close(twin.double()(x.double())[0], layer(x)[0].double())


def test_what_was_passed_may_change_later():
    A, B = legt(4, 9.0)
    layer = LegendreMemory(4, 9.0, system=(A, B))
    u = torch.randn(1, 9, 1)
    before = layer(u)[0]
    A.zero_()
    B.zero_()
    torch.testing.assert_close(layer(u)[0], before, rtol=0, atol=0)
    layer.double().float()
    torch.testing.assert_close(layer(u)[0], before, rtol=0, atol=0)


def test_checkpoints_tell_that_a_system_was_another():
    other = LMU(1, 2, 5, 12.0, system=fourier(5, 12.0))
    plain = LMU(1, 2, 5, 12.0)
    with pytest.raises(RuntimeError, match="saved with matrices that were assigned or passed"):
        plain.load_state_dict(other.state_dict())
    with pytest.raises(RuntimeError, match="saved with Legendre's, and is built with matrices"):
        other.load_state_dict(plain.state_dict())
    other.load_state_dict(other.state_dict())


@pytest.mark.parametrize("system", ["fourier", "discrete"])
def test_stacks_and_streams_take_other_systems(system):
    torch.manual_seed(0)
    given = variants.SYSTEMS[system](5, 12.0)
    discretizer = None if system == "discrete" else "zoh"
    options: dict[str, Any] = {"system": given, "discretizer": discretizer, "dtype": F64}
    stack = LMUStack([LMU(3, 4, 5, 12.0, **options), LMUFFT(4, 4, 5, theta=12.0, **options)])
    x = torch.randn(2, 30, 3, dtype=F64)
    for layer in (stack, stack.layers[0]):
        right, state = layer(x)
        stream = Stream(layer, 2)  # pyright: ignore[reportArgumentType]
        torch.testing.assert_close(torch.stack([stream(x_t) for x_t in x.unbind(1)], 1), right)
        torch.testing.assert_close(stream.state, state)
    assert "system=(...)" in repr(stack)


FINE = legt(4, 9.0)
WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"system": "legs"}, ValueError, "system must be one of .* got 'legs'"),
    ({"system": "fourier", "discretizer": None}, ValueError, "for discrete matrices"),
    ({"system": (FINE[0],)}, TypeError, r"system must be one of .* \(A, B\) or"),
    ({"system": (*FINE, None, None)}, TypeError, r"system must be one of .* \(A, B\) or"),
    ({"system": (FINE[0].numpy(), FINE[1])}, TypeError, "A of system must be a real .* ndarray"),
    ({"system": (FINE[0], FINE[1].int())}, TypeError, "B of system must be .* got torch.int32"),
    ({"system": (FINE[0].to(torch.complex64), FINE[1])}, TypeError, "A of system must.*complex64"),
    ({"system": legt(5, 9.0)}, ValueError, r"A \(4, 4\) and B \(4,\).* got \(5, 5\) and \(5,\)"),
    ({"system": (FINE[0], FINE[1][:, None])}, ValueError, r"got \(4, 4\) and \(4, 1\)"),
    ({"system": (FINE[0].expand(2, 4, 4), FINE[1].expand(2, 4))}, ValueError, "for 1 channels"),
    ({"system": (FINE[0], FINE[1].expand(1, 4))}, ValueError, "system must hold A"),
    ({"system": (*FINE, 3)}, TypeError, "decoder of system must be a function, got 3"),
    ({"system": (FINE[0] * torch.nan, FINE[1])}, ValueError, "must hold finite numbers"),
    ({"system": (FINE[0], FINE[1] * torch.inf)}, ValueError, "must hold finite numbers"),
    ({"system": (FINE[0].to("meta"), FINE[1])}, ValueError, "A of system is on meta, without num"),
    ({"system": FINE, "learn_theta": True}, ValueError, "learn_theta trains the window of the Leg"),
    ({"system": FINE, "discretizer": "euler"}, ValueError, "choose 'euler-unchecked', 'zoh' or"),
    ({"system": FINE, "discretizer": "tustin"}, ValueError, "got 'tustin'"),
    ({"system": FINE, "theta": -1.0}, ValueError, "theta must be a positive, finite number"),
    ({"system": FINE, "theta": None}, TypeError, "theta must be a number of time steps, got None"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "kind", "message"), WRONG)
@pytest.mark.parametrize("layer", [LegendreMemory, LMU, LMUCell, LMUFFT])
def test_wrong_systems(layer, wrong, kind, message):
    sizes = {} if layer is LegendreMemory else {"input_size": 1, "hidden_size": 2}
    with pytest.raises(kind, match=message):
        layer(**sizes | {"memory_size": 4, "theta": 9.0} | wrong)


def test_a_system_made_under_a_meta_device_is_real():
    with torch.device("meta"):
        layer = LMUFFT(1, 2, 5, theta=12.0, system=(*fourier(5, 12.0), fourier_basis))
    assert layer.W_h.weight.is_meta
    right = LMUFFT(1, 2, 5, theta=12.0, system=(*fourier(5, 12.0), fourier_basis))
    layer.load_state_dict(right.state_dict(), assign=True)
    x = torch.randn(2, 9, 1)
    torch.testing.assert_close(layer(x), right(x), rtol=0, atol=0)
