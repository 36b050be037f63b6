"""Compositional scores: do images show the objects, counts, colours and positions of captions?

A caption makes claims, and a detector finds objects in its image. Each claim is decided from these
objects alone, in the spirit of GenEval (Ghosh et al. 2023, arXiv 2310.11513):

* ``presence``: there is an object of the class;
* ``count``: there are exactly as many objects of the class as the caption says;
* ``colour``: as many objects of the class as the caption says, or more, have the colour;
* ``relation``: of some two objects of both classes, one is left of, right of, above or below the
  other.

Captions are parsed by `compose_parser`, and those of the shapes data by `shapes.compose`. NumPy
alone.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32

from xmc_jax.metrics.intervals import wilson_interval
from xmc_jax.metrics.soa import CLASSES

KINDS = ("presence", "count", "colour", "relation")
PARTS = (*KINDS, "all")  # The last one: all claims of a caption.
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
COLOURS += ("black", "white", "gray")
# Parts of the sum of both sizes that an offset needs before it counts, along each axis; GenEval's.
MARGIN = 0.1


class Claim(NamedTuple):
    """Something that a caption says about its image.

    Attributes:
      kind: One of `KINDS`.
      name: The class of objects that it is about.
      number: How many objects there are (``count``), or at least how many have the colour.
      detail: The colour, or the relation: "left of", "right of", "above" or "below".
      other: The class that the relation refers to.
    """

    kind: str
    name: str
    number: int = 1
    detail: str | None = None
    other: str | None = None


class Detection(NamedTuple):
    """An object that was found in an image.

    Attributes:
      name: Its class.
      box: Left, top, right and bottom, in units of the image's side; y points down.
      colour: Its colour; None if it was not looked at.
    """

    name: str
    box: tuple[float, float, float, float]
    colour: str | None = None


class Share(NamedTuple):
    """How many captions are right.

    Attributes:
      value: Share of the captions with claims of one kind whose claims of this kind all hold, 0..1.
      low, high: Wilson's 95 % interval; captions are the trials.
      captions: Number of captions with such claims.
      claims: Number of such claims.
    """

    value: float
    low: float
    high: float
    captions: int
    claims: int


def read_boxes(boxes: Float32[np.ndarray, "boxes 6"], threshold: float) -> list[Detection]:
    """The objects of COCO's classes in an image, from a detector's boxes.

    Overlapping boxes are different objects: the detector has to leave out duplicates.

    Args:
      boxes: Index of the class, score, left, top, right and bottom of each box.
      threshold: Least score of a box that counts.
    """
    return [
        Detection(CLASSES[int(number)], tuple(box))
        for number, score, *box in boxes[boxes[:, 1] >= threshold].tolist()
    ]


def holds(claim: Claim, found: Sequence[Detection]) -> bool:
    """Whether a claim is true of the objects that were found in an image."""
    objects = [item for item in found if item.name == claim.name]
    match claim.kind:
        case "presence":
            return bool(objects)
        case "count":
            return len(objects) == claim.number
        case "colour":
            return sum(item.colour == claim.detail for item in objects) >= claim.number
        case "relation":
            others = [item.box for item in found if item.name == claim.other]
            return any(
                claim.detail in directions(item.box, box) for item in objects for box in others
            )
    raise ValueError(f"no kind of claims {claim.kind!r}; there are {', '.join(KINDS)}")


def directions(
    box: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> set[str]:
    """Where a box is relative to another one: no, one or two of the four relations.

    The offset of the centres is shortened along each axis by `MARGIN` of the sum of both sizes. An
    axis counts if more than half of the offset's length remains along it, so a diagonal offset may
    have two directions, and boxes with almost the same centre have none.
    """
    offset, rest = [], []
    for low, high in ((0, 2), (1, 3)):
        apart = (box[low] + box[high] - other[low] - other[high]) / 2
        sizes = box[high] - box[low] + other[high] - other[low]
        offset.append(apart)
        rest.append(math.copysign(max(abs(apart) - MARGIN * sizes, 0.0), apart))
    half = math.hypot(*offset) / 2
    right, down = rest
    where = {"left of": -right, "right of": right, "above": -down, "below": down}
    return {name for name, length in where.items() if length > half}


def tabulate(
    claims: Sequence[Sequence[Claim]], found: Sequence[Sequence[Detection]]
) -> Bool[np.ndarray, "n parts 2"]:
    """For each image and each of `PARTS`: does its caption claim such things, and do all hold?

    Raises:
      ValueError: The numbers of captions and images differ.
    """
    table = np.zeros((len(claims), len(PARTS), 2), bool)
    for row, of_caption, objects in zip(table, claims, found, strict=True):
        for number, part in enumerate(PARTS):
            chosen = claims_of(part, of_caption)
            row[number] = bool(chosen), all(holds(claim, objects) for claim in chosen)
    return table


def claims_of(part: str, claims: Sequence[Claim]) -> list[Claim]:
    """The claims that count for one of `PARTS`."""
    return [claim for claim in claims if part in (claim.kind, "all")]


def summarise(
    table: Bool[np.ndarray, "n parts 2"], claims: Sequence[Sequence[Claim]]
) -> dict[str, Share]:
    """The share of right captions for each of `PARTS` that captions claim, from `tabulate`."""
    shares = {}
    for part, (claimed, right) in zip(PARTS, np.moveaxis(table, 0, -1), strict=True):
        captions = int(claimed.sum())
        if captions:
            value = float((claimed & right).sum() / captions)
            count = sum(len(claims_of(part, of_caption)) for of_caption in claims)
            shares[part] = Share(value, *wilson_interval(value, captions), captions, count)
    return shares
