"""Semantic object accuracy (Hinz et al. 2019): are the objects that captions name in the pictures?

Captions that name a class are found by rules (`soa_words`), objects in pictures by a detector of
COCO's classes, which is the judge. Classes that a detector sees and no caption names do not count.
NumPy alone.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from xmc_jax.metrics.soa_words import RULES

CLASSES = tuple(RULES)


class Soa(NamedTuple):
    """ProcessShards of hits, 0..1, and what they are made of.

    Attributes:
      by_class: SOA-C: the mean over the classes that captions name.
      by_image: SOA-I: the mean over pairs of an image and a class that its caption names.
      hits: Images of each class in which it was seen.
      counts: Images of each class.
    """

    by_class: float
    by_image: float
    hits: Int[np.ndarray, " classes"]
    counts: Int[np.ndarray, " classes"]

    def tally(self) -> dict[str, list[int]]:
        """Hits and counts of the classes that captions name."""
        rows = zip(CLASSES, self.hits.tolist(), self.counts.tolist(), strict=True)
        return {name: [hits, count] for name, hits, count in rows if count}


class Rates(NamedTuple):
    """SOA-C and SOA-I alone, see `Soa`."""

    by_class: float
    by_image: float


def named_classes(captions: Sequence[str]) -> Bool[np.ndarray, "n classes"]:
    """Which of `CLASSES` each caption names."""
    table = np.zeros((len(captions), len(CLASSES)), bool)
    for row, caption in zip(table, captions, strict=True):
        phrases = _phrases(caption) & _PHRASES.keys()
        for phrase in phrases:
            row[_PHRASES[phrase].named] = True
        for phrase in phrases:
            row[_PHRASES[phrase].excluded] = False
    return table


def semantic_object_accuracy(
    named: Bool[np.ndarray, "n classes"], seen: Bool[np.ndarray, "n classes"]
) -> Soa:
    """How often what captions name is seen in their images.

    Args:
      named: Which classes each image's caption names.
      seen: Which classes the detector found in each image.

    Raises:
      ValueError: no caption names a class.
    """
    counts, hits = named.sum(axis=0), (named & seen).sum(axis=0)
    if not counts.any():
        raise ValueError("no caption names a class")
    rates = hits[counts > 0] / counts[counts > 0]
    return Soa(float(rates.mean()), float(hits.sum() / counts.sum()), hits, counts)


def bootstrap_interval(
    named: Bool[np.ndarray, "n classes"],
    seen: Bool[np.ndarray, "n classes"],
    *,
    seed: int,
    num_draws: int = 1000,
) -> tuple[Rates, Rates]:
    """Ends of 95 % intervals: percentiles over sets of as many images, drawn with replacement.

    Args:
      named: See `semantic_object_accuracy`.
      seen: See `semantic_object_accuracy`.
      seed: Of the draws.
      num_draws: How many sets.

    Raises:
      ValueError: no caption names a class.
    """
    asked = named.any(axis=1)  # Others are in no share; a set without any would have none.
    named, hit, count = named[asked], (named & seen)[asked], int(asked.sum())
    if not count:
        raise ValueError("no caption names a class")
    rng, draws = np.random.default_rng(seed), []
    for _ in range(num_draws):
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        hits, counts = times @ hit, times @ named
        rates = hits[counts > 0] / counts[counts > 0]
        draws.append((rates.mean(), hits.sum() / counts.sum()))
    low, high = np.percentile(draws, [2.5, 97.5], axis=0).tolist()
    return Rates(*low), Rates(*high)


class _Classes(NamedTuple):
    """Indices of classes that a phrase names, and of those that it excludes."""

    named: list[int]
    excluded: list[int]


def _index_rules() -> dict[str, _Classes]:
    """Every phrase of the rules, singular and plural, to its classes."""
    index = {}
    for number, rule in enumerate(RULES.values()):
        for phrases, field in ((rule.words, "named"), (rule.excluded, "excluded")):
            for phrase in filter(None, phrases.split(", ")):
                for form in (phrase, f"{phrase}s", f"{phrase}es"):
                    getattr(index.setdefault(form, _Classes([], [])), field).append(number)
    return index


_PHRASES = _index_rules()
_MAX_WORDS = max(len(phrase.split()) for phrase in _PHRASES)


def _phrases(caption: str) -> set[str]:
    """All runs of words of a caption that are short enough for the rules."""
    words = re.findall(r"[a-z]+", caption.lower())
    return {
        " ".join(words[start : start + length])
        for length in range(1, _MAX_WORDS + 1)
        for start in range(len(words) - length + 1)
    }
