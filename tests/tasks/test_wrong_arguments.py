"""Arguments of tasks and experiments that are empty, ragged or of another kind are named."""

import math
from typing import Any

import pytest
import torch

from experiments.capacity import data as capacity
from experiments.capacity.models import DelayLine, decoding_error
from experiments.mackey_glass import data as mackey_glass
from experiments.series import data as series
from lmu import LegendreMemory
from lmu.tasks import mnist
from lmu.tasks.psmnist import data as psmnist

ONES = torch.ones(4, 3)
NAN = torch.tensor([1.0, math.nan])


def data() -> series.Recordings:
    return series.as_recordings([torch.ones(3, 2), torch.zeros(2, 2)], ["a", "b"])


def recordings(values: Any, labels: Any = ("a", "b")) -> Any:
    return series.as_recordings(values, labels)


CASES = [
    (lambda: recordings([], []), ValueError, "at least one series"),
    (lambda: recordings([torch.ones(0, 2), ONES]), ValueError, "series 0 must not be empty"),
    (lambda: recordings([ONES, torch.ones(4, 2)]), ValueError, "series 1 has 2 features"),
    (lambda: recordings([ONES, torch.ones(4)]), ValueError, r"series 1 must have the shape"),
    (lambda: recordings([ONES, [[1.0], [1.0, 2.0]]]), TypeError, "series 1 must be a torch.Tensor"),
    (lambda: recordings([ONES, NAN[:, None]]), ValueError, "series 1 has"),
    (lambda: recordings([ONES, ONES], [1, 2]), TypeError, "each label must be a str, got 1"),
    (lambda: recordings(None), TypeError, "series must be of list or tuple, got None"),
    (lambda: data().select(torch.tensor([5])), ValueError, r"there are 2 series, got .* .5."),
    (lambda: data().select(torch.tensor([0.5])), TypeError, "chosen must hold integers"),
    (lambda: data().select(torch.tensor([True])), ValueError, "a mask must be of 2 series"),
    (lambda: series.normalize(data(), None), TypeError, "training must be of Recordings, got None"),  # pyright: ignore
    (lambda: series.held_out(data(), 3, 3), ValueError, "fold must be one of 0 to 2, got 3"),
    (lambda: series.held_out(data(), 0, 0), ValueError, "folds must be at least 1, got 0"),
    (lambda: series.windows(NAN, 1, 1, 1, 2), ValueError, "series has values that are missing"),
    (lambda: series.windows(ONES[0], 0, 1, 1, 2), ValueError, "window must be at least 1, got 0"),
    (lambda: series.windows(ONES[0], 1, -1, 1, 2), ValueError, "horizon must be at least 1"),
    (lambda: series.rmse(ONES, ONES[:2]), ValueError, "both must be of one shape"),
    (lambda: series.rmse(ONES[:0], ONES[:0]), ValueError, "forecasts must not be empty"),
    (lambda: series.accuracy(ONES[0], ONES[1, :2]), ValueError, "both must be of one shape"),
    (lambda: series.accuracy([1], ONES[0]), TypeError, "answers must be a torch.Tensor, got list"),  # pyright: ignore
    (lambda: mackey_glass.mackey_glass("x", 3), TypeError, "history must hold numbers, got 'x'"),  # pyright: ignore
    (lambda: mackey_glass.mackey_glass(NAN, 3), ValueError, "history must be a vector of positive"),
    (lambda: mackey_glass.mackey_glass(ONES[0], 2**62), ValueError, "steps must be at most"),
    (lambda: mackey_glass.mackey_glass(ONES[0], 3, tau=math.nan), ValueError, "tau must be a fin"),
    (lambda: mackey_glass.make_task(series=(1, 2)), TypeError, "series must be three numbers"),  # pyright: ignore
    (lambda: mackey_glass.make_task(length=1.5), TypeError, "length must be an int, got 1.5"),  # pyright: ignore
    (lambda: mackey_glass.nrmse(ONES[:0], ONES[:0]), ValueError, "must not be empty"),
    (lambda: mackey_glass.nrmse(ONES, 0 * ONES), ValueError, "the target does not vary"),
    (lambda: capacity.band_limited_noise(50, 0, seed=0), ValueError, "theta must be above 0"),
    (lambda: capacity.band_limited_noise(50, 9, seed=-1), ValueError, "seed must be at least 0"),
    (
        lambda: decoding_error(LegendreMemory(4, 9), ONES[:, :0], ONES[0].long()),
        ValueError,
        "signal must not be empty",
    ),
    (
        lambda: decoding_error(LegendreMemory(2, 2), torch.ones(1, 30), torch.tensor([5])),
        ValueError,
        "delays must lie within 0 and 1, the window, got 5 to 5",
    ),
    (lambda: DelayLine(0, 2), ValueError, "hidden_size must be at least 1, got 0"),
    (lambda: mnist.load({}, "train"), ValueError, "paths must name train-images"),
    (lambda: mnist.load({}, "test"), ValueError, "part must be one of train, t10k, got 'test'"),  # pyright: ignore
    (lambda: mnist.locate(3), TypeError, "data must be a path, got 3"),  # pyright: ignore
    (lambda: mnist.locate("a" * 5000), ValueError, "cannot be read: File name too long"),
    (
        lambda: psmnist.check_permutation(torch.eye(3).to_sparse()),
        ValueError,
        "permutation must be a dense tensor, got one that is torch.sparse_coo",
    ),
    (lambda: psmnist.PsMNIST(limit=-1), ValueError, "limit must be at least 1, got -1"),
    (lambda: psmnist.PsMNIST(torch.arange(3)), ValueError, "permutation must hold 784 integers"),
    (lambda: psmnist.PsMNIST().images(ONES[..., None]), ValueError, "must be .digits, 784, 1."),
    (lambda: psmnist.split_indices("no"), TypeError, "full_train must be True or False"),  # pyright: ignore
]


@pytest.mark.parametrize(("call", "error", "says"), CASES)
def test_what_is_wrong_is_named(call, error, says):
    with pytest.raises(error, match=says):
        call()
