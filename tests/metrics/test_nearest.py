"""metrics/nearest.py, against closed forms."""

import numpy as np
import pytest

from xmc_jax.metrics.nearest import nearest_distances, share_near


def test_points_on_a_line():
    x, others = np.array([[0.0], [4.0], [11.0]]), np.array([[1.0], [3.5], [3.0]])
    np.testing.assert_allclose(nearest_distances(x, others), [1, 0.5, 7.5], rtol=1e-12)


def test_copies_are_at_distance_zero_far_from_the_origin(rng):
    others = rng.normal(size=(1100, 7)) + 1e3  # More than one chunk.
    done = []
    found = nearest_distances(others[::-1], others, tell=done.append)
    np.testing.assert_allclose(found, 0, atol=1e-6)
    assert done == [512, 1024, 1100]


def test_equals_all_pairs(rng):
    x, others = rng.normal(size=(20, 5)).astype(np.float32), rng.normal(size=(30, 5))
    pairs = np.linalg.norm(x[:, None].astype(float) - others[None], axis=-1)
    np.testing.assert_allclose(nearest_distances(x, others), pairs.min(axis=1), rtol=1e-9)


@pytest.mark.parametrize(
    ("distances", "wanted"), [([0, 1, 2, 3], 0.5), ([2.0, 9.0], 0), ([1.9, 1.9], 1)]
)
def test_share_below_the_quantile_of_held_out_images(distances, wanted):
    held_out = np.arange(41.0)  # The quantile 0.05 is 2, and 2 itself is not below it.
    assert share_near(np.asarray(distances, float), held_out) == wanted


def test_a_twentieth_of_the_held_out_images_count_themselves():
    assert share_near(np.arange(100.0), np.arange(100.0)) == 0.05
