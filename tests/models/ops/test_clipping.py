"""The clip of generated pixels: its values, and which gradients pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xmc_jax.models.ops.clipping import clip


def test_equals_a_clip_whose_gradients_lead_back_in(rng):
    x = np.float32(rng.uniform(-3, 3, size=(50, 3)))
    gradient = np.float32(rng.normal(size=x.shape))
    clipped, pull_back = jax.vjp(clip, jnp.asarray(x))
    np.testing.assert_array_equal(clipped, np.clip(x, -1, 1))
    after = np.clip(x, -1, 1) - 1e-3 * gradient  # A step of descent; it may leave the interval.
    expected = np.where((np.abs(x) < 1) | (np.abs(after) < 1), gradient, 0)
    (passed,) = pull_back(jnp.asarray(gradient))
    np.testing.assert_array_equal(passed, expected)


@pytest.mark.parametrize("start", [-9.0, 9.0])
def test_a_pixel_that_has_gone_too_far_comes_back(start):
    """To the white of `shapes.scenes`; with tanh it stays where it is."""

    def descend(bound):
        gradient = jax.jit(jax.grad(lambda x: (bound(x) - 0.85) ** 2))
        x = jnp.float32(start)
        for _ in range(300):
            x -= 0.1 * gradient(x)
        return bound(x)

    np.testing.assert_allclose(descend(clip), 0.85, atol=1e-3)
    np.testing.assert_allclose(descend(jnp.tanh), np.sign(start), atol=1e-3)


def test_a_pixel_at_the_end_of_the_interval_goes_no_further():
    brighter = jax.grad(lambda x: -jnp.sum(clip(x)))
    np.testing.assert_array_equal(brighter(jnp.float32([-1.0, 0.0, 1.0])), [-1.0, -1.0, 0.0])
