"""Sequences spread over processes give what one process gives."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from lmu import LMUFFT
from lmu.distributed import sequence_parallel
from lmu.distributed.carry import ALGORITHMS
from tests.distributed import work
from tests.distributed.work import numbers, sharded, whole
from tests.variants import SINGLE, VARIANTS

SHARDS = {"even": (8, 8, 8), "uneven": (3, 17, 1, 6), "two": (13, 4), "single steps": (1, 1, 1)}


def close(got: list, wanted: list, tolerance: float) -> None:
    torch.testing.assert_close(
        torch.tensor(got, dtype=torch.float64), torch.tensor(wanted, dtype=torch.float64),
        rtol=tolerance, atol=tolerance,
    )  # fmt: skip


def compare(parts: list[dict], one: dict, *, all_steps: bool, tolerance: float = 1e-12) -> None:
    if all_steps:
        y = torch.cat([torch.tensor(part["y"], dtype=torch.float64) for part in parts], dim=1)
        close(y.tolist(), one["y"], tolerance)
    x = torch.cat([torch.tensor(part["x"], dtype=torch.float64) for part in parts], dim=1)
    close(x.tolist(), one["x"], tolerance)
    for part in parts:
        if not all_steps:
            close(part["y"], one["y"], tolerance)
        for got, wanted in zip(
            part["after"] + part["weights"], one["after"] + one["weights"], strict=True
        ):
            close(got, wanted, tolerance)
        if one["before"] is not None:
            close(part["before"], one["before"], tolerance)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("steps", SHARDS.values(), ids=SHARDS)
def test_outputs_states_and_gradients(processes, algorithm, steps):
    one = whole("layer", {}, sum(steps), state=True)
    parts = processes.run(
        len(steps), sharded, "layer", {}, steps, {"algorithm": algorithm}, state=True
    )
    compare(parts, one, all_steps=True)


LAYERS: dict[str, dict[str, Any]] = {
    "channels": {"memory_channels": 3},
    "learned thetas": {"name": "LMUFFT-encoded", "learn_theta": True},
    "learned matrices": {"learn_a": True, "learn_b": True},
    "states": {"method": "states"},
}
LAYERS |= {name: {"name": name} for name in SINGLE if VARIANTS[name].kind is LMUFFT}


@pytest.mark.parametrize("state", [False, True], ids=["from zero", "from a state"])
@pytest.mark.parametrize("kwargs", LAYERS.values(), ids=LAYERS)
def test_all_kinds_of_layers(processes, kwargs, state):
    steps = (5, 4, 2)
    one = whole("layer", kwargs, sum(steps), state=state)
    parts = processes.run(3, sharded, "layer", kwargs, steps, {}, state=state)
    compare(parts, one, all_steps=torch.tensor(one["y"]).ndim == 3)


@pytest.mark.parametrize(
    "kwargs", [{}, {"return_sequences": False}], ids=["all steps", "last step"]
)
def test_stacks(processes, kwargs):
    steps = (5, 1, 7, 2)
    one = whole("stack", kwargs, sum(steps), state=False)
    parts = processes.run(4, sharded, "stack", kwargs, steps, {"steps": steps}, state=False)
    compare(parts, one, all_steps=not kwargs)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_many_rows_go_around_the_ring_in_pieces(processes, algorithm):
    got = processes.run(3, work.large, algorithm)
    assert max(got) < 1e-12


def test_a_sequence_goes_on_where_the_last_one_ended(processes):
    lengths = (4, 7, 5)
    y = work.single()(work.sequence_of(lengths))[0]
    parts = processes.run(3, work.resumed, lengths)
    got = [torch.tensor(y) for outputs in zip(*parts, strict=True) for y in outputs]
    torch.testing.assert_close(torch.cat([g.double() for g in got], dim=1), y)


@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [
        pytest.param("stack", {}, marks=pytest.mark.slow),
        ("layer", {"return_sequences": False}),
        ("layer", {"return_sequences": False, "learn_theta": True}),
    ],
    ids=["stack", "last step", "learned theta"],
)
def test_compiled_whole(processes, kind, kwargs):
    for eager, fullgraph in processes.run(2, work.compiled, (5, 3), kind, kwargs):
        for a, b in zip(eager, fullgraph, strict=True):
            close(b, a, 1e-12)


def test_weighted_losses_of_uneven_shards(processes):
    steps = (4, 7, 1)
    layer = work.single()
    layer(work.sequence_of(steps))[0].square().mean().backward()
    for got in processes.run(3, work.uneven_under_ddp, steps):
        for a, p in zip(got, layer.parameters(), strict=True):
            close(a, numbers(p.grad), 1e-12)


def test_narrow_dtypes(processes):
    for outputs, gradients, autocast in processes.run(2, work.narrowed, 40):
        assert outputs < 1e-6
        assert gradients < 1e-6
        assert 0 < autocast < 3e-2


def test_data_times_sequence(processes):
    model = work.classifier()
    x, labels = work.digits()
    nn.functional.cross_entropy(model(x), labels).backward()
    wanted = numbers([p.grad for p in model.parameters()])
    for got in processes.run(4, work.mesh_gradients):
        for a, b in zip(got, wanted, strict=True):
            close(a, b, 1e-12)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("batch", r"ValueError.* steps of the same sequences, .* got \(1, 1, 5\) .*, \(2, 1, 5\)"),
        ("steps", r"ValueError: process \d was to hold 4 steps, got 5"),
        ("count", r"ValueError: steps must hold a positive number for each of 2 .* got \[4\]"),
        ("none", r"ValueError: steps must hold a positive number .* got \[4, 0\]"),
        ("algorithm", r"ValueError: algorithm must be one of .*'scan', .* got 'walk'"),
        ("lengths", r"ValueError: lengths and packed sequences cannot be spread"),
        ("recurrent", r"TypeError: 1 is an LMU, which goes through time step by step"),
        ("nothing", r"ValueError: Linear holds no LMUFFT"),
        ("short", r"ValueError: 1 steps are too few for 2 processes"),
        ("group", r"TypeError: group must be a ProcessGroup, a DeviceMesh or None, got str"),
    ],
)
def test_refusals_say_what_is_wrong(processes, kind, message):
    for got in processes.run(2, work.refused, kind):
        assert re.search(message, got), got


def test_without_processes():
    with pytest.raises(RuntimeError, match="start the processes with torchrun"):
        sequence_parallel(work.single())


def test_it_can_be_undone(processes):
    assert max(processes.run(4, work.undone)) == 0


def test_second_derivatives_are_refused(processes):
    for message in processes.run(2, work.second_derivative):
        assert "lmu.carry" in message


def test_powers_of_a_constant_matrix_are_computed_once(processes):
    # Of three processes only the last advances a state: by the 8 steps of the second.
    for rank, (first, second, noticed) in enumerate(processes.run(3, work.kept)):
        assert first == second == (4 if rank == 2 else 0)
        assert noticed


def test_a_state_alone_needs_a_gradient(processes):
    first, *others = processes.run(3, work.frozen)
    assert first[0] > 0
    assert max(others) == [0]


def test_training_after_inference(processes):
    assert all(processes.run(3, work.inference_first))


def test_recomputation_in_backward(processes):
    assert max(processes.run(2, work.checkpointed)) == 0
