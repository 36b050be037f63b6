"""CMMD: the published code's numbers, closed forms, and an unbiased mean."""

import json

import numpy as np
import pytest

from tests import places
from tests.golden.make_cmmd import cases
from xmc_jax.metrics import mmd, prdc

GOLDEN = json.loads((places.GOLDEN / "cmmd.json").read_text())


@pytest.mark.parametrize("name", list(GOLDEN))
def test_equals_the_published_code(name):
    found = mmd.cmmd(*cases()[name]).biased
    assert found == pytest.approx(GOLDEN[name]["cmmd"], rel=1e-9, abs=1e-9)
    # In float32, as published, the differences of means close to 1 lose four digits.
    assert found == pytest.approx(GOLDEN[name]["cmmd_float32"], abs=2e-3)


def test_is_the_mean_over_pairs(rng):
    x, y = rng.normal(size=(5, 3)), 1 + rng.normal(size=(7, 3))
    kernel = lambda a, b: np.exp(-np.sum((a - b) ** 2) / (2 * 1.5**2))  # noqa: E731

    def mean(a, b, skip=False):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (skip and i == j)]
        return np.mean([kernel(a[i], b[j]) for i, j in pairs])

    found = mmd.squared_discrepancy(x, y, sigma=1.5)
    biased = mean(x, x) + mean(y, y) - 2 * mean(x, y)
    unbiased = mean(x, x, skip=True) + mean(y, y, skip=True) - 2 * mean(x, y)
    assert found == pytest.approx((biased, unbiased), rel=1e-12)


def test_two_points_apart_have_a_closed_form():
    x, y = np.zeros((4, 2)), np.full((3, 2), 5.0)
    want = 2 - 2 * np.exp(-50 / (2 * 2.0**2))
    assert mmd.squared_discrepancy(x, y, sigma=2.0) == pytest.approx((want, want), rel=1e-12)


def test_identical_sets_and_common_shifts(rng):
    x, y = rng.normal(size=(2, 60, 8))
    assert mmd.squared_discrepancy(x, x, sigma=2.0).biased == pytest.approx(0, abs=1e-15)
    plain = mmd.squared_discrepancy(x, y, sigma=2.0)
    shifted = mmd.squared_discrepancy(x + 1e4, y + 1e4, sigma=2.0)
    assert shifted == pytest.approx(plain, abs=1e-9)
    assert mmd.squared_discrepancy(y, x, sigma=2.0) == pytest.approx(plain, rel=1e-12)


def test_is_zero_on_average_for_equal_distributions(rng):
    found = [mmd.squared_discrepancy(*rng.normal(size=(2, 20, 4)), sigma=2.0) for _ in range(400)]
    unbiased = [x.unbiased for x in found]
    assert abs(np.mean(unbiased)) < 4 * np.std(unbiased) / 20 and min(unbiased) < 0
    assert min(x.biased for x in found) > 0


def test_lengths_of_embeddings_do_not_matter(rng):
    x, y = rng.normal(size=(2, 30, 6))
    lengths = rng.uniform(0.1, 9, size=(30, 1))
    assert mmd.cmmd(lengths * x, y) == pytest.approx(mmd.cmmd(x, y), rel=1e-9)


def test_does_not_depend_on_the_rows_at_a_time(rng, monkeypatch):
    x, y = rng.normal(size=(40, 5)), rng.normal(size=(30, 5))
    whole = mmd.cmmd(x, y)
    monkeypatch.setattr(prdc, "_ROWS", 7)
    told = []
    assert mmd.cmmd(x, y, tell=told.append) == pytest.approx(whole, rel=1e-9)
    assert told == sorted(set(told)) and told[0] == 7
    assert told[-1] == mmd.num_rows(len(x), len(y)) == 40 + 30 + 40


def test_too_few_vectors():
    with pytest.raises(ValueError, match="needs two vectors or more of each set, not 1, 9"):
        mmd.cmmd(np.ones((1, 2)), np.ones((9, 2)))
