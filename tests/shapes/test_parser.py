"""shapes_parser.py: the analytic reader on real and degraded renders."""

import numpy as np
import pytest
from scipy import ndimage

from xmc_jax.shapes import captions
from xmc_jax.shapes import scenes as shapes
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


def parser(resolution):
    return make_parser(
        resolution=resolution,
        palette=shapes.COLOURS,
        backgrounds=shapes.BACKGROUNDS,
        shapes=shapes.SHAPES,
        sizes={name: radius / shapes.GRID for name, radius in shapes.SIZES.items()},
        silhouette=shapes.silhouette,
    )


def read(resolution, degrade=lambda image: image):
    parse = parser(resolution)
    return [parse(degrade(shapes.render(e.scene, resolution))) for e in EXAMPLES]


@pytest.mark.parametrize("resolution", [32, 64, 128])
def test_ceiling_on_real_images(resolution):
    accuracy = summarise(count_claims(read(resolution), FORMS))
    assert set(accuracy) == set(ATTRIBUTES)
    assert all(a.value >= 0.98 for a in accuracy.values()), accuracy


def test_floor_of_shuffled_captions():
    scenes, partner = read(32), shuffle_captions(len(FORMS), seed=0)
    accuracy = summarise(count_claims(scenes, [FORMS[i] for i in partner]))
    # A random scene of 2.5 objects holds a given colour about 28 % of the time.
    assert 0.2 < accuracy["colour"].value < 0.4
    assert accuracy["object"].value < 0.1 and accuracy["all_correct"].value < 0.05


def test_blur_and_noise_are_forgiven():
    rng = np.random.default_rng(0)

    def degrade(image):
        blurred = ndimage.gaussian_filter(image.astype(float), (0.5, 0.5, 0))
        return np.clip(blurred + rng.normal(size=image.shape) * 8, 0, 255).astype(np.uint8)

    accuracy = summarise(count_claims(read(32, degrade), FORMS))
    assert accuracy["colour"].value > 0.97 and accuracy["object"].value > 0.93
    assert accuracy["count"].value > 0.9


@pytest.mark.parametrize("background", shapes.BACKGROUNDS)
def test_an_empty_or_noisy_image_holds_no_objects(background):
    rng = np.random.default_rng(0)
    image = np.zeros((32, 32, 3)) + shapes.BACKGROUNDS[background]
    noisy = np.clip(image + rng.normal(size=image.shape) * 15, 0, 255)
    for pixels in (image, noisy):
        assert parser(32)(pixels.astype(np.uint8)) == ParsedScene(background, ())


def test_a_blob_of_no_shape_still_has_a_colour():
    image = np.full((32, 32, 3), 255, np.uint8)
    image[4:6, 2:30] = shapes.COLOURS["blue"]
    (blob,) = parser(32)(image).objects
    assert (blob.shape, blob.colour) == (None, "blue")


def test_positions_are_read_to_the_pixel():
    item = shapes.SceneObject("heart", "cyan", "small", 2, (0.1, -0.1))
    (found,) = parser(64)(shapes.render(shapes.Scene("black", (item,)), 64)).objects
    np.testing.assert_allclose((found.x, found.y), item.centre, atol=1 / 64)
    assert (found.shape, found.colour, found.size) == item[:3]
