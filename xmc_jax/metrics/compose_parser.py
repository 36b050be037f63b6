"""Which claims a caption in plain English makes, by rules; see `compose`.

The classes are COCO's, and the words for them those of `soa`. The rules are conservative: they
understand simple noun phrases ("two small black dogs") and a few patterns of position ("is sitting
on top of a white chair"). What they do not understand makes no claim:

* A word names an object only if its class is named by `soa`, and if a word follows that may follow
  a noun phrase: the cat of "a cat cafe" is none.
* A count needs a number before the noun. It is dropped if the class is mentioned again, since the
  mentions may be of the same or of other objects.
* A colour stands directly before the noun, alone: "a red and white bus" has no colour.
* A relation joins the two nearest noun phrases. "Over" is none: a blanket may lie over a bed.
* A caption with a word such as "painting", "toy" or "without" makes no claim at all.

NumPy alone.
"""

import re
from collections import Counter
from typing import NamedTuple

from xmc_jax.metrics import soa
from xmc_jax.metrics.compose import COLOURS, Claim


class _Mention(NamedTuple):
    """A noun phrase that names a class: ``tokens[start:end]``, with its article and adjectives.

    `number` and `colour` are None if the phrase states none.
    """

    name: str
    start: int
    end: int
    number: int | None
    colour: str | None


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NUMBERS = {
    word: number
    for number, word in enumerate("one two three four five six seven eight nine ten".split(), 1)
}
_NUMBERS |= {str(number): number for number in _NUMBERS.values()}
_COLOURS = {colour: colour for colour in COLOURS} | {"grey": "gray"}
_SHADES = _words("light dark bright pale deep")
_ADJECTIVES = _words(
    "small large big little tiny huge giant tall short long young old adult baby new cute fluffy "
    "furry fat beautiful pretty different wild wooden metal plastic glass empty polar"
)
_DETERMINERS = _words("a an the this these his her their its")

# Captions with one of these words may show something else than the object that they name.
_NOT_REAL = _words(
    "0 zero no not without none nobody never missing painting paintings drawing drawings drawn "
    "cartoon cartoons statue statues sculpture sculptures figurine figurines toy toys stuffed "
    "plush fake lego inflatable origami poster posters logo mural graffiti costume costumes mirror "
    "mirrors reflection reflections reflected shaped themed"
)
_NOT_SHOWN_AFTER = _words("for like from inside as than")  # "food for a dog", "a hat like a cat".
_OTHERS = _words("another other others more crowd")  # Who else is there?
# People whose words are not among those of `soa`, which keep it from being certain how many.
_PEOPLE = _words(
    "player players surfer surfers skier skiers rider riders snowboarder snowboarders batter "
    "skateboarder skateboarders catcher umpire pitcher chef crowd couple group family baby babies "
    "toddler officer officers driver friend friends adult adults male female someone"
)
_NOT_BEFORE_NUMBERS = _words("number no or to than least most about around nearly almost over")
_LARGE_NUMBERS = _words("twenty thirty forty fifty sixty seventy eighty ninety hundred thousand")
# Classes whose number is not that of their boxes, and nouns for parts of an orange.
_UNCOUNTED = _words("skis scissors broccoli slices segments wedges halves peels trees")
_UNCOLOURED = {"person", "traffic light", "wine glass", "orange"}  # "A glass of red wine" is not.

# What may follow a noun phrase, apart from words in -ing; a "laptop computer" is a laptop.
_FOLLOWERS = _words(
    "in on at of with and or near by under over above below beneath underneath beside behind "
    "between around through across along inside outside into onto from to for off up down out "
    "against among next left right while as that which who is are was were has have sits sit "
    "stands stand lies lie lays lay flies fly rests rest looks look walks walk eats eat rides "
    "ride runs run holds hold hangs hang waits wait plays play grazes graze parked seated perched "
    "covered filled made placed displayed attached mounted topped surrounded decorated atop "
    "toward towards during but then where when together there computer computers"
)
_NOUNS_IN_ING = _words(
    "building painting drawing crossing clothing string wing ring king railing wedding icing "
    "topping frosting dressing pudding filling stuffing lighting evening morning ceiling awning "
    "bedding seating parking housing racing training carving covering swing spring thing"
)
_STATES = _words(
    "parked seated perched mounted hung placed located positioned sits sit stands stand lies lie "
    "lays lay rests rest hangs hang"
)
_ADVERBS = _words("directly just right immediately")
_RELATIONS = {
    "left of": ("left of", "to the left of", "on the left of", "on the left side of"),
    "right of": ("right of", "to the right of", "on the right of", "on the right side of"),
    "above": ("above", "on top of"),
    "below": ("below", "beneath", "underneath", "under"),
}


