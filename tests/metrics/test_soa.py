"""Which captions name which classes, and accuracies counted by hand."""

import re

import numpy as np
import pytest

from xmc_jax.metrics import soa
from xmc_jax.metrics.intervals import wilson_interval

NAMED = {
    "A man riding a wave on top of a surfboard.": {"person", "surfboard"},
    "Two dogs and a KITTEN, asleep.": {"dog", "cat"},
    "A hot dog with mustard on a paper plate": {"hot dog"},
    "a dog begging for a hot dog": {"hot dog"},  # As published: excluded although there is a dog.
    "A teddy bear sits on a bed of lettuce": {"teddy bear"},
    "a brown bear near a stream": {"bear"},
    "An orange cat next to a bowl of oranges": {"cat", "bowl", "orange"},
    "People waiting at a bus stop": {"person"},
    "Two buses on a street": {"bus"},
    "A train station with empty train tracks": set(),
    "Knives, forks and spoons": {"knife", "fork", "spoon"},
    "A bathroom with a toilet and two sinks": {"toilet", "sink"},
    "A keyboard and mouse on a desk": {"keyboard", "mouse"},
    "A Mickey Mouse hat": set(),
    "The stop sign is red": {"stop sign"},
    "a flat-screen TV on a stand": {"tv"},
    "Sheep graze; geese watch.": {"sheep", "bird"},
    "carpet, scarf, busy, category": set(),  # Words that contain the name of a class.
    "An Apple laptop computer": {"laptop"},
    "a green apple": {"apple"},
    "A woman is blow-drying with a hair-dryer": {"person", "hair drier"},
    "Toothbrushes in a cup": {"toothbrush", "cup"},
    "A glass of red wine beside a slice of pizza": {"wine glass", "pizza"},
    "Man wearing a bow-tie and a tie-dye shirt": {"person"},
    "a clock tower at ten o'clock": set(),
    "": set(),
}


@pytest.mark.parametrize(("caption", "expected"), NAMED.items())
def test_a_caption_names_classes(caption, expected):
    (row,) = soa.named_classes([caption])
    assert {name for name, named in zip(soa.CLASSES, row, strict=True) if named} == expected


def test_classes_are_in_the_order_of_coco():
    assert len(soa.CLASSES) == 80
    # Indices that detectors trained on COCO's 80 classes share.
    indices = {"person": 0, "airplane": 4, "fire hydrant": 10, "cat": 15, "backpack": 24}
    indices |= {"tennis racket": 38, "hot dog": 52, "couch": 57, "tv": 62, "mouse": 64}
    indices |= {"refrigerator": 72, "teddy bear": 77, "toothbrush": 79}
    assert {name: soa.CLASSES.index(name) for name in indices} == indices


@pytest.mark.parametrize(("number", "name"), list(enumerate(soa.RULES)))
def test_every_word_and_phrase_of_a_rule_counts(number, name):
    """Each word alone names the class, and no word does so beside an excluded phrase."""
    words, excluded = soa.RULES[name]["words"], soa.RULES[name]["excluded"]
    assert all(re.fullmatch(r"[a-z]+( [a-z]+)*", phrase) for phrase in words + excluded)
    assert soa.named_classes([f"Behold: the {word}!" for word in words])[:, number].all()
    captions = [f"a {words[0]} / {phrase}{end}" for phrase in excluded for end in ("", "s")]
    assert not soa.named_classes(captions)[:, number].any()


def test_accuracies_counted_by_hand():
    captions = ["a cat", "a cat and a dog", "two cats", "a dog", "nothing of the kind"]
    named = soa.named_classes(captions)
    seen = np.zeros_like(named)
    cat, dog, car = (soa.CLASSES.index(name) for name in ("cat", "dog", "car"))
    seen[[0, 1, 4], cat] = True  # Two of three cats; nothing names the last one.
    seen[1, dog] = True  # One of two dogs.
    seen[:, car] = True  # No caption names a car.
    result = soa.semantic_object_accuracy(named, seen)
    assert result.by_class == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert result.by_image == pytest.approx(3 / 5)
    assert (result.hits[cat], result.counts[cat]) == (2, 3)
    assert (result.hits[dog], result.counts[dog]) == (1, 2)
    assert result.tally() == {"cat": [2, 3], "dog": [1, 2]}


def test_accuracies_agree_with_loops(rng):
    named, seen = rng.random((2, 60, 80)) < 0.1
    rates, hits, pairs = [], 0, 0
    for k in range(80):
        images = [i for i in range(60) if named[i, k]]
        found = sum(bool(seen[i, k]) for i in images)
        hits, pairs = hits + found, pairs + len(images)
        if images:
            rates.append(found / len(images))
    result = soa.semantic_object_accuracy(named, seen)
    assert result.by_class == pytest.approx(sum(rates) / len(rates))
    assert result.by_image == pytest.approx(hits / pairs)


def test_intervals_of_one_class_are_those_of_a_proportion(rng):
    named = np.zeros((400, 80), bool)
    named[:300, 3] = True
    seen = rng.random((400, 80)) < 0.6
    low, high = soa.bootstrap_interval(named, seen, seed=0)
    share = soa.semantic_object_accuracy(named, seen).by_image
    expected = wilson_interval(share, 300)
    assert low.by_class == low.by_image and high.by_class == high.by_image
    np.testing.assert_allclose((low.by_image, high.by_image), expected, atol=0.01)
    assert soa.bootstrap_interval(named, seen, seed=0) == (low, high)


def test_refuses_captions_without_a_class():
    with pytest.raises(ValueError, match="no caption names a class"):
        soa.semantic_object_accuracy(np.zeros((3, 80), bool), np.ones((3, 80), bool))
    with pytest.raises(ValueError, match="no caption names a class"):
        soa.bootstrap_interval(np.zeros((3, 80), bool), np.ones((3, 80), bool), seed=0)
