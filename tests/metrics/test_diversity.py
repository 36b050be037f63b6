"""Distances of images that are known."""

import numpy as np
import pytest

from xmc_jax.metrics.diversity import mean_pairwise_distances


def test_equal_images_have_no_distance(rng):
    image = rng.integers(0, 256, (1, 1, 4, 4, 3)).astype(np.uint8)
    np.testing.assert_array_equal(mean_pairwise_distances(np.repeat(image, 8, axis=1)), [0.0])


def test_known_distances():
    black, white = np.zeros((2, 2, 3)), np.full((2, 2, 3), 255)
    half = black.copy()
    half[0] = 255  # Half of the pixels differ from black, half from white.
    red = black.copy()
    red[..., 0] = 51  # A fifth, in one of three channels.
    groups = np.array([[black, white, half], [black, red, black]], np.uint8)
    wanted = [(1 + 2 * np.sqrt(1 / 2)) / 3, 2 / 3 * np.sqrt(0.2**2 / 3)]
    assert mean_pairwise_distances(groups) == pytest.approx(wanted)
