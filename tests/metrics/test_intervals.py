"""Intervals: against the normal approximation, coverage, and degenerate cases."""

import math

import numpy as np
import pytest

from xmc_jax.metrics import intervals
from xmc_jax.metrics.intervals import ratio_intervals


def sample(rng, n, rate):
    return (rng.random((n, 1)) < rate).astype(np.int64)


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.9])
def test_large_sets_agree_with_the_normal_approximation(rng, rate):
    n = 2000
    hits = sample(rng, n, rate)
    (interval,) = ratio_intervals(hits, np.ones_like(hits), seed=0, num_resamples=4000)
    p = hits.mean()
    error = 1.96 * np.sqrt(p * (1 - p) / n)
    # The bounds themselves are quantiles of 4000 draws: a few percent of the width.
    np.testing.assert_allclose(interval, (p - error, p + error), atol=0.1 * error)


def test_ratios_agree_with_the_delta_method(rng):
    """Images with one to five claims, which are all hits or all misses."""
    n = 2000
    claims = rng.integers(1, 6, (n, 1))
    hits = claims * sample(rng, n, 0.7)
    (interval,) = ratio_intervals(hits, claims, seed=0, num_resamples=4000)
    ratio = hits.sum() / claims.sum()
    error = 1.96 * np.std(hits - ratio * claims) / np.sqrt(n) / claims.mean()
    np.testing.assert_allclose(interval, (ratio - error, ratio + error), atol=0.1 * error)


def test_coverage():
    rng, n, rate, trials = np.random.default_rng(1), 60, 0.7, 400
    sets = (rng.random((n, trials)) < rate).astype(np.int64)
    # Each trial is a column. All share the same resamples, which do not depend on the data.
    low, high = ratio_intervals(sets, np.ones_like(sets), seed=2, num_resamples=1000).T
    covered = np.mean((low <= rate) & (rate <= high))
    # Discreteness and n = 60 lower the 95 %; the standard error of this coverage is 1.1 %.
    assert 0.90 < covered < 0.98


def test_level_and_seed(rng):
    hits = sample(rng, 100, 0.5)
    ones = np.ones_like(hits)

    def width(**options):
        return np.ptp(ratio_intervals(hits, ones, **options))

    assert width(seed=0, level=0.5) < width(seed=0, level=0.95) < width(seed=0, level=0.99)
    same = ratio_intervals(hits, ones, seed=5)
    np.testing.assert_array_equal(same, ratio_intervals(hits, ones, seed=5))


def test_constant_hits_and_missing_claims():
    hits = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0]])
    claims = np.array([[1, 1, 0], [1, 1, 0], [1, 1, 0]])
    intervals = ratio_intervals(hits, claims, seed=0)
    np.testing.assert_array_equal(intervals, [[1, 1], [0, 0], [np.nan, np.nan]])


def test_resamples_without_claims_do_not_count():
    hits, claims = np.array([[1], [0], [0]]), np.array([[1], [0], [0]])
    np.testing.assert_array_equal(ratio_intervals(hits, claims, seed=0), [[1, 1]])


def test_refuses_no_images():
    with pytest.raises(ValueError, match="no images"):
        ratio_intervals(np.zeros((0, 2), np.int64), np.zeros((0, 2), np.int64), seed=0)


def test_wilson_interval_of_known_counts():
    assert intervals.wilson_interval(0.773, 1000) == pytest.approx((0.7460, 0.7979), abs=5e-5)
    low, high = intervals.wilson_interval(0.0, 10)
    z = intervals.Z_95
    assert (low, high) == pytest.approx((0.0, z * z / (10 + z * z)))
    assert intervals.wilson_interval(0.5, 0) == (0.0, 1.0)
    assert intervals.wilson_interval(1.0, 10) == pytest.approx((1 - high, 1.0))


def test_wilson_bounds_are_where_the_score_test_changes():
    for rate, count in ((0.1, 30), (0.64, 12.5)):
        for end in intervals.wilson_interval(rate, count):
            deviations = abs(rate - end) / math.sqrt(end * (1 - end) / count)
            assert deviations == pytest.approx(intervals.Z_95)
