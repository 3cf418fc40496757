"""Processes that share a sequence must hold one model."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from lmu import LMUFFT
from lmu.distributed._alike import compare, describe


def model(seed: int = 0, **kwargs: Any) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(LMUFFT(**({"input_size": 2, "hidden_size": 3, "memory_size": 4,
                                    "theta": 9.0} | kwargs)))  # fmt: skip


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (model(theta=8.0), r"processes 0 and 1 .*: theta and discretizer of 0 differ"),
        (model(discretizer="bilinear"), "theta and discretizer of 0 differ"),
        (model(seed=1), r"the weights 0.W_u.weight and \d more differ"),
        (model(hidden_size=5), r"the weights 0.W_u.weight and \d more differ"),
    ],
)
def test_what_differs_is_named(
    other: nn.Module, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gather(found: list[Any], facts: Any, group: Any) -> None:
        found[:] = [facts, describe(other)]

    monkeypatch.setattr(dist, "get_world_size", lambda group: 2)
    monkeypatch.setattr(dist, "all_gather_object", gather)
    with pytest.raises(ValueError, match=says):
        compare(describe(model()), None)
    other = model()
    compare(describe(model()), None)
