"""Does an image of shapes show what its caption says? Accuracy of what a reader found.

A reader is a function ``images -> scenes``: `parser.make_parser` measures pixels, and `scorer` is a
trained network. Only what a caption states is scored. Read an accuracy together with its ceiling
(the same reader on real images) and its floor (captions of other images).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from xmc_jax.metrics.intervals import ratio_intervals
from xmc_jax.shapes.captions import LOCATIONS, Form
from xmc_jax.shapes.scenes import GRID, Scene, direction

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

    Its centre ``(x, y)`` is in units of the image's side, from the top left corner. `shape` is None
    if no shape is similar enough.
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
    """Fraction of the captions' claims that are true of their images, 0..1.

    `low` and `high` bound its 95 % confidence interval, by the bootstrap over images.
    """

    value: float
    low: float
    high: float
    claims: int


def read_exactly(scene: Scene) -> ParsedScene:
    """What a reader without faults finds in the image of a scene."""
    objects = (ParsedObject(o.shape, o.colour, o.size, *o.centre) for o in scene.objects)
    return ParsedScene(scene.background, tuple(objects))


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
    named = [_named(scene, m) for m in mentions]
    exist = [
        any(m.get("size") in (None, o.size) for o in objects)
        for m, objects in zip(mentions, named, strict=True)
    ]
    sized = [e for e, m in zip(exist, mentions, strict=True) if "size" in m]
    counts = {"object": (sum(exist), len(exist)), "size": (sum(sized), len(sized))}
    for attribute in ("colour", "shape"):
        wanted = Counter(m[attribute] for m in mentions)
        found = Counter(getattr(o, attribute) for o in scene.objects)
        counts[attribute] = ((wanted & found).total(), len(mentions))
    if "relation" in form:
        ones, others = named
        relations = {direction(a.x - b.x, a.y - b.y) for a in ones for b in others}
        counts["relation"] = (int(form["relation"] in relations), 1)
    if "location" in form:
        locations = {_location(o) for o in named[0]}
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
    """Hits and claims of each image in each of `ATTRIBUTES`, summed over its caption's sentences.

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
    """Accuracy over all images of each attribute with a claim, from `count_claims`.

    The bootstrap depends on `seed`. Raises ValueError if there are no images.
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


def _named(scene: ParsedScene, mention: Form) -> list[ParsedObject]:
    """Objects with the shape and colour of a mention, of any size."""
    shape, colour = mention["shape"], mention["colour"]
    return [o for o in scene.objects if (o.shape, o.colour) == (shape, colour)]


def _location(item: ParsedObject) -> str:
    row, column = (min(int(GRID * v), GRID - 1) for v in (item.y, item.x))
    return LOCATIONS[GRID * row + column]
