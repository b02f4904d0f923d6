"""How far a figure could have come out otherwise: bootstrap and permutation.

The bootstrap draws, from the images that were judged, as many again with replacement, ten thousand times, and looks how
much the figure moves (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 6 and 13). Images of one
group are alike, so drawing images is too optimistic: drawing whole groups says more honestly how the figure would move
with other slides. A resample is written as weights: how often it holds each image. So one matrix product computes a
figure in all resamples at once.

Scores are (repeats, images): cross-validation is repeated with other cuts, and figures are means over the repeats. All
repeats of an image are drawn together, since it is the images that are few.
"""

from collections.abc import Callable
from decimal import Decimal, InvalidOperation

import numpy as np
from scipy.stats import rankdata

from cnn.errors import UserError

Statistic = Callable[[np.ndarray], np.ndarray]  # weights (draws, images) -> values (draws,)


def resamples(number: int, draws: int, seed: int, groups: tuple[str, ...] | None = None) -> np.ndarray:
    """How often each resample holds each image, (draws, number) float; images are drawn, or whole groups."""
    codes = np.arange(number) if groups is None else np.unique(groups, return_inverse=True)[1]
    units = codes.max() + 1
    rng = np.random.Generator(np.random.PCG64(seed))
    return rng.multinomial(units, np.full(units, 1 / units), size=draws)[:, codes].astype(float)


def accuracy(correct: np.ndarray) -> Statistic:
    """The share of right answers, mean over the repeats; correct is (repeats, images) bool."""
    each = np.atleast_2d(correct).mean(axis=0)
    return lambda weights: weights @ each / weights.sum(axis=1)


def auc(positive: np.ndarray, scores: np.ndarray) -> Statistic:
    """The area under the curve, mean over the repeats, NaN for a resample of one class.

    sum_ij w_i w_j [s_i > s_j] / sum_ij w_i w_j over positive i and other j, ties counting half.

    Args:
        positive: (images,) bool.
        scores: (repeats, images).
    """
    scores = np.atleast_2d(scores)
    above, below = scores[:, positive, None], scores[:, None, ~positive]
    pairs = ((above > below) + 0.5 * (above == below)).mean(axis=0)  # (positives, others)

    def area(weights: np.ndarray) -> np.ndarray:
        of_positive, of_others = weights[:, positive], weights[:, ~positive]
        with np.errstate(invalid="ignore"):
            total = of_positive.sum(axis=1) * of_others.sum(axis=1)
            return ((of_positive @ pairs) * of_others).sum(axis=1) / total

    return area


def difference(first: Statistic, second: Statistic) -> Statistic:
    """first - second in the same resamples: what is hard for both does not count against either."""
    return lambda weights: first(weights) - second(weights)


def bootstrap(statistic: Statistic, number: int, *, groups=None, draws: int = 10_000, seed: int = 0) -> dict:
    """The figure and its 95 % percentile interval: {"value", "low", "high"}; resamples without a value are left out."""
    values = statistic(resamples(number, draws, seed, groups))
    value = float(statistic(np.ones((1, number)))[0])
    low, high = np.nanpercentile(values, [2.5, 97.5]).tolist()
    return {"value": value, "low": low, "high": high}


def paired_permutation(
    statistic: Callable[[np.ndarray], float],
    first: np.ndarray,
    second: np.ndarray,
    *,
    groups=None,
    draws: int = 10_000,
    seed: int = 0,
) -> float:
    """How often chance alone makes two classifiers differ as much: the two-sided p of a permutation test.

    If they were equally good, it would not matter which of the two gave which answer: for each group of images, in all
    their repeats, the two answers are exchanged with probability 1/2 (Good, "Permutation Tests", 2000). p = (1 + number
    of exchanges with a difference at least as large) / (1 + draws). Of ten groups it is about 2 / 2^10 at
    least: of all 2^10 exchanges, none and all always count.

    Args:
        statistic: (repeats, images) -> figure.
        first, second: answers of the two, (repeats, images): right or wrong, or ranks, which make scores comparable.
        groups: one name an image; images of one group are alike, so that they are exchanged together. Each image is a
            group of its own unless given.
    """
    first, second = np.atleast_2d(first), np.atleast_2d(second)
    observed = abs(statistic(first) - statistic(second))
    names, group = np.unique(np.arange(first.shape[1]) if groups is None else groups, return_inverse=True)
    rng, as_large = np.random.Generator(np.random.PCG64(seed)), 0
    for _ in range(draws):
        exchanged = rng.random(len(names))[group] < 0.5
        a, b = np.where(exchanged, second, first), np.where(exchanged, first, second)
        as_large += abs(statistic(a) - statistic(b)) >= observed - 1e-12
    return (1 + as_large) / (1 + draws)


def area_of_ranks(positive: np.ndarray, scores: np.ndarray) -> float:
    """The area under the curve, mean over the repeats, from sums of ranks: quick for many images, but unweighted.

    A positive image's rank counts itself, the images below it, and half of its equals. So the sum of their ranks, less
    what they have among themselves, m (m + 1) / 2, is the number of pairs in order, ties counting half (Mann and
    Whitney, Ann Math Stat 18, 1947).
    """
    m, n = int(positive.sum()), int((~positive).sum())
    return float((ranks(scores)[:, positive].sum(axis=1) - m * (m + 1) / 2).mean() / (m * n))


def ranks(scores: np.ndarray) -> np.ndarray:
    """The rank of each score within its repeat, (repeats, images), equal scores sharing the mean of their ranks."""
    return rankdata(np.atleast_2d(scores), axis=1)


def counts_that_give(published: str, number: int) -> list[int]:
    """Which k of `number` images can be behind a published share; none, and it cannot be what it is said to be.

    >>> counts_that_give("0.877106", 1009), counts_that_give("87.7 %", 1009), counts_that_give("0.87", 20)
    ([885], [885], [])

    Args:
        published: a share such as "0.877106" or a percentage such as "87.7 %"; rounded, or cut off, at its last digit.
    Raises:
        UserError: if it is no number from 0 to 1, or 0 to 100 %.
    """
    published = published.strip()
    digits = published.rstrip("% ")
    scale = 1 if digits == published else 100
    try:
        number_said = Decimal(digits)
        value, places = float(number_said), -number_said.as_tuple().exponent
    except (InvalidOperation, TypeError):  # the second: an infinite number, or none, has no digits
        raise UserError(f'published figure: got "{published}", wants one such as 0.877 or 87.7 %') from None
    if not 0 <= value <= scale:
        raise UserError(f'published figure: got "{published}", wants from 0 to 1, or from 0 to 100 %')
    unit = 10.0**-places
    shares = np.arange(number + 1) / number * scale
    fits = (shares > value - unit / 2 - 1e-9) & (shares < value + unit - 1e-9)
    return np.flatnonzero(fits).tolist()
