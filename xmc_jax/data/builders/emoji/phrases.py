"""Captions of emoji: their names in natural words, by rules and the lists of ``phrases.json``."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from importlib import resources

from xmc_jax.data.builders.emoji.packages import Emoji

# "names": phrases of whole names. "inner": patterns of words in a name, and what they become.
# "signs": names that lack the word "sign". "stuff": nouns without article. "the": words of places
# with an article.
_LISTS = json.loads(resources.files(__package__).joinpath("phrases.json").read_text("utf-8"))
_NUM_TAGS = 2
# Keywords that say nothing, of flags, or something false: a "person walking" has "man".
_BAD_TAG = re.compile("[A-Z]{2}|(?:fe)?male|(?:wo)?m[ae]n|guy|boy|girl|lady")
_TONE = " skin tone"
_PLURALS = {
    "man": "men",
    "woman": "women",
    "person": "people",
    "boy": "boys",
    "girl": "girls",
    "adult": "adults",
    "child": "children",
}
_NUMBERS = {2: "two", 3: "three", 4: "four"}
_AN = re.compile(r"(?!ewe|euro|one-|uni)[aeiou]|(?:ATM|END|ID|NG|OK|ON|SOS)\b|x-")
# Where the noun of a name ends.
_AFTER_NOUN = re.compile(
    r" (?:with|without|of|on|in|and|behind|showing|at|over|for|under|from|to|by|the|\w+ing|\w+ed)\b"
)
_NOT_PLURAL = re.compile(r"(?:ss|us|is|as|os|ics|lens|series|species|tennis)$")
# A person, or a part of one, of whom something else is said after it.
_SOMEBODY = re.compile(
    r"(an? (?:index )?(?:person|man|woman|hand|ear|finger|jockey)|two (?:people|men|women)"
    r"|a woman and a man) (with|in|mountain|[\w-]+ing)\b"
)


def make_captions(emoji: Emoji, locale: str) -> list[str]:
    """The captions of an emoji; deterministic.

    In English its phrase, that with its group, and that with two keywords; in other locales its
    label, and that with two keywords. Captions with keywords are left out if it has none.
    """
    is_english = locale.startswith("en")
    phrase = describe(emoji.label) if is_english else emoji.label
    tags = _choose_tags(emoji, phrase)
    with_tags = [", ".join([phrase, *tags])] if tags else []
    with_group = [f"{emoji.group.replace('&', 'and')}: {phrase}"] if is_english else []
    return [phrase, *with_group, *with_tags]


def _choose_tags(emoji: Emoji, phrase: str) -> list[str]:
    """Two keywords that say more than the phrase; those with the smallest hashes."""
    known = _stems(phrase)
    new = [x for x in emoji.tags if not _stems(x) <= known and not _BAD_TAG.fullmatch(x)]
    ranks = {x: hashlib.sha256(f"{emoji.label}{x}".encode()).digest() for x in new}
    return sorted(ranks, key=ranks.get)[:_NUM_TAGS]


def _stems(text: str) -> set[str]:
    """The first four letters of each word."""
    return set(re.findall(r"\b\w{1,4}", text.lower()))


def describe(label: str) -> str:
    """An English label in natural words, as ``"a woman firefighter with dark skin"``."""
    label = re.sub("[“”]", '"', label.replace("’", "'")).replace("&", "and")
    head, _, rest = label.partition(": ")
    details = rest.split(", ") if rest else []
    tones = [x.removesuffix(_TONE) for x in details if x.endswith(_TONE)]
    others = [x for x in details if not x.endswith(_TONE)]
    skin = f"{' and '.join(tones)} skin" if tones else ""
    return _add_skin(_describe_plain(head, others), skin)


def _describe_plain(head: str, details: Sequence[str]) -> str:
    """A label without skin tone, from the words before and after its colon."""
    if head == "flag":
        place = re.sub(r" \(.*\)| SAR China", "", ", ".join(details)).replace(" - ", "-")
        article = "the " if set(place.split()) & set(_LISTS["the"]) else ""
        return f"the flag of {article}{place}"
    if head == "keycap":
        signs = {"#": "the hash sign", "*": "an asterisk"}
        return f"a key with {signs.get(details[0], f'the number {details[0]}')}"
    if head == "family" and details:
        return f"a family of {_count(details)}"
    if head in ("kiss", "couple with heart"):
        people = _count(details or ["person", "person"])
        return f"{people} {'kissing' if head == 'kiss' else 'with a heart between them'}"
    name = ", ".join([head, *details])
    if name in _LISTS["names"]:
        return _LISTS["names"][name]
    if name in _LISTS["signs"]:
        return _add_article(f"{name} sign")
    if match := re.fullmatch(r"(\w+)(?: o'clock|-(thirty))", head):
        return f"a clock at {f'half past {match[1]}' if match[2] else head}"
    for words, replacement in _LISTS["inner"].items():
        head = re.sub(rf"\b{words}(?![\w-])", replacement, head)
    for detail in details:
        if detail == "bald":
            head = f"bald {head}"
        else:
            joint = ", " if detail == "facing right" else " with "
            head += joint + ("a " if detail == "beard" else "") + detail
    return _add_article(head)


def _count(people: Sequence[str]) -> str:
    """Persons in words: "a man, a woman and two girls"."""
    words = [
        f"{_NUMBERS[n]} {_PLURALS[who]}" if n > 1 else _add_article(who)
        for who, n in Counter(people).items()
    ]
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _add_article(name: str) -> str:
    noun = _AFTER_NOUN.split(name)[0].split()[-1]
    is_plural = noun.endswith("s") and not _NOT_PLURAL.search(noun)
    if is_plural or noun in _LISTS["stuff"] or name.startswith("two "):
        return name
    return f"{'an' if _AN.match(name) else 'a'} {name}"


def _add_skin(phrase: str, skin: str) -> str:
    """Puts the skin behind the person: "a man with dark skin running"."""
    if not skin:
        return phrase
    if match := _SOMEBODY.match(phrase):
        before, word = match.groups()
        word = "and" if word == "with" else word
        return f"{before} with {skin} {word}{phrase[match.end() :]}"
    return f"{phrase} with {skin}"
