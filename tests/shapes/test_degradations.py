"""Degradations at strength 0, their growth with strength, and known amounts."""

import numpy as np
import pytest

from xmc_jax.shapes import degradations, scenes
from xmc_jax.shapes.degradations import degrade

SCENE = scenes.Scene("gray", (scenes.SceneObject("heart", "red", "large", 4, (0.0, 0.0)),))


@pytest.mark.parametrize("resolution", [32, 64])
def test_strength_zero_keeps_the_image(rng, resolution):
    image = scenes.render(SCENE, resolution)
    for _ in range(10):
        # Only JPEG of the best quality changes the image.
        difference = degrade(image, rng, 0.0).astype(int) - image
        assert np.abs(difference).mean() < 4.0


def test_faults_grow_with_strength():
    image = scenes.render(SCENE, 64)

    def distance(strength):
        seen = [degrade(image, np.random.default_rng(i), strength) for i in range(30)]
        return np.abs(np.stack(seen).astype(float) - image).mean()

    assert distance(0.0) < distance(0.5) < distance(1.0) < distance(2.0)


@pytest.mark.parametrize("fault", degradations.FAULTS)
def test_each_fault_changes_the_image_and_is_reproducible(fault):
    image = scenes.render(SCENE, 64).astype(np.float32)
    before = image.copy()
    # Erased boxes may miss the object.
    rngs = [np.random.default_rng(i) for i in range(10)]
    faulty = [fault(image, rng, 1.0) for rng in rngs]
    assert any(np.abs(found - image).max() > 2 for found in faulty)
    np.testing.assert_array_equal(image, before)
    again = fault(image, np.random.default_rng(3), 1.0)
    np.testing.assert_array_equal(again, faulty[3])
    assert all(found.shape == image.shape for found in faulty)


def test_known_amounts(rng):
    flat = np.full((64, 64, 3), 128, np.float32)
    assert 22 < degradations.add_noise(flat, rng, 1.0).std() < 26
    assert 8 < np.mean([degradations.stain(flat, rng, 1.0).std() for _ in range(20)]) < 18
    shifted = degradations.shift_colours(flat, rng, 1.0)
    assert np.ptp(shifted, axis=(0, 1)).max() == 0 and 0 < np.abs(shifted - flat).max() <= 24
    np.testing.assert_allclose(degradations.blur(flat, rng, 1.0), flat, atol=1e-3)
