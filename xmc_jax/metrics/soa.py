"""Semantic object accuracy (Hinz et al. 2019): do images show the objects that captions name?

A caption names a class of COCO if it contains one of the class's words and none of its excluded
phrases, which contain a word and mean something else ("hot dog", "orange cat", "bus stop"); see
``soa_words.json``. A detector of COCO's classes finds objects in images. Classes that it finds and
no caption names do not count. NumPy alone.

The rules have the form of Hinz et al. 2019 (arXiv 1910.13321). They publish the captions that their
rules chose; the word lists here are our own, so numbers are close to theirs but not equal. Words
are singular unless only the plural means the object; plurals in -s and -es match too.
"""

import json
import re
from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from xmc_jax.metrics.intervals import resample_counts

# Words and excluded phrases of each class, in the order of COCO's categories and detector outputs.
RULES = json.loads(resources.files(__package__).joinpath("soa_words.json").read_text("utf-8"))
CLASSES = tuple(RULES)
_NUM_RESAMPLES = 1000


class Soa(NamedTuple):
    """Semantic object accuracy, 0..1, and the counts behind it.

    Attributes:
      by_class: SOA-C: the mean over the classes that captions name.
      by_image: SOA-I: the mean over pairs of an image and a class that its caption names.
      hits: Number of images whose caption names a class and in which the detector found it.
      counts: Number of images whose caption names a class.
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
    """SOA-C and SOA-I only, see `Soa`."""

    by_class: float
    by_image: float


def named_classes(captions: Sequence[str]) -> Bool[np.ndarray, "n classes"]:
    """Which of `CLASSES` each caption names."""
    table = np.zeros((len(captions), len(CLASSES)), bool)
    for row, caption in zip(table, captions, strict=True):
        phrases = _phrases(caption)
        for phrase in phrases & WORDS.keys():
            row[WORDS[phrase]] = True
        for phrase in phrases & _EXCLUDED.keys():
            row[_EXCLUDED[phrase]] = False
    return table


def class_scores(boxes: Float[np.ndarray, "n boxes 6"]) -> Float32[np.ndarray, "n classes"]:
    """For each class, the best score of the boxes of this class, or 0.

    Args:
      boxes: Class and score of each box, and four more numbers, see `frozen.detector`.
    """
    scores = np.zeros((len(boxes), len(CLASSES)), np.float32)
    images = np.arange(len(boxes))[:, None]
    np.maximum.at(scores, (images, boxes[..., 0].astype(int)), boxes[..., 1])
    return scores


def semantic_object_accuracy(
    named: Bool[np.ndarray, "n classes"], seen: Bool[np.ndarray, "n classes"]
) -> Soa:
    """How often the classes that captions name are found in their images.

    Args:
      named: Which classes each image's caption names; a ValueError if there are none.
      seen: Which classes the detector found in each image.
    """
    counts, hits = named.sum(axis=0), (named & seen).sum(axis=0)
    if not counts.any():
        raise ValueError("no caption names a class")
    return Soa(*_rates(hits, counts), hits, counts)


def bootstrap_interval(
    named: Bool[np.ndarray, "n classes"], seen: Bool[np.ndarray, "n classes"], *, seed: int
) -> tuple[Rates, Rates]:
    """Lower and upper bounds of 95 % intervals, by the bootstrap over images (percentiles).

    Images and errors as in `semantic_object_accuracy`.
    """
    counted = named.any(axis=1)  # Other images do not affect the accuracy.
    named, hit, count = named[counted], (named & seen)[counted], int(counted.sum())
    if not count:
        raise ValueError("no caption names a class")
    rng, resampled = np.random.default_rng(seed), []
    for _ in range(_NUM_RESAMPLES):
        times = resample_counts(rng, count)
        resampled.append(_rates(times @ hit, times @ named))
    low, high = np.percentile(resampled, [2.5, 97.5], axis=0).tolist()
    return Rates(*low), Rates(*high)


def _rates(hits: Int[np.ndarray, " classes"], counts: Int[np.ndarray, " classes"]) -> Rates:
    of_classes = hits[counts > 0] / counts[counts > 0]
    return Rates(float(of_classes.mean()), float(hits.sum() / counts.sum()))


def _index_rules(field: str) -> dict[str, list[int]]:
    """Maps each phrase in a field of the rules, singular and plural, to indices of classes."""
    index = {}
    for number, rule in enumerate(RULES.values()):
        for phrase in rule[field]:
            for ending in ("", "s", "es"):
                index.setdefault(phrase + ending, []).append(number)
    return index


# Indices of the classes that each phrase, singular or plural, names or excludes.
WORDS, _EXCLUDED = _index_rules("words"), _index_rules("excluded")
MAX_WORDS = max(len(phrase.split()) for phrase in WORDS | _EXCLUDED)


def _phrases(caption: str) -> set[str]:
    """All sequences of consecutive words of a caption, up to the longest phrase of the rules."""
    words = re.findall(r"[a-z]+", caption.lower())
    return {
        " ".join(words[start : start + length])
        for length in range(1, MAX_WORDS + 1)
        for start in range(len(words) - length + 1)
    }
