"""Does an image of shapes show what its caption says? Accuracy of what a reader found.

A reader is a function ``images -> scenes``: `parser.make_parser` measures pixels, and `scorer` is a
trained network. Only what a caption states is scored. Read an accuracy together with its ceiling
(the same reader on real images) and its floor (captions of other images).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from xmc_jax.metrics.intervals import ratio_intervals
from xmc_jax.shapes.captions import Form
from xmc_jax.shapes.scenes import GRID, LOCATIONS, direction

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
    """An object that a reader found.

    Attributes:
      shape: The most similar of `scenes.SHAPES`; None if no shape is similar enough.
      colour: One of `scenes.COLOURS`.
      size: One of `scenes.SIZES`.
      x: Centre in units of the image's side, from the left.
      y: Centre in units of the image's side, from the top.
    """

    shape: str | None
    colour: str
    size: str
    x: float
    y: float


class ParsedScene(NamedTuple):
    """What a reader found in an image."""

    background: str
    objects: tuple[ParsedObject, ...]


Reader = Callable[[UInt8[np.ndarray, "n h w 3"]], list[ParsedScene]]


class Accuracy(NamedTuple):
    """Fraction of the captions' claims that are true of their images.

    Attributes:
      value: Hits divided by claims, 0..1.
      low: Lower bound of the 95 % confidence interval, by the bootstrap over images.
      high: Upper bound of the interval.
      claims: Number of claims.
    """

    value: float
    low: float
    high: float
    claims: int


def score(scene: ParsedScene, form: Form) -> dict[str, tuple[int, int]]:
    """Counts the claims of a sentence and those that are true: ``{attribute: (hits, claims)}``.

    Attributes without a claim are absent.

    * ``object``: each mention; true if an object has its shape and colour, and its size if stated.
    * ``colour``, ``shape``: each mention; each object can satisfy one mention.
    * ``size``: each mention with a size; true if that object exists in that size.
    * ``relation``: both objects exist, and the main direction between them is the stated one.
    * ``location``: the object is in the stated ninth of the image.
    * ``count``: the image has exactly that number of objects.
    * ``background``: the background has that colour.
    * ``all_correct``: one claim, true if all other claims are.
    """
    mentions = form["objects"]
    counts = {"object": (sum(bool(_find(scene, m)) for m in mentions), len(mentions))}
    for attribute in ("colour", "shape"):
        found = [getattr(o, attribute) for o in scene.objects]
        wanted = [m[attribute] for m in mentions]
        hits = sum(min(wanted.count(name), found.count(name)) for name in set(wanted))
        counts[attribute] = (hits, len(wanted))
    sized = [m for m in mentions if "size" in m]
    counts["size"] = (sum(bool(_find(scene, m)) for m in sized), len(sized))
    if "relation" in form:
        counts["relation"] = (int(_relation_holds(scene, form)), 1)
    if "location" in form:
        locations = {_location(o) for o in _find(scene, _without_size(mentions[0]))}
        counts["location"] = (int(form["location"] in locations), 1)
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
    """Hits and claims of each image in each of `ATTRIBUTES`, summed over the caption's sentences.

    Args:
      scenes: What a reader found in each image.
      forms: Logical forms of each image's caption, one for each sentence.

    Raises:
      ValueError: The numbers of images and captions differ.
    """
    table = np.zeros((len(scenes), len(ATTRIBUTES), 2), np.int64)
    for row, scene, sentences in zip(table, scenes, forms, strict=True):
        for form in sentences:
            for name, pair in score(scene, form).items():
                row[ATTRIBUTES.index(name)] += pair
    return table


def summarise(table: Int[np.ndarray, "n attributes 2"], *, seed: int = 0) -> dict[str, Accuracy]:
    """Accuracy of each attribute over all images; attributes without a claim are absent.

    Args:
      table: Hits and claims, see `count_claims`.
      seed: Seed of the bootstrap.

    Raises:
      ValueError: There are no images.
    """
    intervals = ratio_intervals(table[..., 0], table[..., 1], seed=seed).tolist()
    totals = table.sum(axis=0).tolist()
    return {
        name: Accuracy(hits / claims, *interval, claims)
        for name, (hits, claims), interval in zip(ATTRIBUTES, totals, intervals, strict=True)
        if claims
    }


def shuffle_captions(count: int, seed: int) -> Int[np.ndarray, " n"]:
    """Assigns each image another image's caption: a random permutation without fixed points.

    Raises:
      ValueError: There are fewer than two images.
    """
    if count < 2:
        raise ValueError("one image has no other image's caption")
    order = np.random.default_rng(seed).permutation(count)
    partner = np.empty(count, np.int64)
    partner[order] = np.roll(order, 1)
    return partner


def _find(scene: ParsedScene, mention: Form) -> list[ParsedObject]:
    """Objects with the shape and colour of a mention, and its size if it has one."""
    return [o for o in scene.objects if all(getattr(o, k) == v for k, v in mention.items())]


def _without_size(mention: Form) -> Form:
    return {k: v for k, v in mention.items() if k != "size"}


def _relation_holds(scene: ParsedScene, form: Form) -> bool:
    ones, others = (_find(scene, _without_size(m)) for m in form["objects"])
    return any(direction(a.x - b.x, a.y - b.y) == form["relation"] for a in ones for b in others)


def _location(item: ParsedObject) -> str:
    row, column = (min(int(GRID * v), GRID - 1) for v in (item.y, item.x))
    return LOCATIONS[GRID * row + column]
