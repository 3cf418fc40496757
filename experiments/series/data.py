"""Data of real time series: recordings of several lengths, and sunspots."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmu._arguments import checked, instance, shown, tensor, whole, word
from lmu._extras import require

HORIZON = 11  # years: a cycle of the Sun
YEARS = (1899, 1954)  # first years of validation and of the test, five cycles each


@dataclass(frozen=True)
class Recordings:
    """Labelled series of several lengths.

    Attributes:
        x: Values (batch, time, features), zero beyond each length.
        lengths: Steps of each series (batch,).
        y: Indices of the classes (batch,).
        classes: Names of the classes.
    """

    x: Tensor
    lengths: Tensor
    y: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.y)

    @checked(chosen=tensor())
    def select(self, chosen: Tensor) -> "Recordings":
        """Select series by a mask or by indices, cut to the longest of them.

        Raises:
            TypeError: ``chosen`` holds neither integers nor a mask.
            ValueError: The mask is of another size, or an index is out of range.
        """
        mask = chosen.dtype == torch.bool
        if mask and chosen.shape != self.y.shape:
            raise ValueError(
                f"a mask must be of {len(self)} series, got the shape {tuple(chosen.shape)}"
            )
        if not mask:
            tensor("series", whole=True)("chosen", chosen)
            if len(chosen) and not -len(self) <= chosen.min() <= chosen.max() < len(self):
                raise ValueError(f"there are {len(self)} series, got the indices {chosen.tolist()}")
            chosen = chosen.long()
        lengths = self.lengths[chosen]
        if not len(lengths):
            return Recordings(self.x[chosen, :0], lengths, self.y[chosen], self.classes)
        x = self.x[chosen, : int(lengths.max())]
        return Recordings(x, lengths, self.y[chosen], self.classes)


def _japanese_vowels(part: str) -> Any:
    from sktime.datasets import load_japanese_vowels

    return load_japanese_vowels(split=part, return_type="nested_univ")


def _basic_motions(part: str) -> Any:
    from sktime.datasets import load_basic_motions

    return load_basic_motions(split=part, return_type="nested_univ")


DATA_SETS: dict[str, Callable[[str], Any]] = {
    "JapaneseVowels": _japanese_vowels,
    "BasicMotions": _basic_motions,
}


@checked(name=word, part=word)
def load_recordings(name: str, part: str) -> Recordings:
    """Load a data set of sktime, not normalized.

    Args:
        name: ``"JapaneseVowels"``: which of nine men says /ae/; 12 cepstrum coefficients (no unit)
            every 6.4 ms, 7 to 29 steps; 270 training and 370 test series. Or ``"BasicMotions"``:
            which of four motions the wearer of a watch makes; acceleration (g) and angular
            velocity (rad/s) along three axes each, ten times a second, 100 steps; 40 and 40.
        part: ``"train"`` or ``"test"``, as divided by the archive.

    Raises:
        ImportError: sktime is not installed.
        TypeError: A name is not a str.
        ValueError: There is no such data set or part, or a value is missing.

    Source: Kudo, Toyama & Shimbo, Pattern Recognition Letters 20, 1999; Bagnall et al., "The UEA
    multivariate time series classification archive", arXiv 1811.00075, 2018.
    """
    if name not in DATA_SETS:
        raise ValueError(f"the data set must be one of {list(DATA_SETS)}, got {name!r}")
    if part not in {"train", "test"}:
        raise ValueError(f"the part must be 'train' or 'test', got {part!r}")
    require("sktime", extra="series")
    table, labels = DATA_SETS[name](part)
    series = [
        torch.stack([torch.from_numpy(cell.to_numpy("float64", copy=True)) for cell in row], dim=1)
        for row in table.itertuples(index=False)
    ]
    return as_recordings(series, [str(label) for label in labels])


@checked(series=instance(list, tuple), labels=instance(list, tuple))
def as_recordings(series: list[Tensor], labels: list[str]) -> Recordings:
    """Pad series (time, features) of several lengths; classes are numbered as their names sort.

    Raises:
        TypeError: An argument is not a list, or a series holds no numbers.
        ValueError: There is no series, not one label for each, one is empty or of another number
            of features than the first, or a value is not finite.
    """
    if len(series) != len(labels):
        raise ValueError(f"each series needs a label, got {len(series)} and {len(labels)}")
    if not series:
        raise ValueError("series must hold at least one series")
    for label in labels:
        word("each label", label)
    for i, values in enumerate(series):
        tensor("time", "features", filled=True)(f"series {i}", values)
        if values.is_complex() or values.is_meta:
            raise TypeError(f"series {i} must hold real numbers, got {shown(values)}")
        if values.shape[1] != series[0].shape[1]:
            raise ValueError(
                f"series {i} has {values.shape[1]} features and the first {series[0].shape[1]}: "
                "they must have one number"
            )
        if not values.isfinite().all():
            raise ValueError(f"series {i} has values that are missing or not finite")
    classes = tuple(sorted(set(labels)))
    return Recordings(
        torch.nn.utils.rnn.pad_sequence(list(series), batch_first=True).float(),
        torch.tensor([len(values) for values in series]),
        torch.tensor([classes.index(label) for label in labels]),
        classes,
    )


@checked(data=instance(Recordings), training=instance(Recordings))
def normalize(data: Recordings, training: Recordings) -> Recordings:
    """Normalize each feature by its mean and deviation in ``training``.

    Raises:
        TypeError: An argument is of another kind.
        ValueError: The numbers of features differ, or ``training`` has less than two steps.
    """
    if data.x.shape[2] != training.x.shape[2]:
        raise ValueError(
            f"both must have one number of features, got {data.x.shape[2]} and "
            f"{training.x.shape[2]}"
        )
    if int(training.lengths.sum()) < 2:
        raise ValueError("training must have at least two steps, to tell a deviation")
    std, mean = torch.std_mean(training.x[_mask(training)], dim=0)
    x = (data.x - mean) / std.clamp_min(1e-6)
    x = torch.where(_mask(data)[..., None], x, 0.0)
    return Recordings(x, data.lengths, data.y, data.classes)


def _mask(data: Recordings) -> Tensor:
    return torch.arange(data.x.shape[1]) < data.lengths[:, None]


@checked(data=instance(Recordings), fold=whole(0), folds=whole(1))
def held_out(data: Recordings, fold: int, folds: int) -> Tensor:
    """Return a mask (batch,) of each ``folds``-th series of each class, for validation.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: ``fold`` is not one of the ``folds``, from 0 on.
    """
    if fold >= folds:
        raise ValueError(f"fold must be one of 0 to {folds - 1}, got {fold}")
    if not len(data):
        return torch.zeros(0, dtype=torch.bool)
    place = torch.stack([(data.y[:i] == label).sum() for i, label in enumerate(data.y)])
    return place % folds == fold


def sunspots() -> tuple[Tensor, Tensor]:
    """Load years 1700 to 2008 and the mean number of sunspots in each, both (309,) in float64.

    The series has no gaps, and its cycles of 9 to 14 years differ and are irregular, so that no
    calendar predicts them. statsmodels' other long series, weekly CO2, is so regular that repeating
    the last year is nearly the best forecast.

    Raises:
        ImportError: statsmodels is not installed.
        ValueError: A value is missing.

    Source: National Geophysical Data Center (NOAA), as ``statsmodels.datasets.sunspots``.
    """
    require("statsmodels", extra="series")
    from statsmodels.datasets import sunspots as source

    table: Any = source.load_pandas().data
    years, counts = (
        torch.from_numpy(table[column].to_numpy("float64", copy=True))
        for column in ("YEAR", "SUNACTIVITY")
    )
    if not counts.isfinite().all():
        raise ValueError("the series has values that are missing or not finite")
    return years, counts


@dataclass(frozen=True)
class Windows:
    """Known values at each origin of a forecast, and those to forecast.

    Attributes:
        x: The last values (origins, window, 1), padded at the end beyond ``lengths``.
        lengths: Number of known values (origins,).
        y: The next values (origins, horizon).
        origins: Index in the series of each first value to be forecast (origins,).
    """

    x: Tensor
    lengths: Tensor
    y: Tensor
    origins: Tensor


@checked(
    series=tensor("time", finite=True),
    window=whole(1),
    horizon=whole(1),
    first=whole(),
    end=whole(),
)
def windows(series: Tensor, window: int, horizon: int, first: int, end: int) -> Windows:
    """Make windows for all forecasts of ``horizon`` values within ``first`` and ``end``, exclusive.

    The inputs may lie before ``first``, as they are known by then. Parts whose bounds do not
    overlap have no target in common.

    Args:
        series: Values (time,).
        window: Largest number of known values.
        horizon: Number of values to forecast.
        first: Index of the first value to be forecast, at least 1.
        end: Index after the last.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: No forecast fits within the bounds, or a value is missing.
    """
    if not 1 <= first <= end - horizon <= len(series) - horizon:
        raise ValueError(
            f"no forecast of {horizon} values lies within {first} and {end} of a series of "
            f"{len(series)}, with a value before it"
        )
    origins = torch.arange(first, end - horizon + 1)
    lengths = origins.clamp_max(window)
    known = (origins - lengths)[:, None] + torch.arange(window)
    mask = torch.arange(window) < lengths[:, None]
    x = torch.where(mask, series[known.clamp_max(len(series) - 1)], 0.0)
    y = series[origins[:, None] + torch.arange(horizon)]
    return Windows(x.unsqueeze(2), lengths, y, origins)


_values = tensor("origins", "horizon", filled=True)


@checked(forecasts=_values, truth=_values)
def rmse(forecasts: Tensor, truth: Tensor) -> Tensor:
    """Root mean square error (horizon,) over origins; both are (origins, horizon).

    Raises:
        TypeError: An argument is not a tensor of real numbers.
        ValueError: The shapes differ, or the tensors are empty.
    """
    _check_alike(forecasts, truth)
    return (forecasts - truth).square().mean(dim=0).sqrt()


_names = tensor("batch", filled=True)


@checked(answers=_names, labels=_names)
def accuracy(answers: Tensor, labels: Tensor) -> float:
    """Fraction of right answers (batch,).

    Raises:
        TypeError: An argument is not a tensor.
        ValueError: The shapes differ, or the tensors are empty.
    """
    _check_alike(answers, labels)
    return (answers == labels).double().mean().item()


def _check_alike(one: Tensor, other: Tensor) -> None:
    if one.shape != other.shape or one.device != other.device:
        raise ValueError(
            f"both must be of one shape and place, got {shown(one)} and {shown(other)}"
        )
    for values in (one, other):
        if values.is_complex() or values.is_meta:
            raise TypeError(f"both must hold real numbers, got {shown(values)}")
