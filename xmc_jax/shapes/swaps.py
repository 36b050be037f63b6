"""Captions in which one word or phrase is swapped for another, so that they are false.

Whether a discriminator prefers the true caption shows which words it understands.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xmc_jax.shapes.captions import (
    LOCATIONS,
    PLACES,
    RELATIONS,
    Caption,
    Example,
    describe_count,
    describe_mention,
)
from xmc_jax.shapes.scenes import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_PAIRS,
    LAYOUTS,
    SHAPES,
    SIZES,
    Scene,
)

ATTRIBUTES = ("colour", "shape", "size", "location", "count", "background", "relation")

_OF_OBJECTS = {"colour": tuple(COLOURS), "shape": SHAPES, "size": tuple(SIZES)}
# Of two objects far apart along both axes, a relation along the other axis would be half true.
_OPPOSITE = {"left of": "right of", "above": "below", "right of": "left of", "below": "above"}


class Swap(NamedTuple):
    """A caption of an example, and the same caption with one attribute changed.

    Attributes:
      attribute: One of `ATTRIBUTES`.
      true: A caption of the example.
      false: The same with another colour, shape, …; its form is false of the scene.
    """

    attribute: str
    true: Caption
    false: Caption


def make_swaps(example: Example, layout: str, rng: np.random.Generator) -> list[Swap]:
    """One swap for each attribute that the captions of an example state, in a fixed order.

    Args:
      example: An example of a layout with short captions.
      layout: One of `scenes.LAYOUTS`.
      rng: Chooses the captions and what is said instead.
    """
    swaps = []
    for attribute in ATTRIBUTES:
        captions = [example.captions[i] for i in rng.permutation(len(example.captions))]
        found = ((c, swap_attribute(c, attribute, example.scene, layout, rng)) for c in captions)
        swaps += [Swap(attribute, true, false) for true, false in found if false][:1]
    return swaps


def swap_attribute(
    caption: Caption, attribute: str, scene: Scene, layout: str, rng: np.random.Generator
) -> Caption | None:
    """A caption that differs in one attribute and is false of the scene.

    Another colour or shape gives a pair that is not in the scene, but occurs in training: a pair
    that no caption of training has would give the false caption away.

    Args:
      caption: A caption that is true of the scene.
      attribute: One of `ATTRIBUTES`.
      scene: The scene.
      layout: One of `scenes.LAYOUTS`; numbers of objects are those of the layout.
      rng: Chooses what is said instead.

    Returns:
      The caption, or None if `caption` does not state the attribute, or the layout has no other
      value of it.
    """
    if attribute in _OF_OBJECTS:
        return _swap_in_mention(caption, attribute, scene, rng)
    if attribute not in caption.form:
        return None
    old = caption.form[attribute]
    fewest, most = LAYOUTS[layout].counts
    others = {
        "location": LOCATIONS,
        "count": range(fewest, most + 1),
        "background": tuple(BACKGROUNDS),
        "relation": (_OPPOSITE.get(old),),
    }[attribute]
    others = [value for value in others if value != old]
    if not others:
        return None
    new = others[rng.integers(len(others))]
    before, after = (_phrases(caption, attribute, value) for value in (old, new))
    # Phrases contain others: "at the top left" contains "at the top".
    styles = [i for i, phrase in enumerate(before) if phrase in caption.text]
    style = max(styles, key=lambda i: len(before[i]))
    text = caption.text.replace(before[style], after[style])
    return Caption(text, {**caption.form, attribute: new})


def _swap_in_mention(
    caption: Caption, attribute: str, scene: Scene, rng: np.random.Generator
) -> Caption | None:
    """The same for a colour, a shape or a size, of one of the objects that the caption mentions."""
    mentions = list(caption.form["objects"])
    stating = [i for i, mention in enumerate(mentions) if attribute in mention]
    if not stating:
        return None
    chosen = stating[rng.integers(len(stating))]
    old = mentions[chosen]
    others = [{**old, attribute: value} for value in _OF_OBJECTS[attribute]]
    if attribute == "size":
        others.remove(old)
    else:
        present = {(item.shape, item.colour) for item in scene.objects}
        others = [m for m in others if (m["shape"], m["colour"]) not in present | HELD_OUT_PAIRS]
    mentions[chosen] = new = others[rng.integers(len(others))]
    text = caption.text.replace(describe_mention(old), describe_mention(new))
    return Caption(text, {**caption.form, "objects": mentions})


def _phrases(caption: Caption, attribute: str, value: str | int) -> Sequence[str]:
    """What a caption may say for a value of an attribute, in the order of styles."""
    if attribute == "count":
        return describe_count(value, describe_mention(caption.form["objects"][0]))
    words = {name: (name,) for name in BACKGROUNDS}
    return {"location": PLACES, "relation": RELATIONS, "background": words}[attribute][value]
