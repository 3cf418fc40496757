"""Layers in PyTorch's own wrappers for several processes."""

import pytest

from tests.distributed.clients import KINDS, fully_sharded, lengths_of_their_own


@pytest.mark.parametrize("kind", KINDS)
def test_data_parallel_with_a_length_for_each_process(processes, kind):
    """Nothing but gradients is exchanged: constants are not broadcast."""
    for error, of_gradients, broadcasts in processes.run(2, lengths_of_their_own, kind):
        assert error < 1e-12
        assert of_gradients < 1e-9
        assert broadcasts == 0


@pytest.mark.parametrize("original", [False, True])
def test_stacks_of_fully_sharded_layers_keep_their_state(processes, original):
    for error in processes.run(2, fully_sharded, "stack", original):
        assert error < 1e-12
