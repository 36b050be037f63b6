"""The analytic reader on real and degraded renders."""

import functools

import numpy as np
import pytest
from scipy import ndimage

from xmc_jax.shapes import captions, scenes
from xmc_jax.shapes.accuracy import (
    ATTRIBUTES,
    ParsedScene,
    count_claims,
    shuffle_captions,
    summarise,
)
from xmc_jax.shapes.parser import make_parser

EXAMPLES = [captions.make_example("val", i) for i in range(250)]
FORMS = [(e.captions[i % 5].form,) for i, e in enumerate(EXAMPLES)]


@functools.cache
def parser(resolution, layout="full"):
    return make_parser(resolution, layout)


def renders(resolution, count):
    return np.stack([scenes.render(e.scene, resolution) for e in EXAMPLES[:count]])


def parse_one(image):
    (scene,) = parser(len(image))(image[None])
    return scene


@pytest.mark.parametrize(("resolution", "count"), [(32, 250), (64, 100), (128, 100)])
def test_ceiling_on_real_images(resolution, count):
    found = parser(resolution)(renders(resolution, count))
    accuracy = summarise(count_claims(found, FORMS[:count]))
    assert set(accuracy) == set(ATTRIBUTES)
    assert all(a.value >= 0.98 for a in accuracy.values()), accuracy


@pytest.mark.parametrize("layout", scenes.LAYOUTS)
@pytest.mark.parametrize("resolution", [32, 64])
def test_reads_every_layout(layout, resolution):
    examples = [captions.make_example("test_comp", i, layout) for i in range(60)]
    images = np.stack([scenes.render(e.scene, resolution, layout) for e in examples])
    forms = [[caption.form for caption in example.captions] for example in examples]
    accuracy = summarise(count_claims(parser(resolution, layout)(images), forms))
    assert accuracy["all_correct"].value >= 0.99, accuracy


def test_floor_of_shuffled_captions():
    partner = shuffle_captions(len(FORMS), seed=0)
    accuracy = summarise(
        count_claims(parser(32)(renders(32, len(FORMS))), [FORMS[i] for i in partner])
    )
    # A random scene of 2.5 objects contains a given colour about 28 % of the time.
    assert 0.2 < accuracy["colour"].value < 0.4
    assert accuracy["object"].value < 0.1 and accuracy["all_correct"].value < 0.05


def test_tolerates_blur_and_noise(rng):
    blurred = ndimage.gaussian_filter(renders(32, len(FORMS)).astype(float), (0, 0.5, 0.5, 0))
    noisy = np.clip(blurred + rng.normal(size=blurred.shape) * 8, 0, 255).astype(np.uint8)
    accuracy = summarise(count_claims(parser(32)(noisy), FORMS))
    assert accuracy["colour"].value > 0.97 and accuracy["object"].value > 0.93
    assert accuracy["count"].value > 0.9


@pytest.mark.parametrize("background", scenes.BACKGROUNDS)
def test_finds_nothing_in_empty_and_noisy_images(background, rng):
    image = np.zeros((32, 32, 3)) + scenes.BACKGROUNDS[background]
    noisy = np.clip(image + rng.normal(size=image.shape) * 15, 0, 255)
    for pixels in (image, noisy):
        assert parse_one(pixels.astype(np.uint8)) == ParsedScene(background, ())


def test_a_blob_without_a_shape_still_has_a_colour():
    image = np.full((32, 32, 3), 255, np.uint8)
    image[4:6, 2:30] = scenes.COLOURS["blue"]
    (blob,) = parse_one(image).objects
    assert (blob.shape, blob.colour) == (None, "blue")


def test_positions_are_exact_to_the_pixel():
    item = scenes.SceneObject("heart", "cyan", "small", 2, (0.1, -0.1))
    (found,) = parse_one(scenes.render(scenes.Scene("black", (item,)), 64)).objects
    np.testing.assert_allclose((found.x, found.y), item.centre, atol=1 / 64)
    assert (found.shape, found.colour, found.size) == item[:3]
