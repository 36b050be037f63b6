"""What each rater of a study sees, in which order and on which side: blinded and balanced.

A page knows an item's two pictures as 0 and 1, and for each rater which of them is on the left. In
one item picture 0 is the first system's, in another the second's: only the key tells. All of it
follows from a secret that the key holds.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

ITEMS_PER_PAGE = 100  # More captions than this are spread over several pages.
EXTRA_SHARE = 0.05  # Of the items: shown once more, and as many with one picture of mere noise.
FEWEST_FOR_EXTRAS = 10  # Items of a page below which it has none of either.

SYSTEMS = ("a", "b")
NOISE = "noise"


class Item(NamedTuple):
    """A caption with two pictures.

    Attributes:
      id: Tells nothing of the systems.
      caption: Its text.
      caption_index: Which of the study's captions it is.
      pictures: Whose the pictures 0 and 1 are: of ``SYSTEMS``, or `NOISE`.
    """

    id: str
    caption: str
    caption_index: int
    pictures: tuple[str, str]

    @property
    def first(self) -> int:
        """Which picture is the first system's; in a test of attention, which is not noise."""
        return self.pictures.index(SYSTEMS[1] if SYSTEMS[0] not in self.pictures else SYSTEMS[0])

    @property
    def is_check(self) -> bool:
        """Whether it tests the rater's attention, and no system."""
        return NOISE in self.pictures


class Showing(NamedTuple):
    """An item before a rater.

    Attributes:
      item: Index of the item on its page.
      left: Which of its pictures is on the left, 0 or 1.
    """

    item: int
    left: int


class Page(NamedTuple):
    """One page of a study.

    Attributes:
      items: In an order that means nothing.
      schedules: What each rater sees, one after the other.
    """

    items: tuple[Item, ...]
    schedules: tuple[tuple[Showing, ...], ...]


def study_id(secret: str) -> str:
    """The name of a study, by which ratings find their key."""
    return _digest(secret, "study")[:12]


def make_pages(captions: Sequence[str], *, num_raters: int, secret: str) -> list[Page]:
    """Lays a study out on as few pages as hold it, equally long but for one caption.

    Args:
      captions: Of the study; equal texts are items of their own.
      num_raters: Raters to make schedules for.
      secret: Decides all that is left to chance.
    """
    num_pages = -(-len(captions) // ITEMS_PER_PAGE)
    parts = np.array_split(np.arange(len(captions)), num_pages)
    return [
        _make_page({int(i): captions[i] for i in part}, num_raters, f"{secret}|page {number}")
        for number, part in enumerate(parts)
    ]


def num_extras(num_items: int) -> int:
    """How many items of a page are shown twice, and how many have a picture of noise."""
    return round(EXTRA_SHARE * num_items) or 1 if num_items >= FEWEST_FOR_EXTRAS else 0


def _make_page(captions: Mapping[int, str], num_raters: int, secret: str) -> Page:
    rng = _generator(secret, "items")
    checked = rng.permutation(list(captions))[: num_extras(len(captions))]
    pairs = [_item(SYSTEMS, index, text, secret, rng) for index, text in captions.items()]
    checks = [
        _item((SYSTEMS[i % 2], NOISE), int(index), captions[int(index)], secret, rng)
        for i, index in enumerate(checked)
    ]
    items = tuple((pairs + checks)[i] for i in rng.permutation(len(pairs) + len(checks)))
    schedules = tuple(_schedule(items, rater, secret) for rater in range(num_raters))
    return Page(items, schedules)


def _item(sources: tuple[str, str], index: int, caption: str, secret: str, rng) -> Item:
    kind = NOISE if NOISE in sources else "pair"
    pictures = sources if rng.random() < 0.5 else sources[::-1]
    return Item(_digest(secret, kind, str(index))[:12], caption, index, pictures)


def _schedule(items: Sequence[Item], rater: int, secret: str) -> tuple[Showing, ...]:
    """An order of the rater's own, some of the first items once more at the end, sides changed.

    Raters come in couples: what one sees on the left, the other sees on the right. For each of them
    the first system is on the left in half of the pairs.
    """
    rng = _generator(secret, "sides", str(rater // 2))
    first_is_left = _balanced([item.is_check for item in items], rng) ^ bool(rater % 2)
    left = [
        item.first ^ int(not on_left) for item, on_left in zip(items, first_is_left, strict=True)
    ]
    rng = _generator(secret, "order", str(rater))
    order = [int(i) for i in rng.permutation(len(items))]
    pairs = [i for i in order if not items[i].is_check]
    early = pairs[: max(len(pairs) // 4, 1)]
    count = num_extras(len(pairs))
    repeated = [early[i] for i in rng.permutation(len(early))[:count]]
    half = len(order) // 2
    late = [Showing(i, left[i]) for i in order[half:]] + [Showing(i, 1 - left[i]) for i in repeated]
    late = [late[i] for i in rng.permutation(len(late))]
    return (*(Showing(i, left[i]) for i in order[:half]), *late)


def _balanced(is_check: Sequence[bool], rng) -> Bool[np.ndarray, " items"]:
    """True for one half of the pairs and of the checks each, drawn at random."""
    chosen = np.zeros(len(is_check), bool)
    for kind in (False, True):
        places = np.flatnonzero(np.array(is_check) == kind)
        # The odd one out goes either way.
        half = (len(places) + rng.integers(2)) // 2
        chosen[rng.permutation(places)[:half]] = True
    return chosen


def make_key(pages: Sequence[Page], *, secret: str, names: Mapping[str, str]) -> dict[str, Any]:
    """What turns ratings of a study into votes for its systems.

    Args:
      pages: The study.
      secret: That of `make_pages`.
      names: What the two of `SYSTEMS` are.
    """
    return {
        "study": study_id(secret),
        "secret": secret,
        "systems": dict(names),
        "num_pages": len(pages),
        "items": {
            item.id: {
                "caption": item.caption,
                "caption_index": item.caption_index,
                "pictures": list(item.pictures),
            }
            for page in pages
            for item in page.items
        },
    }


def _digest(secret: str, *names: str) -> str:
    return hashlib.sha256("|".join((secret, *names)).encode()).hexdigest()


def _generator(secret: str, *names: str) -> np.random.Generator:
    return np.random.default_rng(int(_digest(secret, *names), 16))
