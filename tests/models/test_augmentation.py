"""augmentation.py: every change against NumPy; what is drawn; gradients; many devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xmc_jax.models import augmentation
from xmc_jax.models.augmentation import Augmentation, Changes
from xmc_jax.parallel import sharding

PUBLISHED = Augmentation(translation=0.125, color=1.0, cutout=0.5)
SIDE = 16


def make_images(rng, b=3, side=SIDE):
    return jnp.float32(rng.uniform(-1, 1, size=(b, side, side, 3)))


def draw(seed=0, num_images=64, strengths=PUBLISHED):
    return strengths.draw(jax.random.key(seed), num_images, SIDE)


def test_translation_is_a_roll_with_zeros(rng):
    images, offset = make_images(rng), [(2, -3), (0, 0), (-16, 1)]
    got = augmentation.translate(images, jnp.array(offset))
    for image, (down, right), moved in zip(np.asarray(images), offset, got, strict=True):
        padded = np.pad(image, ((SIDE, SIDE), (SIDE, SIDE), (0, 0)))
        want = np.roll(padded, (down, right), axis=(0, 1))[SIDE:-SIDE, SIDE:-SIDE]
        np.testing.assert_array_equal(moved, want)


def test_colors_are_those_of_the_equations(rng):
    images = make_images(rng, b=4)
    color = jnp.array([[0.25, 1, 1], [0, 0.5, 1], [0, 1, 1.5], [-0.5, 2, 0.5]])
    got = augmentation.change_color(images, color)
    brighter, paler, starker, everything = np.float64(images)
    np.testing.assert_allclose(got[0], brighter + 0.25, atol=1e-6)
    gray = paler.mean(-1, keepdims=True)
    np.testing.assert_allclose(got[1], gray + 0.5 * (paler - gray), atol=1e-6)
    np.testing.assert_allclose(got[2], starker.mean() + 1.5 * (starker - starker.mean()), atol=1e-6)
    changed = everything - 0.5
    gray = changed.mean(-1, keepdims=True)
    changed = gray + 2.0 * (changed - gray)
    want = changed.mean() + 0.5 * (changed - changed.mean())
    np.testing.assert_allclose(got[3], want, atol=1e-6)


def test_squares_are_cut_out_also_at_the_edge(rng):
    images, want = make_images(rng), np.array(make_images(np.random.default_rng(0)))
    got = augmentation.cut_out(images, jnp.array([(2, 5), (-4, 12), (-8, 0)]), 8)
    want[0, 2:10, 5:13] = want[1, :4, 12:] = 0.0
    np.testing.assert_array_equal(got, want)


def test_changes_come_in_the_published_order(rng):
    """What moves in, and what is cut out, is 0 whatever the colours."""
    images, changes = make_images(rng), draw(num_images=3)
    want = augmentation.change_color(images, changes.color)
    want = augmentation.cut_out(augmentation.translate(want, changes.offset), changes.corner, 8)
    np.testing.assert_array_equal(PUBLISHED.apply(images, changes), want)


def test_draws_fill_the_published_ranges():
    offset, color, corner = jax.device_get(draw(num_images=4096))
    assert [set(x) for x in offset.T] == [set(range(-2, 3))] * 2
    assert [set(x) for x in corner.T] == [set(range(-4, 13))] * 2  # Centres 0..16.
    np.testing.assert_allclose(color.min(0), [-0.5, 0.0, 0.5], atol=2e-3)
    np.testing.assert_allclose(color.max(0), [0.5, 2.0, 1.5], atol=2e-3)
    np.testing.assert_allclose(color.mean(0), [0.0, 1.0, 1.0], atol=2e-2)
    half = draw(num_images=4096, strengths=Augmentation(color=0.5)).color
    np.testing.assert_allclose(half.max(0), [0.25, 1.5, 1.25], atol=2e-3)


def test_images_and_seeds_change_differently():
    one, other = draw(0), draw(1)
    for x, y in zip(one, other, strict=True):
        assert len(np.unique(x, axis=0)) > 10 and np.any(x != y)


def test_what_is_off_is_not_computed(rng):
    images = make_images(rng)
    for strengths in (Augmentation(), Augmentation(translation=0.01)):  # Less than a pixel.
        changes = draw(num_images=3, strengths=strengths)
        assert changes == Changes() and strengths.apply(images, changes) is images


@pytest.mark.parametrize("name", Augmentation._fields)
def test_gradients_by_finite_differences(rng, name):
    """Every change is linear or affine in the image."""
    strengths = Augmentation()._replace(**{name: getattr(PUBLISHED, name)})
    images, direction = make_images(rng), make_images(rng)
    changes = draw(num_images=3, strengths=strengths)

    def apply(images):
        return strengths.apply(images, changes)

    _, tangent = jax.jvp(apply, (images,), (direction,))
    difference = apply(images + 0.5 * direction) - apply(images - 0.5 * direction)
    np.testing.assert_allclose(tangent, difference, atol=1e-5)
    assert float(jnp.abs(tangent).max()) > 0.1
    # The gradient is the transpose of the tangent.
    (gradient,) = jax.vjp(apply, images)[1](tangent)
    np.testing.assert_allclose(jnp.vdot(gradient, direction), jnp.vdot(tangent, tangent), rtol=1e-5)


def test_every_number_of_devices_changes_images_alike(rng):
    images = make_images(rng, b=16)

    def change(images, key):
        return PUBLISHED.apply(images, PUBLISHED.draw(key, 16, SIDE))

    results = []
    for devices in (jax.devices()[:1], jax.devices()):
        mesh = sharding.make_mesh(devices)
        split = sharding.batch_sharding(mesh)
        run = jax.jit(change, in_shardings=(split, None), out_shardings=split)
        results.append(run(sharding.put(images, split), jax.random.key(0)))
        text = run.lower(images, jax.random.key(0)).compile().as_text()
        assert not any(word in text for word in ("all-gather", "all-reduce", "all-to-all"))
    np.testing.assert_allclose(*results, atol=1e-6)
