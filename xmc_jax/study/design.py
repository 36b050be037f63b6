"""The design of a study: what each rater sees, in which order and on which side; blinded, balanced.

A page numbers the two images of an item 0 and 1, and stores which of them is on the left for each
rater. Image 0 is the first system's in some items and the second system's in others; only the key
says which. The whole design is a function of a secret, which the key stores.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

ITEMS_PER_PAGE = 100  # More captions than this are spread over several pages.
EXTRA_SHARE = 0.05  # Of the items are repeated; as many attention checks show an image of noise.
FEWEST_FOR_EXTRAS = 10  # Pages with fewer items have neither repeats nor attention checks.

SYSTEMS = ("a", "b")
NOISE = "noise"
KEY_IMAGES = "pictures"  # Field of an item in key.json; keys of older studies have it too.


class Item(NamedTuple):
    """A caption with two images."""

    id: str  # Does not reveal the systems.
    caption: str
    caption_index: int  # In the study.
    images: tuple[str, str]  # Sources of the images 0 and 1: each one of `SYSTEMS`, or `NOISE`.

    @property
    def first(self) -> int:
        """Index of the first system's image; in an attention check, of the image without noise."""
        return self.images.index(SYSTEMS[0] if SYSTEMS[0] in self.images else SYSTEMS[1])

    @property
    def is_check(self) -> bool:
        """Whether the item tests the rater's attention instead of the systems."""
        return NOISE in self.images


class Showing(NamedTuple):
    """One presentation of an item to a rater."""

    item: int  # Index of the item on its page.
    left: int  # Index of the image on the left, 0 or 1.


class Page(NamedTuple):
    """One page of a study: items in random order and, for each rater, their presentations."""

    items: tuple[Item, ...]
    schedules: tuple[tuple[Showing, ...], ...]


def study_id(secret: str) -> str:
    """Identifier of a study, which its key and its ratings share."""
    return _digest(secret, "study")[:12]


def make_pages(captions: Sequence[str], *, num_raters: int, secret: str) -> list[Page]:
    """Distributes a study over as few pages as possible, of almost equal length.

    Equal captions are separate items. `secret` is the seed of all random choices.
    """
    num_pages = -(-len(captions) // ITEMS_PER_PAGE)
    parts = np.array_split(np.arange(len(captions)), num_pages)
    return [
        _make_page({int(i): captions[i] for i in part}, num_raters, f"{secret}|page {number}")
        for number, part in enumerate(parts)
    ]


def num_extras(num_items: int) -> int:
    """Number of repeated items of a page, and also of attention checks."""
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
    images = sources if rng.random() < 0.5 else sources[::-1]
    return Item(_digest(secret, kind, str(index))[:12], caption, index, images)


def _schedule(items: Sequence[Item], rater: int, secret: str) -> tuple[Showing, ...]:
    """A random order for one rater; some early items come again late, with their sides swapped.

    Raters 2n and 2n + 1 see the same items with swapped sides. For each rater the first system is
    on the left in half of the pairs.
    """
    rng = _generator(secret, "sides", str(rater // 2))
    first_is_left = _balanced([item.is_check for item in items], rng) ^ bool(rater % 2)
    left = [
        item.first if on_left else 1 - item.first
        for item, on_left in zip(items, first_is_left, strict=True)
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
    """True for a random half of the pairs and a random half of the checks."""
    chosen = np.zeros(len(is_check), bool)
    for kind in (False, True):
        indices = np.flatnonzero(np.array(is_check) == kind)
        half = (len(indices) + rng.integers(2)) // 2  # Odd numbers are rounded up or down.
        chosen[rng.permutation(indices)[:half]] = True
    return chosen


def make_key(pages: Sequence[Page], *, secret: str, names: Mapping[str, str]) -> dict[str, Any]:
    """The key, which turns ratings into votes; `names` are those of the two `SYSTEMS`."""
    return {
        "study": study_id(secret),
        "secret": secret,
        "systems": dict(names),
        "num_pages": len(pages),
        "items": {
            item.id: {
                "caption": item.caption,
                "caption_index": item.caption_index,
                KEY_IMAGES: list(item.images),
            }
            for page in pages
            for item in page.items
        },
    }


def _digest(secret: str, *names: str) -> str:
    return hashlib.sha256("|".join((secret, *names)).encode()).hexdigest()


def _generator(secret: str, *names: str) -> np.random.Generator:
    return np.random.default_rng(int(_digest(secret, *names), 16))
