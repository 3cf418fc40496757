"""Fit of the rates of :mod:`lmu.ops.rates` to measured times."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from lmu.ops.rates import TYPICAL

ROUNDS = 20  # of weights that follow from the fit before
MOST_TERMS = 10  # of a method: all subsets of them are tried


class Sample(NamedTuple):
    """A measured time of a method.

    Attributes:
        amounts: Its terms.
        seconds: The time.
        weight: How much its relative error matters.
    """

    amounts: Mapping[str, float]
    seconds: float
    weight: float = 1.0


def fit_rates(
    samples: Sequence[Sample], prior: Mapping[str, float] | None = None, trust: float = 0.0
) -> dict[str, float]:
    r"""Fit seconds of a unit of each term, none below zero.

    Minimizes :math:`\sum_i w_i (p_i - t_i)^2 / (p_i t_i)` over the rates, where :math:`p_i` are the
    estimates and :math:`t_i` the times: twice too long is as bad as twice too short.

    Args:
        samples: Measured times of one method.
        prior: Rates from elsewhere.
        trust: How many samples of weight one the prior counts as, in each term.

    Returns:
        Rates by terms.
    """
    terms = list(dict.fromkeys(term for sample in samples for term in sample.amounts))
    before = [(prior or {}).get(term, 0.0) or TYPICAL[term] for term in terms]
    # In units of the prior, so that numbers of all terms are alike.
    a = torch.tensor(
        [[s.amounts.get(t, 0.0) * r for t, r in zip(terms, before, strict=True)] for s in samples],
        dtype=torch.float64,
    )
    t = torch.tensor([s.seconds for s in samples], dtype=torch.float64)
    w = torch.tensor([s.weight for s in samples], dtype=torch.float64)
    pull = sqrt(trust) * torch.eye(len(terms), dtype=torch.float64)
    x, estimates = torch.ones(len(terms), dtype=torch.float64), t
    for _ in range(ROUNDS):
        # Of a weighted square whose derivative is that of the sum above.
        scale = (w * (estimates + t) / (2 * t)).sqrt() / estimates
        rows = torch.cat([a * scale[:, None], pull])
        target = torch.cat([t * scale, sqrt(trust) * torch.ones(len(terms), dtype=torch.float64)])
        x = non_negative(rows, target)
        estimates = (a @ x).clamp(min=t / 100)
    return {term: float(v) * r for term, v, r in zip(terms, x.tolist(), before, strict=True)}


def non_negative(a: Tensor, b: Tensor) -> Tensor:
    """Least squares ``|a x - b|`` over x >= 0, exactly: the best of all subsets of columns.

    Shapes: ``a`` (rows, columns), float64, ``b`` (rows,); returns (columns,).

    Cost: a solution of normal equations for each of the 2^columns subsets.
    """
    number = a.shape[1]
    if number > MOST_TERMS:
        raise ValueError(f"at most {MOST_TERMS} terms can be fitted, got {number}")
    norms = a.norm(dim=0).clamp(min=torch.finfo(a.dtype).tiny)
    a = a / norms
    square, right = a.mT @ a, a.mT @ b
    best, least = torch.zeros(number, dtype=a.dtype), 0.0
    for size in range(1, number + 1):
        for subset in combinations(range(number), size):
            part = torch.tensor(subset)
            inner = square[part][:, part] + 1e-12 * torch.eye(size, dtype=a.dtype)
            x = torch.linalg.solve(inner, right[part])
            loss = float(x @ square[part][:, part] @ x - 2 * x @ right[part])
            if bool((x >= 0).all()) and loss < least:
                best, least = torch.zeros(number, dtype=a.dtype).index_copy(0, part, x), loss
    return best / norms
