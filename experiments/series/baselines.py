"""Baselines without networks, on the same data and the same origins of forecasts."""

import numpy as np
import torch
from torch import Tensor

from experiments.series.data import HORIZON, Recordings, windows
from lmu import LegendreMemory
from lmu._extras import require


def nearest_neighbour(train: Recordings, test: Recordings) -> Tensor:
    """Return classes (batch,) of the nearest training series by dynamic time warping.

    Squared differences of all features are added up along the best alignment, of series of any
    lengths and without a limit to the warping.

    Source: Sakoe & Chiba, IEEE Transactions on Acoustics, Speech and Signal Processing 26, 1978.
    """
    return train.y[warped_distances(train, test).argmin(dim=1)]


def warped_distances(train: Recordings, test: Recordings) -> Tensor:
    """Compute distances (test, train) of each test series to each training series."""
    rows, columns = test.x.shape[1], train.x.shape[1]
    above = torch.full((columns + 1, len(test), len(train)), torch.inf)
    above[0] = 0.0
    answer = torch.empty(len(test), len(train))
    for i in range(rows):
        mode = "donot_use_mm_for_euclid_dist"  # exact where values are close
        costs = torch.cdist(test.x[:, i], train.x.flatten(0, 1), compute_mode=mode).square()
        costs = costs.unflatten(1, (len(train), columns)).movedim(2, 0).contiguous()
        row = torch.full_like(above, torch.inf)
        entered = torch.minimum(above[1:], above[:-1])
        for j in range(columns):
            row[j + 1] = costs[j] + torch.minimum(entered[j], row[j])
        end = row.gather(0, train.lengths.expand(1, len(test), -1)).squeeze(0)
        answer = torch.where((test.lengths == i + 1)[:, None], end, answer)
        above = row
    return answer


def minirocket(train: Recordings, test: Recordings, seed: int) -> Tensor:
    """Return classes (batch,) by ridge regression on 9,996 random convolutions.

    Series are padded to one length with zeros, the mean of each feature. The first call compiles
    for a minute or two.

    Raises:
        ImportError: numba, scikit-learn or sktime is not installed.

    Source: Dempster, Schmidt & Webb, "MiniRocket", KDD 2021.
    """
    require("numba", "sklearn", "sktime", extra="series")
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sktime.transformations.rocket import MiniRocketMultivariate

    length = max(train.x.shape[1], test.x.shape[1])
    x, other = (
        torch.nn.functional.pad(data.x, (0, 0, 0, length - data.x.shape[1])).mT.double().numpy()
        for data in (train, test)
    )
    rocket = MiniRocketMultivariate(random_state=seed)
    # Outside the pipeline, as sktime's fit resets attributes that scikit-learn's pipelines set.
    x, other = np.asarray(rocket.fit_transform(x)), np.asarray(rocket.transform(other))
    ridge = RidgeClassifierCV(alphas=np.logspace(-3, 3, 10))
    classifier = make_pipeline(StandardScaler(with_mean=False), ridge).fit(x, train.y.numpy())
    return torch.from_numpy(classifier.predict(other))


def repeat_cycle(series: Tensor, first: int, end: int) -> Tensor:
    """Forecast (origins, horizon) the values of eleven years before."""
    return series[: end - HORIZON].unfold(0, HORIZON, 1)[first - HORIZON :]


def autoregression(series: Tensor, first: int, end: int, order: int, root: bool) -> Tensor:
    """Forecast (origins, horizon) by a linear regression on the last ``order`` values.

    It is fitted to the values before ``first``, then applied to all known values at each origin.

    Args:
        series: Values (time,).
        first: Index of the first value to be forecast.
        end: Index after the last.
        order: Number of values.
        root: Regress the square roots.

    Raises:
        ImportError: statsmodels is not installed.
    """
    require("statsmodels", extra="series")
    from statsmodels.tsa.ar_model import AutoReg

    values = (series.sqrt() if root else series).numpy()
    fitted = AutoReg(values[:first], order).fit().params
    forecasts = [
        AutoReg(values[:origin], order).predict(fitted, start=origin, end=origin + HORIZON - 1)
        for origin in range(first, end - HORIZON + 1)
    ]
    answer = torch.from_numpy(np.array(forecasts)).clamp_min(0)
    return answer.square() if root else answer


def memory_regression(
    series: Tensor, first: int, end: int, order: int, theta: float, root: bool
) -> Tensor:
    """Forecast (origins, horizon) by a linear regression on a Legendre memory of the series.

    Each year ahead has its own coefficients, fitted by least squares to the values before
    ``first``.

    Args:
        series: Values (time,).
        first: Index of the first value to be forecast.
        end: Index after the last.
        order: Order of the memory.
        theta: Length of its window in steps.
        root: Regress the square roots.
    """
    values = series.sqrt() if root else series
    mean = values[:first].mean()  # subtracted, so that an empty memory is one of the mean
    memory = LegendreMemory(order, theta, dtype=series.dtype)
    with torch.no_grad():
        states = memory((values - mean)[None, :, None])[0][0]
    known = torch.cat([states, torch.ones_like(states[:, :1])], dim=1)
    before = windows(values - mean, HORIZON, HORIZON, HORIZON, first)
    weights = torch.linalg.lstsq(known[before.origins - 1], before.y).solution
    answer = known[first - 1 : end - HORIZON] @ weights + mean
    answer = answer.clamp_min(0)
    return answer.square() if root else answer
