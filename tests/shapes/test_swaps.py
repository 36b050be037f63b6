"""Swapped captions are false, grammatical, and differ in one place."""

import re

import numpy as np
import pytest

from xmc_jax.shapes.accuracy import read_exactly, score
from xmc_jax.shapes.captions import Caption, make_example
from xmc_jax.shapes.scenes import HELD_OUT_PAIRS, Scene, SceneObject
from xmc_jax.shapes.swaps import ATTRIBUTES, make_swaps, swap_attribute

NUM_EXAMPLES = 80


def swaps_of(layout, split="val"):
    for index in range(NUM_EXAMPLES):
        example = make_example(split, index, layout)
        for swap in make_swaps(example, layout, np.random.default_rng([0, index])):
            yield example, swap


@pytest.mark.parametrize("layout", ["full", "one", "two"])
def test_swaps_are_false_in_one_attribute_alone(layout):
    found = set()
    for example, (attribute, true, false) in swaps_of(layout):
        found.add(attribute)
        assert true in example.captions and true.text != false.text
        wrong = {k for k, (hits, all_) in score(read_exactly(example.scene), false.form).items()
                 if hits < all_}  # fmt: skip
        # Another colour, shape or size is another object, of which nothing else is true.
        about = {"object", "all_correct", "relation", "location", "size"}
        assert "all_correct" in wrong and wrong <= about | {attribute}
        assert attribute in wrong or attribute in ("colour", "shape")
        if attribute in ("colour", "shape"):  # Another object of the scene may have it.
            assert "object" in wrong
    absent = {"one": {"count", "relation"}}.get(layout, set())
    assert found == set(ATTRIBUTES) - absent


def test_texts_are_captions_of_the_data():
    """Every swapped text is one that the templates write for its form."""
    place = r"(in|at|on) the (top |bottom |left |right )?(left|right|center|middle|top|bottom)"
    place += "( corner| edge| center)?"
    thing = r"(a|an) ((small|large) )?(red|orange|yellow|green|cyan|blue|purple|pink) [a-z]+"
    relation = "((to the )?(left|right) of|above|over|below|under)"
    number = "(two|three|four)"
    patterns = (
        f"(there is )?{thing}", f"(there are )?{thing}(, {thing})* and {thing}",
        f"{thing} {place}", f"{place} there is {thing}", f"{thing} {relation} {thing}",
        f"only {thing}", f"{thing} and nothing else", f"{number} shapes, one is {thing}",
        f"{thing}, {number} shapes in all", f"{thing} on (a )?(white|gray|black)( background)?",
    )  # fmt: skip
    for layout in ("full", "one", "two"):
        for _, swap in swaps_of(layout):
            text = swap.false.text
            assert any(re.fullmatch(p, text) for p in patterns), text
            assert not re.search(r"\ba (orange)|\ban [^o]", text)


def test_swaps_are_drawn_from_the_generator_and_familiar():
    first, again = (list(swaps_of("two", "test_comp")) for _ in range(2))
    assert first == again
    for _, (attribute, true, false) in first:
        if attribute in ("colour", "shape"):
            (pair,) = (
                (new["shape"], new["colour"])
                for old, new in zip(true.form["objects"], false.form["objects"], strict=True)
                if old != new
            )
            assert pair not in HELD_OUT_PAIRS


@pytest.mark.parametrize("attribute", ["colour", "shape", "relation"])
def test_known_swaps(attribute):
    """Where only one other value is left, or nothing else can be chosen."""
    objects = [SceneObject("circle", "pink", "small", 1, (0.0, 0.0)),
               SceneObject("star", "orange", "large", 7, (0.0, 0.0))]  # fmt: skip
    scene = Scene("gray", tuple(objects))
    mentions = [{"shape": "circle", "colour": "pink"},
                {"shape": "star", "colour": "orange", "size": "large"}]  # fmt: skip
    form = {"type": "relation", "objects": mentions, "relation": "above"}
    caption = Caption("a pink circle above a large orange star", form)
    texts = {
        swap_attribute(caption, attribute, scene, "full", np.random.default_rng(i)).text
        for i in range(40)
    }
    if attribute == "relation":
        assert texts == {"a pink circle below a large orange star"}
    elif attribute == "colour":
        assert "a blue circle above a large orange star" in texts
        assert "a pink circle above a large green star" in texts
        assert not any("purple circle" in text for text in texts)  # Held out.
    else:
        assert "a pink square above a large orange star" in texts
        assert "a pink circle above a large orange heart" in texts
    size = swap_attribute(caption, "size", scene, "full", np.random.default_rng(0))
    assert size.text == "a pink circle above a small orange star"
    assert caption.form["objects"][1]["size"] == "large"  # The caption itself is unchanged.
    for absent in ("location", "count", "background"):
        assert swap_attribute(caption, absent, scene, "full", np.random.default_rng(0)) is None
