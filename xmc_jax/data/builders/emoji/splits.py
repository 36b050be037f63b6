"""Which emoji are for training, for validation, and for the test of composition.

All depends on code points and on the English labels alone, so every locale has the same splits.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from xmc_jax.data.builders.emoji.packages import Emoji

_TONES = range(0x1F3FB, 0x1F3FF + 1)
_ADULTS = {0x1F468: "man", 0x1F469: "woman", 0x1F9D1: "person"}
_SIGNS = {0x2642: "man", 0x2640: "woman"}
_JOINER, _FACING_RIGHT, _PERSON = 0x200D, 0x27A1, 0x1F9D1
# Older emoji of two persons, and the concepts of those that name the persons.
_COUPLES = {
    0x1F48F: (_PERSON, 0x2764, 0x1F48B, _PERSON),
    0x1F491: (_PERSON, 0x2764, _PERSON),
    **dict.fromkeys((0x1F46B, 0x1F46C, 0x1F46D), (_PERSON, 0x1F91D, _PERSON)),
}
_SAME_IMAGE = {0x1F63A: (0x1F431,)}  # The grinning cat is the cat's face.
_COLOURED = re.compile(r"(?P<colour>(?:light )?[a-z]+) (?:large )?(?P<thing>heart|circle|square)")
_COLOURS = "red pink orange yellow green blue purple brown black grey white".split()

_VAL_SHARE, _COMPOSED_SHARE = 1 / 10, 1 / 6
_FLAGS = "flags"  # Not for validation: the name of a country does not say what its flag looks like.


class Parts(NamedTuple):
    """What an emoji is made of.

    Attributes:
      concept: Its code points without skin tone and gender; emoji that share it share a split,
        unless they test composition.
      attributes: Its skin tones and genders, or its colour, as words.
    """

    concept: tuple[int, ...]
    attributes: tuple[str, ...]


def parse_parts(emoji: Emoji) -> Parts:
    """The parts of an emoji with an English label."""
    match = _COLOURED.fullmatch(emoji.label)
    if match and match["colour"].removeprefix("light ") in _COLOURS:
        return Parts(tuple(map(ord, match["thing"])), (match["colour"],))
    concept, genders, tones = [], [], []
    for code in emoji.codes:
        if code in _TONES:
            tones.append(code - _TONES[0] + 1)
        elif code in _SIGNS:
            genders.append(_SIGNS[code])
        elif code in _ADULTS:
            concept.append(_PERSON)
            genders += [_ADULTS[code]] if code != _PERSON else []
        elif code not in (_JOINER, _FACING_RIGHT):
            concept.append(code)
    alone = concept[0] if len(concept) == 1 else None
    key = (_COUPLES | _SAME_IMAGE).get(alone, tuple(concept))
    attributes = [f"skin tone {'-'.join(map(str, tones))}"] if tones else []
    return Parts(key, (*attributes, *([" and ".join(genders)] if genders else [])))


def divide(emoji: Sequence[Emoji]) -> dict[str, list[Emoji]]:
    """Divides emoji with English labels; each split keeps their order.

    - ``val``: of every subgroup but flags, a tenth of the concepts (rounded), with all their skin
      tones, genders or colours.
    - ``test_comp``: of what is left, about a sixth of the emoji of each concept, chosen so that
      their concept and each of their attributes occur in ``train``, but never together. (Couples
      that hold hands have no gender among their attributes: two have their like in ``train``.)
    - ``train``: all others.
    """
    parts = {x.codes: parse_parts(x) for x in emoji}
    unseen = _choose_concepts(emoji, parts)
    rest = [x for x in emoji if parts[x.codes].concept not in unseen]
    composed = _choose_compositions(rest, parts)
    splits: dict[str, list[Emoji]] = {"train": [], "val": [], "test_comp": []}
    for x in emoji:
        name = "test_comp" if x.codes in composed else "train"
        splits["val" if parts[x.codes].concept in unseen else name].append(x)
    return splits


def _choose_concepts(emoji: Sequence[Emoji], parts: Mapping) -> set[tuple[int, ...]]:
    """The concepts for validation."""
    subgroups: dict[tuple[int, ...], int] = {}  # That of the concept's first emoji.
    for x in emoji:
        if x.group != _FLAGS:
            subgroups.setdefault(parts[x.codes].concept, x.subgroup)
    members = defaultdict(list)
    for concept, subgroup in subgroups.items():
        members[subgroup].append(concept)
    return {
        concept
        for concepts in members.values()
        for concept in sorted(concepts, key=_rank)[: round(_VAL_SHARE * len(concepts))]
    }


def _choose_compositions(emoji: Sequence[Emoji], parts: Mapping) -> set[tuple[int, ...]]:
    """The emoji whose parts are seen in training, and whose combination is not."""
    seen = Counter(part for x in emoji for part in _all_parts(parts[x.codes]))
    members = defaultdict(list)
    for x in emoji:
        members[parts[x.codes].concept].append(x.codes)
    chosen = set()
    for codes in members.values():
        # Parts of fewer attributes would be among those of another emoji of the concept.
        most = max(len(parts[x].attributes) for x in codes)
        wanted = round(_COMPOSED_SHARE * len(codes)) if most else 0
        candidates = [x for x in codes if len(parts[x].attributes) == most]
        for candidate in sorted(candidates, key=_rank):
            its_parts = _all_parts(parts[candidate])
            if wanted and all(seen[part] > 1 for part in its_parts):
                seen.subtract(its_parts)
                chosen.add(candidate)
                wanted -= 1
    return chosen


def _all_parts(parts: Parts) -> tuple:
    return (parts.concept, *parts.attributes)


def _rank(codes: tuple[int, ...]) -> bytes:
    """A number that depends on the code points alone, and orders them at random."""
    return hashlib.sha256("-".join(f"{code:x}" for code in codes).encode()).digest()
