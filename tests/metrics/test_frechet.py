"""The Fréchet distance: closed forms, merging, few samples, and trusted implementations."""

import json

import numpy as np
import pytest
import scipy.linalg

from tests import places
from tests.golden import make_cmmd
from tests.golden.make_metrics import cases
from xmc_jax.metrics.frechet import (
    Moments,
    frechet_distance,
    frechet_distance_of_few,
    merge,
    moments,
)

GOLDEN = json.loads((places.GOLDEN / "metrics.json").read_text())
DGM_EVAL = json.loads((places.GOLDEN / "cmmd.json").read_text())


def gaussian(mean, covariance, n=1000):
    return Moments(n, np.asarray(mean, float), np.asarray(covariance, float) * (n - 1))


@pytest.mark.parametrize("name", list(DGM_EVAL))
def test_equals_dgm_eval(name):
    pair = make_cmmd.cases()[name]
    for found in (frechet_distance(*map(moments, pair)), frechet_distance_of_few(*pair)):
        assert found == pytest.approx(DGM_EVAL[name]["fd"], rel=1e-6, abs=1e-6)


def test_diagonal_gaussians_have_a_closed_form():
    one = gaussian([0, 0, 0], np.diag([1.0, 4, 9]))
    other = gaussian([1, 2, 3], np.diag([4.0, 1, 9]))
    want = 14 + (1 - 2) ** 2 + (2 - 1) ** 2
    assert frechet_distance(one, other) == pytest.approx(want, rel=1e-12)


def test_commuting_rotated_gaussians(rng):
    q, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    a, b = rng.uniform(0.5, 2, (2, 5))
    one, other = (gaussian(np.zeros(5), q @ np.diag(v) @ q.T) for v in (a, b))
    want = np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    assert frechet_distance(one, other) == pytest.approx(want, rel=1e-10)


def test_equals_scipy_on_general_covariances(rng):
    x, y = rng.normal(size=(300, 8)), rng.normal(size=(200, 8)) @ rng.normal(size=(8, 8)) + 1
    a, b = moments(x), moments(y)
    root = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    want = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(want, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(want, rel=1e-9)


def test_few_samples_equal_the_nuclear_norm_form(rng):
    """tr (S1 S2)^1/2 is the nuclear norm of A B^T, with A, B the centred, scaled features."""
    x, y = rng.normal(size=(20, 64)), 1.3 * rng.normal(size=(25, 64)) + 0.2
    a, b = ((v - v.mean(0)) / np.sqrt(len(v) - 1) for v in (x, y))
    nuclear = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    want = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.sum(a**2) + np.sum(b**2) - 2 * nuclear
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("n,d", [(500, 16), (10, 64), (2, 5)])
def test_identical_sets_are_at_distance_zero(rng, n, d):
    m = moments(rng.normal(size=(n, d)))
    assert abs(frechet_distance(m, m)) < 1e-9 * np.trace(m.covariance)


def test_constant_features_leave_the_distance_of_the_means():
    one, other = gaussian([0.0, 0], np.zeros((2, 2))), gaussian([3.0, 4], np.zeros((2, 2)))
    assert frechet_distance(one, other) == pytest.approx(25)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_merging_in_any_order_equals_all_at_once(rng, offset):
    x = rng.normal(size=(97, 6)) + offset
    parts = [moments(p) for p in (x[:0], x[:0], x[:1], x[1:40], x[40:90], x[90:])]
    for order in (parts, parts[::-1], [parts[i] for i in (3, 1, 0, 4, 2, 5)]):
        total = merge(order)
        assert total.count == 97
        np.testing.assert_allclose(total.mean, x.mean(0), rtol=1e-12)
        np.testing.assert_allclose(total.covariance, np.cov(x.T), rtol=1e-7, atol=1e-9)


def test_too_few_vectors_are_refused():
    with pytest.raises(ValueError, match="two vectors or more, not 1"):
        frechet_distance(moments(np.ones((1, 3))), moments(np.ones((1, 3))))
    with pytest.raises(ValueError, match="no moments"):
        merge([])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_infinities_and_nan_are_refused(rng, bad):
    x = rng.normal(size=(9, 3))
    y = x.copy()
    y[4, 1] = bad
    with pytest.raises(ValueError, match="infinities or NaN"):
        frechet_distance(moments(x), moments(y))


@pytest.mark.parametrize("name", ["many", "few", "identical", "identical_few", "offset"])
@pytest.mark.parametrize("form", ["moments", "features"])
def test_equals_pytorch_fid_and_torch_fidelity(name, form):
    x, y = cases()[name]
    if form == "moments":
        found = frechet_distance(moments(x), moments(y))
    else:
        found = frechet_distance_of_few(x, y)
    for reference in ("pytorch_fid", "torch_fidelity_fid"):
        # With fewer vectors than dimensions theirs contains roots of rounding errors.
        tolerance = 1e-5 if name == "identical_few" else 1e-6
        assert found == pytest.approx(GOLDEN[name][reference], rel=1e-6, abs=tolerance)
    if name.startswith("identical"):
        assert abs(found) < 1e-10


def test_few_samples_refuse_the_same(rng):
    with pytest.raises(ValueError, match="two vectors or more, not 1"):
        frechet_distance_of_few(np.ones((1, 3)), np.ones((5, 3)))
    with pytest.raises(ValueError, match="infinities or NaN"):
        frechet_distance_of_few(np.full((4, 3), np.inf), np.ones((5, 3)))
