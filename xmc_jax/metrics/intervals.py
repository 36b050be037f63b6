"""Confidence intervals: Wilson's for proportions, the bootstrap for ratios over images."""

import math

import numpy as np
from jaxtyping import Float, Int, Num

Z_95 = 1.959963984540054  # Half-width of a 95 % interval, in standard deviations.

_CHUNK = 100  # Resamples in memory at once.


def wilson_interval(rate: float, count: float | int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion; [0, 1] without any trial.

    Args:
      rate: Observed proportion, 0..1.
      count: Number of independent trials; may be fractional.
    """
    if not count > 0:
        return 0.0, 1.0
    z = Z_95
    middle = (rate + z * z / (2 * count)) / (1 + z * z / count)
    spread = rate * (1 - rate) / count + z * z / (4 * count * count)
    half = z * math.sqrt(spread) / (1 + z * z / count)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def resample_counts(rng: np.random.Generator, n: int) -> Int[np.ndarray, " n"]:
    """How often each of n items occurs in a bootstrap resample: n draws with replacement."""
    return np.bincount(rng.integers(n, size=n), minlength=n)


def ratio_intervals(
    hits: Num[np.ndarray, "n k"],
    claims: Int[np.ndarray, "n k"],
    *,
    seed: int,
    level: float = 0.95,
    num_resamples: int = 2000,
) -> Float[np.ndarray, "k 2"]:
    """Percentile intervals of ratios ``sum(hits) / sum(claims)``, by the bootstrap (Efron 1979).

    Images are resampled with all their claims, because claims about one image depend on each other.
    If every claim is a hit, or none is, every resample agrees and the interval is a point; with n
    independent claims, true rates up to about 3 / n away are then plausible as well.

    Args:
      hits: Hits of each image; any numbers, whose means are wanted, if every claim is 1.
      claims: Claims of each image; may be 0. Resamples without any claim for a ratio are ignored.
      seed: Seed of the resampling.
      level: Probability that an interval contains the true ratio.
      num_resamples: Number of resamples.

    Returns:
      Lower and upper bounds; NaN for ratios without any claim. A ValueError without images.
    """
    n, k = hits.shape
    if not n:
        raise ValueError("there are no images to resample")
    rng = np.random.default_rng(seed)
    ratios = np.empty((num_resamples, k))
    for start in range(0, num_resamples, _CHUNK):
        rows = ratios[start : start + _CHUNK]
        times = np.stack([resample_counts(rng, n) for _ in rows]).astype(np.float64)
        totals = times @ claims
        nothing = np.full_like(totals, np.nan)
        rows[:] = np.divide(times @ hits, totals, out=nothing, where=totals > 0)
    tail = (1 - level) / 2
    intervals = np.full((k, 2), np.nan)
    claimed = claims.any(axis=0)
    intervals[claimed] = np.nanquantile(ratios[:, claimed], (tail, 1 - tail), axis=0).T
    return intervals