def parse_claims(caption: str) -> tuple[Claim, ...]:
    """The claims of a caption, without repetitions; none if the rules do not understand it."""
    # Hyphens and apostrophes join words of `soa`'s rules; other marks end a phrase.
    tokens = re.findall(r"[a-z]+|\d+|[^\s\w'’/-]", caption.lower())
    if not _NOT_REAL.isdisjoint(tokens):
        return ()
    nouns = _find_nouns(caption, tokens)
    times = Counter(name for name, *_ in nouns)
    is_gray = re.search("black and white (photo|picture|image)", " ".join(tokens))
    mentions = [_read_mention(tokens, *noun, nouns) for noun in nouns]
    mentions = [mention for mention in mentions if _is_shown(tokens, mention)]
    claims = []
    for mention in mentions:
        name, number = mention.name, mention.number
        claims.append(Claim("presence", name))
        if number and times[name] == 1 and _is_countable(tokens, mention):
            claims.append(Claim("count", name, number))
        if mention.colour and name not in _UNCOLOURED and not is_gray:
            claims.append(Claim("colour", name, number or 1, mention.colour))
    claims += _find_relations(tokens, mentions)
    return tuple(dict.fromkeys(claims))


def _find_nouns(caption: str, tokens: list[str]) -> list[tuple[str, int, int]]:
    """Class, start and end of each phrase for a class, the longest phrase at each place."""
    (row,) = soa.named_classes([caption])
    found, start = [], 0
    while start < len(tokens):
        for length in range(soa.MAX_WORDS, 0, -1):
            end = start + length
            phrase = " ".join(tokens[start:end])
            classes = [number for number in soa.WORDS.get(phrase, ()) if row[number]]
            if end <= len(tokens) and classes:
                found.append((soa.CLASSES[classes[0]], start, end))
                start = end - 1
                break
        start += 1
    return found


def _read_mention(
    tokens: list[str], name: str, start: int, end: int, nouns: list[tuple[str, int, int]]
) -> _Mention:
    """Reads what stands before a noun: adjectives, a colour, a number or an article."""
    *compound, _ = name.split()  # The words of `soa` have the "hydrant" of "fire hydrant" alone.
    if compound and tokens[max(start - len(compound), 0) : start] == compound:
        start -= len(compound)
    first = start
    while first and tokens[first - 1] in _ADJECTIVES | _SHADES | _COLOURS.keys():
        first -= 1
    colour = _COLOURS.get(tokens[start - 1]) if first < start else None
    colours = _COLOURS.keys() & set(tokens[first:start])
    joined = first > 1 and tokens[first - 1] in ("and", "or", ",", "&")
    if len(colours) > 1 or (joined and first - 1 not in {end for *_, end in nouns}):
        colour = None  # "A red and white bus", "a tan and white dog".
    number = _NUMBERS.get(tokens[first - 1]) if first else None
    if number:
        first -= 1
        before = tokens[max(first - 2, 0) : first]
        if before[-1:] in (["and"], ["."], [","]):  # "A hundred and two", "1.5".
            before.pop()
        elif before[-1:] and before[-1] in _NOT_BEFORE_NUMBERS:
            number = None
        if before and (before[-1].isdigit() or before[-1] in _LARGE_NUMBERS):
            number = None
    elif first and tokens[first - 1] in _DETERMINERS:
        first -= 1
    return _Mention(name, first, end, number, colour)


def _is_shown(tokens: list[str], mention: _Mention) -> bool:
    """Whether a noun phrase ends with its noun, and is no mere comparison or purpose."""
    follower = tokens[mention.end] if mention.end < len(tokens) else ","
    in_ing = follower.endswith("ing") and follower not in _NOUNS_IN_ING
    before = tokens[mention.start - 1] if mention.start else ""
    return (
        follower in _FOLLOWERS or in_ing or not follower.isalnum()
    ) and before not in _NOT_SHOWN_AFTER


def _is_countable(tokens: list[str], mention: _Mention) -> bool:
    if mention.name == "person" and not _PEOPLE.isdisjoint(tokens):
        return False
    nouns = {mention.name, tokens[mention.end - 1]}
    return _UNCOUNTED.isdisjoint(nouns) and _OTHERS.isdisjoint(tokens)


def _find_relations(tokens: list[str], mentions: list[_Mention]) -> list[Claim]:
    """Relations between mentions that only a verb and the words of a relation separate."""
    starts = {mention.start: mention for mention in mentions}
    found = []
    for mention in mentions:
        place = mention.end
        for options in (_words("that which who"), _words("is are"), _STATES, _ADVERBS):
            word = tokens[place] if place < len(tokens) else ""
            is_verb = options is _STATES and word.endswith("ing")
            # "Right of" is a relation, and the "right" of "right above" is not.
            is_relation = word == "right" and tokens[place + 1 : place + 2] == ["of"]
            if (word in options or is_verb) and not is_relation:
                place += 1
        for relation, phrases in _RELATIONS.items():
            for phrase in phrases:
                end = place + len(phrase.split())
                other = starts.get(end)
                if " ".join(tokens[place:end]) == phrase and other and other.name != mention.name:
                    claim = Claim("relation", mention.name, detail=relation, other=other.name)
                    found.append(claim)
    return found
