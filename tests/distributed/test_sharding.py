"""Stacks of layers under ``fully_shard`` learn what they learn in one process."""

import pytest
import torch

from tests.distributed.sharding import alone, build, sharded


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("stack", {}),
        ("learned theta", {}),
        pytest.param("stack", {"compile": True}, marks=pytest.mark.slow),
        ("parallel", {"over_time": True}),
    ],
    ids=["plain", "learned theta", "compiled", "time spread too"],
)
def test_losses_and_weights_are_those_of_one_process(processes, kind, options):
    losses, weights = alone(kind)
    assert losses[-1] < losses[0]
    for got_losses, got, theta in processes.run(2, sharded, kind, **options):
        assert got_losses == pytest.approx(losses, rel=1e-12)
        assert got.keys() == weights.keys()
        for name, value in weights.items():
            wanted = torch.tensor(value)
            torch.testing.assert_close(torch.tensor(got[name]), wanted, atol=1e-9, rtol=1e-9)
        model = build(kind)
        model.load_state_dict({name: torch.tensor(value) for name, value in got.items()})
        assert theta == pytest.approx(model.layers[0].theta)


def test_parameters_narrowed_by_the_policy(processes):
    losses, _ = alone("stack")
    for got, _, _ in processes.run(2, sharded, "stack", narrow=True):
        assert got == pytest.approx(losses, rel=2e-2)
        assert got != pytest.approx(losses, rel=1e-9)
