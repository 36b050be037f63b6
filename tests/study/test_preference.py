"""Statistics of votes against published examples, direct sums and simulated studies."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from xmc_jax.metrics import intervals
from xmc_jax.study import preference

NAN = math.nan
# Krippendorff (2011), example C: four observers, twelve units, some without a rating.
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("interval", 0.849)])
def test_alpha_of_the_published_example(level, alpha):
    assert preference.krippendorff_alpha(PUBLISHED, level) == pytest.approx(alpha, abs=5e-4)


@pytest.mark.parametrize("level", ["nominal", "interval"])
def test_alpha_is_the_sum_over_pairs(level, rng):
    """All pairs written out, as in the definition."""
    ratings = rng.choice([0.0, 0.5, 1.0, NAN], size=(4, 15), p=[0.3, 0.2, 0.3, 0.2])
    ratings[:, 3] = [1.0, NAN, NAN, NAN]  # Rated once: no pair.

    def distance(a, b):
        return float(a != b) if level == "nominal" else (a - b) ** 2

    units = [[v for v in column if not math.isnan(v)] for column in ratings.T]
    units = [unit for unit in units if len(unit) > 1]
    values = [v for unit in units for v in unit]
    observed = sum(
        sum(distance(a, b) for a, b in itertools.permutations(unit, 2)) / (len(unit) - 1)
        for unit in units
    ) / len(values)
    everything = [distance(a, b) for a, b in itertools.permutations(values, 2)]
    alpha = 1 - observed / np.mean(everything)
    assert preference.krippendorff_alpha(ratings, level) == pytest.approx(alpha, abs=1e-12)


def test_alpha_of_full_agreement_and_of_chance(rng):
    same = np.tile(rng.choice([0.0, 0.5, 1.0], size=30), (3, 1))
    assert preference.krippendorff_alpha(same, "nominal") == 1.0
    chance = rng.choice([0.0, 1.0], size=(5, 4000))
    assert abs(preference.krippendorff_alpha(chance, "nominal")) < 0.03
    assert math.isnan(preference.krippendorff_alpha(np.ones((2, 5)), "nominal"))
    assert math.isnan(preference.krippendorff_alpha(np.array([[0.0, NAN], [NAN, 1.0]]), "nominal"))


def test_sign_test_against_the_binomial():
    for wins, losses in ((8, 2), (2, 8), (5, 5), (0, 6), (300, 240)):
        expected = stats.binomtest(wins, wins + losses).pvalue
        assert preference.sign_test(wins, losses) == pytest.approx(expected)
    assert preference.sign_test(0, 0) == 1.0


def test_independent_votes_give_wilsons_interval():
    """One vote for each caption: nothing to cluster, except that the variance divides by n - 1."""
    votes = [[1.0]] * 773 + [[0.0]] * 227
    found = preference.preference_rate(votes)
    assert found.rate == pytest.approx(0.773)
    assert found.effective == pytest.approx(999)
    assert (found.low, found.high) == pytest.approx((0.7460, 0.7979), abs=2e-4)


def test_fully_correlated_votes_count_once():
    """Five raters who always agree count as one."""
    apart = preference.preference_rate([[1.0]] * 60 + [[0.0]] * 40)
    together = preference.preference_rate([[1.0] * 5] * 60 + [[0.0] * 5] * 40)
    assert together == pytest.approx(apart)


def test_captions_have_equal_weight_and_ties_count_half():
    found = preference.preference_rate([[1.0, 1.0, 1.0, 1.0], [0.0], [0.5], []])
    assert found.rate == pytest.approx(0.5)
    assert found.effective <= 6
    nothing = preference.preference_rate([[]])
    assert math.isnan(nothing.rate) and (nothing.low, nothing.high) == (0.0, 1.0)


def test_unanimous_votes_count_once_for_each_caption():
    found = preference.preference_rate([[1.0] * 5] * 10)
    assert (found.rate, found.effective) == (1.0, 10.0)
    assert found.low == pytest.approx(intervals.wilson_interval(1.0, 10)[0])
    assert preference.preference_rate([[0.0, 1.0, 1.0]]).effective == 1.0


def test_coverage_of_the_intervals(rng):
    """Studies of 60 captions and 5 raters whose votes have correlation 0.3."""
    truth, spread = 0.65, 1 / 0.3 - 1
    covered = []
    for _ in range(400):
        chances = rng.beta(truth * spread, (1 - truth) * spread, size=60)
        votes = (rng.random((60, 5)) < chances[:, None]).astype(float)
        found = preference.preference_rate(votes.tolist())
        covered.append(found.low <= truth <= found.high)
    assert 0.92 <= np.mean(covered) <= 0.98
