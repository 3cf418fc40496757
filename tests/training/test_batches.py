import pytest
import torch

from lmu.training.batches import Batches, EpochSampler


@pytest.mark.parametrize("samples", [8, 9, 10, 11])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_meets_every_sample_once(samples: int, world_size: int) -> None:
    shards = [
        EpochSampler(samples, shuffle=False, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    seen = torch.cat([shard.indices(0) for shard in shards])
    assert sorted(seen.tolist()) == list(range(samples))
    assert sum(map(len, shards)) == samples


@pytest.mark.parametrize("samples", [8, 9, 10, 11])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_training_takes_equal_and_disjoint_shares(samples: int, world_size: int) -> None:
    shards = [
        EpochSampler(samples, shuffle=True, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    parts = [shard.indices(3).tolist() for shard in shards]
    assert {len(part) for part in parts} == {samples // world_size} == set(map(len, shards))
    assert len(set().union(*parts)) == samples // world_size * world_size


def test_epochs_and_seeds_have_their_own_order() -> None:
    sampler = EpochSampler(100, shuffle=True, seed=1)
    assert torch.equal(sampler.indices(4), EpochSampler(100, shuffle=True, seed=1).indices(4))
    assert not torch.equal(sampler.indices(4), sampler.indices(5))
    assert not torch.equal(sampler.indices(4), EpochSampler(100, shuffle=True, seed=2).indices(4))


def test_the_order_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    EpochSampler(100, shuffle=True).indices(0)
    assert torch.equal(torch.get_rng_state(), state)


def test_batches_keep_inputs_and_labels_together() -> None:
    x, y = torch.arange(11.0).view(11, 1, 1), torch.arange(11)
    epoch = 0
    batches = Batches((x, y), 4, EpochSampler(11, shuffle=True), lambda: epoch)
    assert len(batches) == 3
    first = list(batches)
    assert [len(labels) for _, labels in first] == [4, 4, 3]
    for inputs, labels in first:
        assert torch.equal(inputs[:, 0, 0].long(), labels)
    epoch = 1
    assert not torch.equal(next(iter(batches))[1], first[0][1])
