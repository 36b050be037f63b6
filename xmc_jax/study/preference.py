"""Statistics of votes between two systems: rates, intervals, a sign test, agreement of raters.

A vote is a score of the first system: 1 (preferred), 0.5 (tie) or 0. Votes on one caption depend on
each other, so preference rates are clustered by caption.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from xmc_jax.metrics.intervals import wilson_interval


class Rate(NamedTuple):
    """A proportion, 0..1 or NaN without any vote, with the bounds of its 95 % interval."""

    rate: float
    low: float
    high: float
    effective: float  # Number of independent votes that would give this interval.


def wilson_rate(rate: float, count: float | int) -> Rate:
    """Rate with Wilson's interval for `count` independent votes."""
    return Rate(rate, *wilson_interval(rate, count), float(count))


def preference_rate(votes_by_caption: Iterable[Sequence[float]]) -> Rate:
    """Rate of votes for the first system, clustered by caption.

    The rate is the mean over captions of each caption's mean vote. The interval is Wilson's for the
    number of independent votes whose rate would have the observed variance of these means:
    ``min(votes, rate (1 - rate) / (var(means) / captions))``. Captions without votes are ignored.
    """
    votes = [list(scores) for scores in votes_by_caption if len(scores)]
    if not votes:
        return wilson_rate(math.nan, 0)
    means = np.array([np.mean(scores) for scores in votes])
    rate = float(np.mean(means))
    if len(means) == 1 or rate in (0.0, 1.0):
        # The correlation of votes on one caption is unknown: each caption counts as one vote.
        effective = float(len(means))
    else:
        variance = float(np.var(means, ddof=1)) / len(means)
        effective = min(sum(map(len, votes)), rate * (1 - rate) / max(variance, 1e-300))
    return wilson_rate(rate, effective)


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p-value of wins and losses, without ties, if both are equally probable."""
    trials = wins + losses
    tail = sum(math.comb(trials, k) for k in range(min(wins, losses) + 1))
    return min(2 * tail / 2**trials, 1.0)


def krippendorff_alpha(
    ratings: Float[np.ndarray, "raters items"], level: Literal["nominal", "interval"]
) -> float:
    """Krippendorff's alpha: 1 if raters agree, 0 if they agree as often as by chance.

    ``1 - observed / expected`` disagreement, over pairs of ratings of the same item and over all
    pairs (Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011).

    Args:
      ratings: Values; NaN if a rater did not rate an item.
      level: Distance of two values: ``nominal``, 0 if equal and 1 if not; ``interval``, their
        squared difference.

    Returns:
      The coefficient; NaN if no item was rated twice, or all ratings are equal.
    """
    ratings = ratings[:, np.sum(~np.isnan(ratings), axis=0) >= 2]
    values = np.unique(ratings[~np.isnan(ratings)])
    if len(values) < 2:
        return math.nan
    # How often each item received each value, and how often two values occur on the same item.
    counts = np.sum(ratings[:, :, None] == values, axis=0)
    shares = counts / (np.sum(counts, axis=1, keepdims=True) - 1)
    together = np.einsum("iv,iw->vw", shares, counts) - np.diag(np.sum(shares, axis=0))
    totals = np.sum(counts, axis=0)
    difference = values[:, None] - values[None, :]
    distance = difference != 0 if level == "nominal" else difference**2
    observed = np.sum(together * distance) / np.sum(totals)
    pairs = np.outer(totals, totals)  # The diagonal has distance 0.
    expected = np.sum(pairs * distance) / (np.sum(totals) * (np.sum(totals) - 1))
    return float(1 - observed / expected)
