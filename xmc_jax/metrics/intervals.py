"""Confidence intervals: Wilson's for shares, the bootstrap for ratios over images."""

import math

import numpy as np
from jaxtyping import Float, Int

Z_95 = 1.959963984540054  # Half-width of a 95 % interval, in standard deviations.

_CHUNK = 100  # Resamples held at once.


def wilson_interval(rate: float, count: float | int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a share; without anything counted it is all of [0, 1].

    Args:
      rate: The share seen, 0..1.
      count: Independent trials behind it; need not be whole.
      z: Half-width in standard deviations.
    """
    if not count > 0:
        return 0.0, 1.0
    middle = (rate + z * z / (2 * count)) / (1 + z * z / count)
    spread = rate * (1 - rate) / count + z * z / (4 * count * count)
    half = z * math.sqrt(spread) / (1 + z * z / count)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def ratio_intervals(
    hits: Int[np.ndarray, "n k"],
    claims: Int[np.ndarray, "n k"],
    *,
    seed: int,
    level: float = 0.95,
    num_resamples: int = 2000,
) -> Float[np.ndarray, "k 2"]:
    """Percentile intervals of ratios ``sum(hits) / sum(claims)`` by the bootstrap (Efron 1979).

    Images are drawn anew, with replacement.

    An image is drawn with all its claims, since they stand and fall together. Where every claim is
    a hit, or none, so it is in every resample and the interval is a point: with n independent
    claims, rates up to about 3 / n away are then as likely.

    Args:
      hits: Of each image, in k respects.
      claims: Of each image; 0 where it has nothing to say. Resamples without any claim in a
        respect do not count there.
      seed: Of the resampling.
      level: Probability that the interval covers the true ratio.
      num_resamples: How often the set is drawn anew.

    Returns:
      Lower and upper bounds, float64; NaN where there is no claim at all.

    Raises:
      ValueError: there are no images.
    """
    n, k = hits.shape
    if not n:
        raise ValueError("no images to draw from")
    rng = np.random.default_rng(seed)
    ratios = np.empty((num_resamples, k))
    for start in range(0, num_resamples, _CHUNK):
        rows = ratios[start : start + _CHUNK]
        drawn = np.stack([np.bincount(rng.integers(n, size=n), minlength=n) for _ in rows]).astype(
            np.float64
        )
        totals = drawn @ claims
        rows[:] = np.divide(
            drawn @ hits, totals, out=np.full_like(totals, np.nan), where=totals > 0
        )
    tail = (1 - level) / 2
    intervals = np.full((k, 2), np.nan)
    made = claims.any(axis=0)
    intervals[made] = np.nanquantile(ratios[:, made], (tail, 1 - tail), axis=0).T
    return intervals
