"""Does an image of shapes show what its caption says? Exact scores of what a reader saw.

Readers are `shapes_parser`, which measures, and `shapes_scorer`, which is trained. Scores count
only what a caption mentions (`score`); always read them between the ceiling (the reader on real
images) and the floor (captions of other images).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from xmc_jax.metrics.intervals import ratio_intervals

Form = Mapping[str, Any]

ATTRIBUTES = (
    "object",
    "colour",
    "shape",
    "size",
    "relation",
    "location",
    "count",
    "background",
    "all_correct",
)


class ParsedObject(NamedTuple):
    """A blob.

    Attributes:
      shape: The best silhouette, or None if none resembles it.
      colour: Palette colour.
      size: Size of the best silhouette.
      x: Centre, in units of the image's side, to the right.
      y: Centre, in units of the image's side, downwards.
    """

    shape: str | None
    colour: str
    size: str
    x: float
    y: float


class ParsedScene(NamedTuple):
    """What the reader sees in an image."""

    background: str
    objects: tuple[ParsedObject, ...]


class Accuracy(NamedTuple):
    """How much of what captions claim is so.

    Attributes:
      value: Hits over claims, 0..1.
      low: Lower bound of its 95 % confidence interval, by the bootstrap over images.
      high: Upper bound.
      claims: How many there were.
    """

    value: float
    low: float
    high: float
    claims: int


def score(scene: ParsedScene, form: Form) -> dict[str, tuple[int, int]]:
    """How much of a caption's claim an image fulfils: ``{attribute: (hits, claims)}``.

    An attribute that the caption does not mention is absent.

    * ``object``: mentions for which an object of that shape, colour (and size, if said) is there.
    * ``colour``, ``shape``: mentions whose colour (shape) is there, each object serving once.
    * ``size``: mentions with a size for which the very object is there, in that size.
    * ``relation``: the two objects are there and stand so, mainly along the axis named.
    * ``location``: the object is there, in that ninth of the image.
    * ``count``: exactly so many objects are there.
    * ``background``: the background has that colour.
    * ``all_correct``: all of the above that the caption mentions.
    """
    mentions = form["objects"]
    counts = {"object": (sum(bool(_find(scene, m)) for m in mentions), len(mentions))}
    for attribute in ("colour", "shape"):
        there = [getattr(o, attribute) for o in scene.objects]
        wanted = [m[attribute] for m in mentions]
        hits = sum(min(wanted.count(name), there.count(name)) for name in set(wanted))
        counts[attribute] = (hits, len(wanted))
    sized = [m for m in mentions if "size" in m]
    counts["size"] = (sum(bool(_find(scene, m)) for m in sized), len(sized))
    if "relation" in form:
        counts["relation"] = (int(_relation_holds(scene, form)), 1)
    if "location" in form:
        cells = {_location(o) for o in _find(scene, _without_size(mentions[0]))}
        counts["location"] = (int(form["location"] in cells), 1)
    if "count" in form:
        counts["count"] = (int(len(scene.objects) == form["count"]), 1)
    if "background" in form:
        counts["background"] = (int(scene.background == form["background"]), 1)
    counts = {name: pair for name, pair in counts.items() if pair[1]}
    counts["all_correct"] = (int(all(hits == claims for hits, claims in counts.values())), 1)
    return counts


def count_claims(
    scenes: Sequence[ParsedScene], forms: Sequence[Sequence[Form]]
) -> Int[np.ndarray, "n attributes 2"]:
    """Hits and claims of each image in each of `ATTRIBUTES`, all sentences of its caption together.

    Args:
      scenes: What each image shows.
      forms: What each image's caption claims: one form, or one a sentence.

    Raises:
      ValueError: there are not as many captions as images.
    """
    table = np.zeros((len(scenes), len(ATTRIBUTES), 2), np.int64)
    for row, scene, claimed in zip(table, scenes, forms, strict=True):
        for form in claimed:
            for name, pair in score(scene, form).items():
                row[ATTRIBUTES.index(name)] += pair
    return table


def summarise(table: Int[np.ndarray, "n attributes 2"], *, seed: int = 0) -> dict[str, Accuracy]:
    """Accuracy of each attribute over all images; what no caption mentions is absent.

    Args:
      table: See `count_claims`.
      seed: Of the intervals' resampling.

    Raises:
      ValueError: there are no images.
    """
    intervals = ratio_intervals(table[..., 0], table[..., 1], seed=seed).tolist()
    totals = table.sum(axis=0).tolist()
    return {
        name: Accuracy(hits / claims, *interval, claims)
        for name, (hits, claims), interval in zip(ATTRIBUTES, totals, intervals, strict=True)
        if claims
    }


def shuffle_captions(count: int, seed: int) -> Int[np.ndarray, " n"]:
    """For each image another image's caption: a seeded permutation without fixed points.

    Raises:
      ValueError: there are fewer than two images.
    """
    if count < 2:
        raise ValueError("one image has no other image's caption")
    order = np.random.default_rng(seed).permutation(count)
    partner = np.empty(count, np.int64)
    partner[order] = np.roll(order, 1)
    return partner


def _find(scene: ParsedScene, mention: Form) -> list[ParsedObject]:
    """Objects of a mention's shape and colour, and size if it has one."""
    return [o for o in scene.objects if all(getattr(o, k) == v for k, v in mention.items())]


def _without_size(mention: Form) -> Form:
    return {k: v for k, v in mention.items() if k != "size"}


def _relation_holds(scene: ParsedScene, form: Form) -> bool:
    ones, others = (_find(scene, _without_size(m)) for m in form["objects"])
    return any(_relation(a, b) == form["relation"] for a in ones for b in others)


def _relation(one: ParsedObject, other: ParsedObject) -> str:
    right, down = one.x - other.x, one.y - other.y
    if abs(right) > abs(down):
        return "left of" if right < 0 else "right of"
    return "above" if down < 0 else "below"


def _location(item: ParsedObject) -> str:
    row, column = (min(int(3 * v), 2) for v in (item.y, item.x))
    names = (("top left", "top", "top right"), ("left", "center", "right"))
    names += (("bottom left", "bottom", "bottom right"),)
    return names[row][column]
