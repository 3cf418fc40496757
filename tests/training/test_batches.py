import pytest
import torch

from lmu.training.batches import Batches, Order, Share
from lmu.training.data import check_finite


def shares(samples: int, batch_size: int, world_size: int, *, shuffle: bool) -> list[list[Share]]:
    """What each process gets in an epoch."""
    part = (torch.arange(samples * 1.0), torch.arange(samples))
    order = Order(samples, shuffle=shuffle, seed=5)
    return [
        list(Batches(part, batch_size, order, lambda: 3, rank, world_size))
        for rank in range(world_size)
    ]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("samples", [8, 9, 10, 11])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_share_the_batches_of_one(samples: int, world_size: int, shuffle: bool) -> None:
    (alone,) = shares(samples, 4, 1, shuffle=shuffle)
    assert sorted(y for _, labels, _ in alone for y in labels.tolist()) == list(range(samples))
    together = shares(samples, 4, world_size, shuffle=shuffle)
    assert {len(steps) for steps in together} == {len(alone)} == {-(-samples // 4)}
    for (x, y, weight), *parts in zip(alone, *together, strict=True):
        assert weight == 1
        counted = [label for _, labels, w in parts if w for label in labels.tolist()]
        assert sorted(counted) == sorted(y.tolist())
        # Weighted means of the shares average to the mean of the batch.
        mean = sum(w * part.mean() for part, _, w in parts) / world_size
        torch.testing.assert_close(mean, x.mean())


def test_a_process_without_a_sample_takes_a_step_that_counts_nothing() -> None:
    together = shares(9, 4, 2, shuffle=True)
    (_, y, weight), (_, same, nothing) = (steps[-1] for steps in together)
    assert (weight, nothing) == (2, 0)
    assert torch.equal(y, same)


def test_epochs_and_seeds_have_their_own_order() -> None:
    order = Order(100, shuffle=True, seed=1)
    assert torch.equal(order.indices(4), Order(100, shuffle=True, seed=1).indices(4))
    assert not torch.equal(order.indices(4), order.indices(5))
    assert not torch.equal(order.indices(4), Order(100, shuffle=True, seed=2).indices(4))


def test_the_order_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    Order(100, shuffle=True).indices(0)
    assert torch.equal(torch.get_rng_state(), state)


def test_batches_keep_inputs_and_labels_together() -> None:
    x, y = torch.arange(11.0).view(11, 1, 1), torch.arange(11)
    epoch = 0
    batches = Batches((x, y), 4, Order(11, shuffle=True), lambda: epoch)
    assert len(batches) == 3
    first = list(batches)
    assert [len(labels) for _, labels, _ in first] == [4, 4, 3]
    for inputs, labels, _ in first:
        assert torch.equal(inputs[:, 0, 0].long(), labels)
    epoch = 1
    assert not torch.equal(next(iter(batches))[1], first[0][1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_samples_that_are_not_finite_are_named(bad: float) -> None:
    x = torch.zeros(5, 3, 1)
    check_finite("train", x)
    x[3, 1] = bad
    with pytest.raises(ValueError, match=r"1 of 5 samples of the train part .* sample 3"):
        check_finite("train", x)
