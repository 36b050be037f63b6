"""shapes_accuracy.py: the reader on real and degraded renders, and the counting by hand."""

import numpy as np
import pytest
from scipy import ndimage

from xmc_jax.data import shapes, shapes_captions
from xmc_jax.metrics.shapes_accuracy import (
    ATTRIBUTES,
    ParsedObject,
    ParsedScene,
    make_parser,
    score,
    shapes_accuracy,
    shuffle_captions,
)

EXAMPLES = [shapes_captions.make_example("val", i) for i in range(250)]
FORMS = [e.captions[i % 5].form for i, e in enumerate(EXAMPLES)]


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
    accuracy = shapes_accuracy(read(resolution), FORMS)
    assert set(accuracy) == set(ATTRIBUTES)
    assert all(value >= 0.98 for value, _ in accuracy.values()), accuracy


def test_floor_of_shuffled_captions():
    scenes, partner = read(32), shuffle_captions(len(FORMS), seed=0)
    accuracy = shapes_accuracy(scenes, [FORMS[i] for i in partner])
    # A random scene of 2.5 objects holds a given colour about 28 % of the time.
    assert 0.2 < accuracy["colour"][0] < 0.4
    assert accuracy["object"][0] < 0.1 and accuracy["all_correct"][0] < 0.05


def test_blur_and_noise_are_forgiven():
    rng = np.random.default_rng(0)

    def degrade(image):
        blurred = ndimage.gaussian_filter(image.astype(float), (0.5, 0.5, 0))
        return np.clip(blurred + rng.normal(size=image.shape) * 8, 0, 255).astype(np.uint8)

    accuracy = shapes_accuracy(read(32, degrade), FORMS)
    assert accuracy["colour"][0] > 0.97 and accuracy["object"][0] > 0.93
    assert accuracy["count"][0] > 0.9


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


def obj(shape, colour, size="small", x=0.5, y=0.5):
    return ParsedObject(shape, colour, size, x, y)


RED_CIRCLE = {"shape": "circle", "colour": "red"}
BLUE_STAR = {"shape": "star", "colour": "blue", "size": "large"}


def test_counting_by_hand():
    scene = ParsedScene("black", (obj("circle", "red", x=0.2), obj("star", "blue", "small", x=0.8)))
    form = {"type": "relation", "objects": [RED_CIRCLE, BLUE_STAR], "relation": "left of"}
    assert score(scene, form) == {
        "object": (1, 2),  # The star is there, but not large.
        "colour": (2, 2),
        "shape": (2, 2),
        "size": (0, 1),
        "relation": (1, 1),
        "all_correct": (0, 1),
    }


def test_one_object_serves_one_mention():
    scene = ParsedScene("black", (obj("circle", "red"),))
    form = {"type": "exists", "objects": [RED_CIRCLE, {"shape": "star", "colour": "red"}]}
    counts = score(scene, form)
    assert counts["colour"] == (1, 2) and counts["shape"] == (1, 2) and counts["object"] == (1, 2)


@pytest.mark.parametrize(
    "extra,hit",
    [
        ({"background": "black"}, 1),
        ({"background": "white"}, 0),
        ({"count": 1}, 1),
        ({"count": 2}, 0),
        ({"location": "top right"}, 1),
        ({"location": "right"}, 0),
    ],
)
def test_claims_beside_objects(extra, hit):
    scene = ParsedScene("black", (obj("circle", "red", x=0.9, y=0.1),))
    counts = score(scene, {"type": "any", "objects": [RED_CIRCLE]} | extra)
    assert counts[next(iter(extra))] == (hit, 1) and counts["all_correct"] == (hit, 1)


def test_accuracy_pools_claims_not_images():
    scene = ParsedScene("black", (obj("circle", "red"),))
    forms = [
        {"type": "exists", "objects": [RED_CIRCLE]},
        {"type": "exists", "objects": [BLUE_STAR, BLUE_STAR, BLUE_STAR]},
    ]
    accuracy = shapes_accuracy([scene, scene], forms)
    assert accuracy["object"] == (0.25, 4) and accuracy["all_correct"] == (0.5, 2)
    assert "count" not in accuracy


def test_shuffling_leaves_no_caption_in_place():
    for n in (2, 3, 100):
        partner = shuffle_captions(n, seed=1)
        assert sorted(partner) == list(range(n)) and np.all(partner != np.arange(n))
    with pytest.raises(ValueError):
        shuffle_captions(1, seed=0)
