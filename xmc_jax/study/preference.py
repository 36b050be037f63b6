"""What votes between two systems say: rates, intervals, a sign test, and how far raters agree.

A vote is a score of the first system: 1 (preferred), 0.5 (tie) or 0. Votes on one caption are not
independent of each other, so every interval is clustered by caption.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from xmc_jax.metrics import intervals


class Rate(NamedTuple):
    """A share with its interval.

    Attributes:
      rate: Between 0 and 1; NaN if there was nothing to count.
      low: Lower end of the 95 % interval.
      high: Upper end.
      effective: Votes as if independent, on which the interval rests.
    """

    rate: float
    low: float
    high: float
    effective: float


def preference_rate(votes_by_caption: Iterable[Sequence[float]]) -> Rate:
    """Share of votes for the first system, clustered by caption.

    The rate is the mean over captions of each caption's mean vote. Its interval is Wilson's, on as
    many votes as, were they independent, would vary like these means:
    ``min(votes, rate (1 - rate) / (var(means) / captions))``.

    Args:
      votes_by_caption: Scores, 0..1, of each caption; captions without votes do not count.
    """
    votes = [list(scores) for scores in votes_by_caption if len(scores)]
    if not votes:
        return Rate(math.nan, 0.0, 1.0, 0.0)
    means = np.array([np.mean(scores) for scores in votes])
    rate = float(np.mean(means))
    if len(means) == 1 or rate in (0.0, 1.0):
        # Nothing shows how votes on one caption hang together: a caption counts as one vote.
        effective = float(len(means))
    else:
        variance = float(np.var(means, ddof=1)) / len(means)
        effective = min(sum(map(len, votes)), rate * (1 - rate) / max(variance, 1e-300))
    return Rate(rate, *intervals.wilson_interval(rate, effective), float(effective))


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p-value of so many wins and losses if both were equally likely; ties left out."""
    trials = wins + losses
    tail = sum(math.comb(trials, k) for k in range(min(wins, losses) + 1))
    return min(2 * tail / 2**trials, 1.0)


def krippendorff_alpha(
    ratings: Float[np.ndarray, "raters items"], level: Literal["nominal", "interval"]
) -> float:
    """Krippendorff's alpha: 1 where raters agree, 0 where they agree as by chance.

    ``1 - observed / expected`` disagreement, over the pairs of ratings of one item and over all
    pairs (Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011).

    Args:
      ratings: Values; NaN where a rater did not rate an item.
      level: How far two values are apart: ``nominal``, equal or not; ``interval``, their difference
        squared.

    Returns:
      The coefficient; NaN if no item was rated twice, or all ratings are the same.
    """
    given = ~np.isnan(ratings)
    pairable = given & (np.sum(given, axis=0) >= 2)[None, :]
    values, place = np.unique(ratings[pairable], return_inverse=True)
    if len(values) < 2:
        return math.nan
    # How often each item was given each value, and from it which values met on one item.
    counts = np.zeros((ratings.shape[1], len(values)))
    np.add.at(counts, (np.nonzero(pairable)[1], place), 1)
    counts = counts[np.sum(counts, axis=1) > 0]
    sizes = np.sum(counts, axis=1)
    met = np.einsum("iv,iw->vw", counts / (sizes - 1)[:, None], counts)
    met -= np.diag(np.sum(counts / (sizes - 1)[:, None], axis=0))
    totals = np.sum(counts, axis=0)
    distance = _distances(values, level)
    observed = np.sum(met * distance) / np.sum(totals)
    pairs = np.outer(totals, totals)  # Its diagonal counts for nothing: no distance to itself.
    expected = np.sum(pairs * distance) / (np.sum(totals) * (np.sum(totals) - 1))
    return float(1 - observed / expected)


def _distances(
    values: Float[np.ndarray, " v"], level: Literal["nominal", "interval"]
) -> Float[np.ndarray, "v v"] | Bool[np.ndarray, "v v"]:
    apart = values[:, None] - values[None, :]
    return apart != 0 if level == "nominal" else apart**2
