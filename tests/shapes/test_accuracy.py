"""Accuracy: claims counted by hand."""

import numpy as np
import pytest

from xmc_jax.shapes.accuracy import (
    ParsedObject,
    ParsedScene,
    count_claims,
    score,
    shuffle_captions,
    summarise,
)


def obj(shape, colour, size="small", x=0.5, y=0.5):
    return ParsedObject(shape, colour, size, x, y)


RED_CIRCLE = {"shape": "circle", "colour": "red"}
BLUE_STAR = {"shape": "star", "colour": "blue", "size": "large"}


def test_counting_by_hand():
    scene = ParsedScene("black", (obj("circle", "red", x=0.2), obj("star", "blue", "small", x=0.8)))
    form = {"type": "relation", "objects": [RED_CIRCLE, BLUE_STAR], "relation": "left of"}
    assert score(scene, form) == {
        "object": (1, 2),  # There is a star, but it is not large.
        "colour": (2, 2),
        "shape": (2, 2),
        "size": (0, 1),
        "relation": (1, 1),
        "all_correct": (0, 1),
    }


def test_one_object_satisfies_one_mention():
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
def test_claims_besides_objects(extra, hit):
    scene = ParsedScene("black", (obj("circle", "red", x=0.9, y=0.1),))
    counts = score(scene, {"type": "any", "objects": [RED_CIRCLE]} | extra)
    assert counts[next(iter(extra))] == (hit, 1) and counts["all_correct"] == (hit, 1)


def test_accuracy_pools_claims_not_images():
    scene = ParsedScene("black", (obj("circle", "red"),))
    forms = [
        {"type": "exists", "objects": [RED_CIRCLE]},
        {"type": "exists", "objects": [BLUE_STAR, BLUE_STAR, BLUE_STAR]},
    ]
    accuracy = summarise(count_claims([scene, scene], [(form,) for form in forms]))
    assert (accuracy["object"].value, accuracy["object"].claims) == (0.25, 4)
    assert (accuracy["all_correct"].value, accuracy["all_correct"].claims) == (0.5, 2)
    assert "count" not in accuracy


def test_all_sentences_of_an_image_are_resampled_together():
    """Ten sentences about one image are not ten images: the interval keeps its width."""
    hit, miss = ParsedScene("black", (obj("circle", "red"),)), ParsedScene("black", ())
    form, scenes = {"type": "exists", "objects": [RED_CIRCLE]}, [hit] * 10 + [miss] * 10
    one = summarise(count_claims(scenes, [(form,)] * 20))["object"]
    ten = summarise(count_claims(scenes, [(form,) * 10] * 20))["object"]
    assert (one.low, one.high) == (ten.low, ten.high) and (one.claims, ten.claims) == (20, 200)
    assert one.low < 0.4 and 0.6 < one.high


def test_refuses_unequal_numbers_of_captions_and_images():
    with pytest.raises(ValueError):
        count_claims([ParsedScene("black", ())], [])


def test_shuffled_captions_all_move():
    for n in (2, 3, 100):
        partner = shuffle_captions(n, seed=1)
        assert sorted(partner) == list(range(n)) and np.all(partner != np.arange(n))
    with pytest.raises(ValueError):
        shuffle_captions(1, seed=0)
