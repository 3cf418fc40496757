import itertools
import sys

import pytest
import torch

from experiments.series import data as series
from experiments.series.data import (
    HORIZON,
    YEARS,
    accuracy,
    as_recordings,
    held_out,
    load_recordings,
    normalize,
    rmse,
    sunspots,
    windows,
)


@pytest.fixture(scope="module")
def vowels():
    return load_recordings("JapaneseVowels", "train")


def test_vowels_are_of_several_lengths(vowels):
    assert vowels.x.shape == (270, 26, 12)
    assert len(vowels.classes) == 9
    assert vowels.y.bincount().tolist() == [30] * 9
    assert vowels.lengths.min() == 7
    assert vowels.lengths.max() == vowels.x.shape[1]
    for x, length in zip(vowels.x, vowels.lengths.tolist(), strict=True):
        assert x[:length].any(dim=1).all()
        assert x[length:].eq(0).all()


def test_motions():
    test = load_recordings("BasicMotions", "test")
    assert test.x.shape == (40, 100, 6)
    assert test.lengths.tolist() == [100] * 40
    assert test.classes == ("badminton", "running", "standing", "walking")
    assert test.y.bincount().tolist() == [10] * 4


def small() -> series.Recordings:
    g = torch.Generator().manual_seed(0)
    made = [3 + 2 * torch.randn(n, 2, generator=g) for n in (5, 9, 3, 7, 8, 4)]
    return as_recordings(made, ["b", "a", "b", "a", "a", "b"])


def test_recordings_are_padded_and_numbered():
    data = small()
    assert data.x.shape == (6, 9, 2)
    assert data.lengths.tolist() == [5, 9, 3, 7, 8, 4]
    assert data.classes == ("a", "b")
    assert data.y.tolist() == [1, 0, 1, 0, 0, 1]
    few = data.select(torch.tensor([0, 2]))
    assert few.x.shape == (2, 5, 2)
    assert few.y.tolist() == [1, 1]


def test_normalization_is_that_of_the_training_steps():
    data = small()
    train, test = data.select(torch.tensor([0, 1, 2])), data.select(torch.tensor([3, 4, 5]))
    steps = torch.cat([x[:n] for x, n in zip(train.x, train.lengths, strict=True)])
    scaled = normalize(test, train)
    for x, before, n in zip(scaled.x, test.x, test.lengths, strict=True):
        torch.testing.assert_close(x[:n], (before[:n] - steps.mean(0)) / steps.std(0))
        assert x[n:].eq(0).all()


def test_each_series_is_held_out_in_one_fold(vowels):
    masks = torch.stack([held_out(vowels, fold, 5) for fold in range(5)])
    assert masks.sum(0).eq(1).all()
    for mask in masks:
        assert vowels.y[mask].bincount().tolist() == [6] * 9


def test_sunspots():
    years, counts = sunspots()
    assert years.tolist() == list(range(1700, 2009))
    assert counts.min() >= 0
    assert counts[years == 1957].item() == pytest.approx(190.2)


def test_windows_hold_what_is_known_and_what_comes():
    values = torch.arange(1.0, 21)
    part = windows(values, 6, 3, 4, 12)
    assert part.origins.tolist() == [4, 5, 6, 7, 8, 9]
    assert part.lengths.tolist() == [4, 5, 6, 6, 6, 6]
    assert part.x[0, :, 0].tolist() == [1, 2, 3, 4, 0, 0]
    assert part.y[0].tolist() == [5, 6, 7]
    assert part.x[-1, :, 0].tolist() == [4, 5, 6, 7, 8, 9]
    assert part.y[-1].tolist() == [10, 11, 12]


def test_parts_in_time_order_share_no_target():
    years, _ = sunspots()
    bounds = [HORIZON, *(int((years < year).sum()) for year in YEARS), len(years)]
    parts = [windows(years, 66, HORIZON, first, end) for first, end in itertools.pairwise(bounds)]
    for before, after in itertools.pairwise(parts):
        assert before.y.max() < after.y.min()
    for part in parts:
        known = torch.stack([x[n - 1, 0] for x, n in zip(part.x, part.lengths, strict=True)])
        assert known.equal(part.y[:, 0] - 1)  # nothing later is known, and nothing is left out


def test_errors_by_year_ahead():
    truth = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    forecasts = truth + torch.tensor([[3.0, 1.0], [4.0, -1.0]])
    torch.testing.assert_close(rmse(forecasts, truth), torch.tensor([12.5**0.5, 1.0]))
    assert accuracy(torch.tensor([1, 2, 0, 0]), torch.tensor([1, 2, 3, 0])) == 0.75


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: load_recordings("Vowels", "train"), "data set must be one of.*JapaneseVowels"),
        (lambda: load_recordings("BasicMotions", "validation"), "part must be 'train' or 'test'"),
        (lambda: as_recordings([torch.tensor([[1.0], [torch.nan]])], ["a"]), "series 0 has values"),
        (lambda: as_recordings([torch.ones(2, 1)], ["a", "b"]), "needs a label, got 1 and 2"),
        (lambda: windows(torch.ones(20), 6, 5, 10, 14), "no forecast of 5 values lies within"),
        (lambda: windows(torch.ones(20), 6, 5, 0, 14), "with a value before it"),
        (lambda: windows(torch.ones(20), 6, 5, 10, 21), "series of 20"),
    ],
)
def test_wrong_input(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


@pytest.mark.parametrize(
    ("package", "load"),
    [("sktime", lambda: load_recordings("BasicMotions", "train")), ("statsmodels", sunspots)],
)
def test_missing_package_names_what_to_install(monkeypatch, package, load):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    found = series.require.__globals__["find_spec"]
    monkeypatch.setattr(
        "lmu._extras.find_spec", lambda name: None if name == package else found(name)
    )
    with pytest.raises(ImportError, match=rf'{package} not installed.*pip install "numba'):
        load()
